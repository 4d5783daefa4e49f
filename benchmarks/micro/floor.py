"""An enqueue beside its floor: what the same call costs whoever does nothing but make it.

    python benchmarks/micro/floor.py --url URL [--jobs 2000] [--rounds 5] [--one-core]

The floors make ids and envelopes, write the words of the same script to a socket and read the
reply: on uvloop by a protocol of a few lines, and blocking; no check, deadline, repeat or handle.
All take turns. Prints medians of the rounds, µs a job: by the clock, of this process, and of Redis.
With --one-core both are pinned to one core.
"""

import argparse
import asyncio
import itertools
import os
import resource
import socket
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from urllib.parse import urlsplit

import hiredis
import redis.asyncio
import uvloop

from qcore import App
from qcore.broker.identity import new_id, new_owner
from qcore.broker.redis import scripts
from qcore.broker.redis.keys import queue_keys
from qcore.model.codec import encode
from qcore.model.job import Envelope
from qcore.task import AsyncTask

BARE = "return redis.call('ZADD', KEYS[1], 0, ARGV[1])"


class Asker(asyncio.Protocol):
    """One request at a time, without a deadline or a check."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.reader = hiredis.Reader()

    def data_received(self, data: bytes) -> None:
        self.reader.feed(data)
        if (reply := self.reader.gets()) is not False:
            self.reply.set_result(reply)

    async def ask(self, *words: object) -> object:
        self.reply = asyncio.get_running_loop().create_future()
        self.transport.write(hiredis.pack_command(words))
        return await self.reply


class Blocking:
    """The same for a caller that blocks."""

    def __init__(self, host: str, port: int) -> None:
        self.socket = socket.create_connection((host, port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.reader = hiredis.Reader()

    def ask(self, *words: object) -> object:
        self.socket.sendall(hiredis.pack_command(words))
        while (reply := self.reader.gets()) is False:
            self.reader.feed(self.socket.recv(65536))
        return reply


class Costs:
    """What calls cost: by the clock, of this process, and of Redis."""

    def __init__(self, server: redis.Redis) -> None:
        self._pid = server.info("server")["process_id"]
        self.rows: dict[str, list[tuple[float, float, float]]] = {}

    def _of_redis(self) -> float:
        fields = Path(f"/proc/{self._pid}/schedstat").read_text().split()
        return int(fields[0]) / 1e9

    def begin(self) -> tuple[float, float, float]:
        usage = resource.getrusage(resource.RUSAGE_SELF)
        return time.perf_counter(), usage.ru_utime + usage.ru_stime, self._of_redis()

    def end(self, name: str, began: tuple[float, float, float], jobs: int) -> None:
        spent = [(b - a) / jobs * 1e6 for a, b in zip(began, self.begin(), strict=True)]
        self.rows.setdefault(name, []).append((spent[0], spent[1], spent[2]))


#: Makes the words of a call that enqueues one job for each number.
Words = Callable[[Sequence[int]], tuple[object, ...]]


def words_of(keys: list[bytes]) -> Words:
    """Return the words of a new producer."""
    calls, nonce = itertools.count(1), new_owner()

    def words(numbers: Sequence[int]) -> tuple[object, ...]:
        items: list[object] = []
        for n in numbers:
            items += (new_id(), "", encode(Envelope(1, "note", encode({"n": n}), -1, -1)))
        sha = scripts.ENQUEUE.sha
        return b"EVALSHA", sha, len(keys), *keys, b"", nonce, next(calls), *items

    return words


#: What awaits a call for each of some numbers, and how many numbers it takes.
Case = tuple[int, Callable[[Sequence[int]], Awaitable[object]]]


def floors(asker: Asker, client: redis.asyncio.Redis, words: Words, bare: str) -> dict[str, Case]:
    """Return the cases that are not qcore's."""

    async def tasks(numbers: Sequence[int]) -> None:
        loop = asyncio.get_running_loop()
        futures = [loop.create_future() for _ in numbers]

        async def wait(future: asyncio.Future[None]) -> None:
            await future

        waiting = asyncio.gather(*map(wait, futures))
        await asker.ask(*words(numbers))
        for future in futures:
            future.set_result(None)
        await waiting

    return {
        "PING": (1, lambda _: asker.ask(b"PING")),
        "a script of one command": (1, lambda n: asker.ask(b"EVALSHA", bare, 1, b"bare", n[0])),
        "the same by redis-py": (1, lambda n: client.evalsha(bare, 1, b"bare", n[0])),
        "enqueue.lua": (1, lambda n: asker.ask(*words(n))),
        "enqueue.lua, 100 jobs": (100, lambda n: asker.ask(*words(n))),
        "the same, 100 tasks wait": (100, tasks),
        "enqueue.lua, 500 jobs": (500, lambda n: asker.ask(*words(n))),
    }


def ways(note: AsyncTask[[int], None]) -> dict[str, Case]:
    """Return qcore's cases."""

    async def at_once(numbers: Sequence[int]) -> None:
        await asyncio.gather(*map(note.enqueue, numbers))

    async def in_bulk(numbers: Sequence[int]) -> None:
        await note.enqueue_many([(n,) for n in numbers])

    return {
        "enqueue": (1, lambda n: note.enqueue(n[0])),
        "enqueue, 100 at once": (100, at_once),
        "enqueue_many, 500 jobs": (500, in_bulk),
    }


async def rounds(url: str, jobs: int, count: int, *, one_core: bool) -> Costs:
    server, blocking_client = redis.Redis.from_url(url), redis.Redis.from_url(url)
    costs = Costs(server)
    if one_core:
        os.sched_setaffinity(0, {0})
        os.sched_setaffinity(server.info("server")["process_id"], {0})
    bare = server.script_load(BARE)
    server.script_load(scripts.ENQUEUE.source)
    app = App(url, namespace=f"bench-{new_owner()}")

    @app.task
    async def note(n: int) -> None: ...

    keys = queue_keys(f"bench-{new_owner()}", "default").pick(scripts.ENQUEUE.keys)
    address = urlsplit(url)
    where = address.hostname or "127.0.0.1", address.port or 6379
    _, asker = await asyncio.get_running_loop().create_connection(Asker, *where)
    words, blocking, blocking_words = words_of(keys), Blocking(*where), words_of(keys)
    waits = floors(asker, redis.asyncio.Redis.from_url(url), words, bare) | ways(note)
    blocks: dict[str, Callable[[int], object]] = {
        "redis-py, blocking": lambda n: blocking_client.evalsha(bare, 1, b"bare", n),
        "enqueue.lua, blocking": lambda n: blocking.ask(*blocking_words([n])),
        "enqueue_sync": note.enqueue_sync,
    }
    async with app:
        for _ in range(count):
            for name, (size, ask) in waits.items():
                await ask(range(size))
                began, calls = costs.begin(), -(-jobs // size)
                for _ in range(calls):
                    await ask(range(size))
                costs.end(name, began, calls * size)
            await asyncio.to_thread(block, blocks, costs, jobs)
    return costs


def block(blocks: dict[str, Callable[[int], object]], costs: Costs, jobs: int) -> None:
    for name, ask in blocks.items():
        ask(0)
        began = costs.begin()
        for n in range(jobs):
            ask(n)
        costs.end(name, began, jobs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--url", required=True)
    parser.add_argument("--jobs", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--one-core", action="store_true")
    args = parser.parse_args()
    costs = uvloop.run(rounds(args.url, args.jobs, args.rounds, one_core=args.one_core))
    print(f"{'us a job':28}{'wall':>8}{'client':>8}{'redis':>8}")
    for name, rows in costs.rows.items():
        wall, client, server = (statistics.median(column) for column in zip(*rows, strict=True))
        print(f"{name:28}{wall:8.1f}{client:8.1f}{server:8.1f}")


if __name__ == "__main__":
    main()
