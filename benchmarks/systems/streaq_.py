"""streaQ, started by its Python API."""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

from streaq import Worker

from benchmarks import workloads
from benchmarks.harness.driver import URL, System, gate, main

GUARANTEE = "at least once: a stream with its group, renewed; entries idle for 60 s run again"
SETTINGS = "ttl=0 (nothing kept), silent, prefetch=2000, uvloop"
DEPTH = "XLEN streaq:bench:queues:normal"
BULK = True


@asynccontextmanager
async def behind_the_gate() -> AsyncIterator[None]:
    gate()
    yield


def make(concurrency: int) -> Worker[None]:
    """Return a worker with an id of its own: not before the fork."""
    worker = Worker(
        redis_url=URL,
        concurrency=concurrency,
        queue_name="bench",
        prefetch=2000,
        lifespan=behind_the_gate,
        anyio_kwargs={"use_uvloop": True},
    )
    worker.task(name="job", ttl=0, silent=True)(workloads.chosen())
    return worker


producer = make(100)
job: Any = producer.registry["job"]


def opened() -> AbstractAsyncContextManager[Any]:
    return producer


async def one(n: int) -> None:
    await job.enqueue(n)


async def bulk(numbers: range) -> None:
    await producer.enqueue_many([job.enqueue(n) for n in numbers])


def work(concurrency: int, processes: int) -> None:
    make(concurrency).run_sync()


if __name__ == "__main__":
    main(System(one, work, bulk, opened))
