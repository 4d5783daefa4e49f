"""The limit that a worker is held against: a bare loop on qcore's own scripts, and nothing else.

    python benchmarks/micro/limit.py --url redis://127.0.0.1:6379/0 [--jobs 200000]
        [--concurrency 100] [--processes 1] [--claim 50]

One connection, one call in flight: settle what has ended, claim what is free, in one write and one
read; decode the envelope; one asyncio task per job; no prefetch, no timeouts, no retries, no
renewals, no errors, no stop. Prints one JSON object. Every job is counted.
"""

import argparse
import asyncio
import json
import multiprocessing
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import hiredis
import uvloop
from redis.asyncio import ConnectionPool

from qcore import App
from qcore.broker.identity import new_owner
from qcore.broker.redis import scripts
from qcore.broker.redis.keys import queue_keys
from qcore.model.codec import decode_envelope

Tasks = dict[str, Callable[[], Coroutine[Any, Any, None]]]

LEASE_MS, MAX_BYTES, PROMOTE = 30_000, 1_000_000, 200


class Loop:
    """One process of the bare loop."""

    def __init__(self, url: str, namespace: str, concurrency: int, claim: int) -> None:
        self._connection = ConnectionPool.from_url(url, protocol=2).make_connection()
        keys = queue_keys(namespace, "default")
        self._claim = [scripts.CLAIM.sha, len(scripts.CLAIM.keys), *keys.pick(scripts.CLAIM.keys)]
        self._ack = [
            scripts.ACK.sha,
            len(scripts.ACK.keys),
            *keys.pick(scripts.ACK.keys),
        ]
        self._free = concurrency
        self._max = claim
        self._owner = new_owner()
        self._ended: list[bytes] = []
        self._turn = asyncio.Event()
        self._tasks: dict[bytes, asyncio.Task[None]] = {}
        self.done = 0

    async def run(self, tasks: Tasks) -> None:
        await self._connection.connect()
        for script in (scripts.CLAIM, scripts.ACK):
            await self._connection.send_command("SCRIPT", "LOAD", script.source)
            await self._connection.read_response()
        loop, sequence = asyncio.get_running_loop(), 0
        while True:
            sequence += 1
            prefix = f"{self._owner}:{sequence}:".encode()
            brought = await self._take(prefix, min(self._free, self._max))
            for id, payload in brought:
                token = prefix + id
                self._free -= 1
                self._tasks[token] = loop.create_task(self._execute(token, payload, tasks))
            if not brought and not self._ended and not self._tasks:
                return
            if not self._ended and not (self._free and brought):
                self._turn.clear()
                await self._turn.wait()

    async def _take(self, prefix: bytes, most: int) -> list[tuple[bytes, bytes]]:
        ended, self._ended = self._ended, []
        out = b""
        if ended:
            out = hiredis.pack_command((b"EVALSHA", *self._ack, *ended))
        words = (b"", most, LEASE_MS, prefix, MAX_BYTES, PROMOTE, 0, most)
        out += hiredis.pack_command((b"EVALSHA", *self._claim, *words))
        await self._connection.send_packed_command([out], check_health=False)
        if ended:
            assert await self._connection.read_response() == []
        reply = await self._connection.read_response()
        return [pair for row in reply[3:] for pair in zip(row[2], row[3], strict=True)]

    async def _execute(
        self,
        token: bytes,
        payload: bytes,
        tasks: Tasks,
    ) -> None:
        envelope = decode_envelope(payload[8:])
        await tasks[envelope.task]()
        del self._tasks[token]
        self._ended.append(token)
        self.done += 1
        self._free += 1
        self._turn.set()


async def noop() -> None:
    return


def meet(barrier: Any) -> None:
    """Keep the gate at which the processes of a run meet."""
    global gate
    gate = barrier


def work(url: str, namespace: str, concurrency: int, claim: int) -> tuple[float, float, float, int]:
    """Run one process; return when it began and ended, its CPU seconds and its jobs."""

    async def main() -> tuple[float, float, float, int]:
        loop = Loop(url, namespace, concurrency, claim)
        gate.wait(30)
        begin, cpu = time.time(), time.process_time()
        await loop.run({"noop": noop})
        return begin, time.time(), time.process_time() - cpu, loop.done

    return uvloop.run(main())


async def fill(url: str, namespace: str, jobs: int) -> None:
    app = App(url, namespace=namespace)
    task = app.task(name="noop")(noop)
    async with app:
        await task.enqueue_many(() for _ in range(jobs))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", required=True)
    parser.add_argument("--jobs", type=int, default=200_000)
    parser.add_argument("--concurrency", type=int, default=100)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--claim", type=int)
    given = parser.parse_args()
    namespace = f"limit-{new_owner()}"
    uvloop.run(fill(given.url, namespace, given.jobs))
    spawn = multiprocessing.get_context("spawn")
    words = given.url, namespace, given.concurrency, given.claim or given.concurrency
    with ProcessPoolExecutor(
        given.processes, spawn, initializer=meet, initargs=(spawn.Barrier(given.processes),)
    ) as pool:
        ran = [pool.submit(work, *words) for _ in range(given.processes)]
        begins, ends, cpus, counts = zip(*(run.result() for run in ran), strict=True)
    span_s, done = max(ends) - min(begins), sum(counts)
    assert done == given.jobs, f"{done} of {given.jobs} jobs ran"
    row = {
        "jobs": given.jobs,
        "concurrency": given.concurrency,
        "processes": given.processes,
        "drain_per_s": round(done / span_s),
        "python_us_per_job": round(sum(cpus) / done * 1e6, 2),
    }
    print(json.dumps(row))


if __name__ == "__main__":
    main()
