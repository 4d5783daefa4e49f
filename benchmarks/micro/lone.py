"""A lone enqueue beside its floor: what the same call costs whoever does nothing but make it.

    python benchmarks/micro/lone.py --url URL [--calls 2000] [--rounds 5] [--one-core]

The floors write packed bytes to a socket and read the reply: on uvloop by a protocol of a few
lines, and blocking. The client's ways take turns. Prints a line for each, medians of the rounds: µs
a call by the clock, of this process, and of Redis. With --one-core both are pinned to one core.
"""

import argparse
import asyncio
import itertools
import os
import resource
import socket
import statistics
import time
from collections.abc import Awaitable, Callable
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

BARE = "return redis.call('ZADD', KEYS[1], 0, ARGV[1])"


class Asker(asyncio.Protocol):
    """One request at a time, without a deadline or a check."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.reader = hiredis.Reader()

    def data_received(self, data: bytes) -> None:
        self.reader.feed(data)
        self.reply.set_result(self.reader.gets())

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
        self.reader.feed(self.socket.recv(65536))
        return self.reader.gets()


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

    def end(self, name: str, began: tuple[float, float, float], calls: int) -> None:
        spent = [(b - a) / calls * 1e6 for a, b in zip(began, self.begin(), strict=True)]
        self.rows.setdefault(name, []).append((spent[0], spent[1], spent[2]))


def words_of(nonce: str, keys: list[bytes]) -> Callable[[int], tuple[object, ...]]:
    """Return what makes the words of an enqueue; only id, call and argument change."""

    def words(call: int) -> tuple[object, ...]:
        envelope = encode(Envelope(1, "note", encode({"n": call}), -1, -1))
        id = new_id()
        return b"EVALSHA", sha, len(keys), *keys, b"", nonce, call, id, "", envelope

    sha = scripts.ENQUEUE.sha
    return words


async def rounds(url: str, calls: int, count: int, *, one_core: bool) -> Costs:
    server = redis.Redis.from_url(url)
    costs = Costs(server)
    if one_core:
        os.sched_setaffinity(0, {0})
        os.sched_setaffinity(server.info("server")["process_id"], {0})
    bare = server.script_load(BARE)
    server.script_load(scripts.ENQUEUE.source)
    address = urlsplit(url)
    where = address.hostname or "127.0.0.1", address.port or 6379
    app = App(url, namespace=f"bench-{new_owner()}")

    @app.task
    async def note(n: int) -> None: ...

    keys = queue_keys(f"bench-{new_owner()}", "default").pick(scripts.ENQUEUE.keys)
    _, asker = await asyncio.get_running_loop().create_connection(Asker, *where)
    blocking = Blocking(*where)
    numbers = itertools.count(1)
    words, blocking_words = words_of(new_owner(), keys), words_of(new_owner(), keys)

    client, blocking_client = redis.asyncio.Redis.from_url(url), redis.Redis.from_url(url)
    waits: dict[str, Callable[[int], Awaitable[object]]] = {
        "PING": lambda n: asker.ask(b"PING"),
        "a script of one command": lambda n: asker.ask(b"EVALSHA", bare, 1, keys[0] + b":b", n),
        "the same by redis-py": lambda n: client.evalsha(bare, 1, keys[0] + b":b", n),
        "enqueue.lua": lambda n: asker.ask(*words(n)),
        "enqueue": note.enqueue,
    }
    blocks: dict[str, Callable[[int], object]] = {
        "redis-py, blocking": lambda n: blocking_client.evalsha(bare, 1, keys[0] + b":b", n),
        "enqueue.lua, blocking": lambda n: blocking.ask(*blocking_words(n)),
        "enqueue_sync": note.enqueue_sync,
    }
    async with app:
        for _ in range(count):
            for name, ask in waits.items():
                await ask(next(numbers))
                began = costs.begin()
                for _ in range(calls):
                    await ask(next(numbers))
                costs.end(name, began, calls)
            await asyncio.to_thread(block, blocks, costs, calls, numbers)
    return costs


def block(
    blocks: dict[str, Callable[[int], object]], costs: Costs, calls: int, numbers: itertools.count
) -> None:
    for name, ask in blocks.items():
        ask(next(numbers))
        began = costs.begin()
        for _ in range(calls):
            ask(next(numbers))
        costs.end(name, began, calls)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--url", required=True)
    parser.add_argument("--calls", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--one-core", action="store_true")
    args = parser.parse_args()
    costs = uvloop.run(rounds(args.url, args.calls, args.rounds, one_core=args.one_core))
    print(f"{'us a call':28}{'wall':>8}{'client':>8}{'redis':>8}")
    for name, rows in costs.rows.items():
        wall, client, server = (statistics.median(column) for column in zip(*rows, strict=True))
        print(f"{name:28}{wall:8.1f}{client:8.1f}{server:8.1f}")


if __name__ == "__main__":
    main()
