"""SAQ, started by its Python API."""

from typing import Any

import uvloop
from saq import Job, Queue, Worker

from benchmarks import workloads
from benchmarks.harness.driver import URL, System, gate, main

GUARANTEE = "at least once: a sweep each 60 s requeues stuck jobs, with retries=3; the default is 1"
SETTINGS = "ttl=-1 (nothing kept), max_concurrent_ops=200, retries=3, uvloop"
DEPTH = "LLEN saq:bench:queued"
BULK = False

queue = Queue.from_url(URL, name="bench", max_concurrent_ops=200)
function = workloads.chosen()


async def job(ctx: dict[str, Any], *, n: int) -> None:
    await function(n)


async def behind_the_gate(ctx: dict[str, Any]) -> None:
    gate()


async def one(n: int) -> None:
    await queue.enqueue(Job("job", {"n": n}, retries=3, ttl=-1))


def work(concurrency: int, processes: int) -> None:
    worker = Worker(queue, [("job", job)], concurrency=concurrency, startup=behind_the_gate)
    uvloop.run(worker.start())


if __name__ == "__main__":
    main(System(one, work))
