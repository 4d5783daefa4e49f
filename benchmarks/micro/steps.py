"""What the single steps of a job cost: Python's in this process, Redis' by its own account.

    python benchmarks/micro/steps.py --url redis://127.0.0.1:6379/0 [--rounds 5]

Prints one JSON object per step: the median and the least of the rounds, in µs per job. The steps of
Redis are the time that it says its scripts took (INFO commandstats), at 1, 10 and 100 jobs a call.
"""

import argparse
import asyncio
import json
import logging
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

import uvloop

from qcore import App
from qcore.broker.contract import ClaimRequest
from qcore.broker.identity import new_id, new_owner
from qcore.broker.redis.broker import Broker
from qcore.context import Lifecycle
from qcore.model.codec import decode_envelope, encode
from qcore.model.job import Acked, Envelope, Job, Lease
from qcore.runtime.worker.execution import Executor
from qcore.runtime.worker.process_pool import ProcessPool
from qcore.runtime.worker.running_job import Running
from qcore.runtime.worker.threads import Threads
from qcore.settings import BrokerConfig
from qcore_cli.logs import LogFormat, configure_logging

COUNT = 10_000
OWNER = "00000000000000aa"


async def noop() -> None:
    return


def python_us(act: Callable[[], object], count: int = COUNT) -> float:
    """Return the CPU time of one of `count` calls, in µs."""
    begin = time.process_time()
    for _ in range(count):
        act()
    return (time.process_time() - begin) / count * 1e6


def codec(app: App) -> Iterator[tuple[str, float]]:
    task = app.tasks["noop"]
    job = task._maker.job((), {})
    yield "codec: a job from its arguments", python_us(lambda: task._maker.job((), {}))
    yield "codec: decode an envelope", python_us(lambda: decode_envelope(job.envelope))
    args = decode_envelope(job.envelope).args
    yield "codec: decode the arguments", python_us(lambda: task.arguments.decode(args))


async def execution(app: App) -> AsyncIterator[tuple[str, float]]:
    executor = Executor(
        app.tasks,
        Lifecycle(),
        threads=Threads(1, freed=lambda: None),
        pool=ProcessPool(1, app.config),
        write_record=lambda lease, state: asyncio.sleep(0, result=True),
        result_limit_bytes=1000,
    )
    job = app.tasks["noop"]._maker.job((), {})
    lease = Lease(f"{OWNER}:1:{job.id}".encode(), "default", job.id, job.envelope, None, 0, 1, 2)
    begin = time.process_time()
    for _ in range(COUNT):
        assert await executor.execute(Running(lease, 0.0, 30.0)) == Acked()
    yield "execution: lease to outcome", (time.process_time() - begin) / COUNT * 1e6


async def coalescer(app: App) -> AsyncIterator[tuple[str, float]]:
    task = app.tasks["noop"]

    async def producer() -> None:
        for _ in range(COUNT // 100):
            await task.enqueue()

    begin = time.process_time()
    await asyncio.gather(*(producer() for _ in range(100)))
    yield "coalescer: one of 100 enqueues at once", (time.process_time() - begin) / COUNT * 1e6


async def scripts_us(broker: Broker, act: Callable[[], Awaitable[None]]) -> float:
    """Return how long Redis says the scripts took that `act` ran, in µs."""

    async def spent() -> int:
        (stats,) = await broker._ask([(b"INFO", b"commandstats")])
        lines = dict(line.split(":", 1) for line in stats.decode().splitlines() if ":" in line)
        rows = [
            lines[f"cmdstat_{name}"] for name in ("eval", "evalsha") if f"cmdstat_{name}" in lines
        ]
        return sum(int(row.split("usec=")[1].split(",")[0]) for row in rows)

    before = await spent()
    await act()
    return await spent() - before


async def scripts(url: str) -> AsyncIterator[tuple[str, float]]:
    for batch in (1, 10, 100):
        broker = Broker(BrokerConfig(url=url, namespace=f"steps-{new_owner()}"))
        calls = min(1000, COUNT // batch)
        moves = Moves(broker, batch, calls)
        for name, move in (
            ("enqueue", moves.put),
            ("claim", moves.claim),
            ("settle", moves.settle),
            ("enqueue again", moves.put),
            ("settle and claim in turn", moves.take_turns),
        ):
            spent_us = await scripts_us(broker, move)
            yield f"redis: {name}, {batch} a call", spent_us / (calls * batch)
        await broker.close()


class Moves:
    """So many calls, of so many jobs each."""

    def __init__(self, broker: Broker, batch: int, calls: int) -> None:
        self._broker, self._batch, self._calls = broker, batch, calls
        self._leases: list[list[Lease]] = []
        self._claims = 0

    async def put(self) -> None:
        envelope = encode(Envelope(1, "noop", encode({}), -1, -1))
        for _ in range(self._calls):
            jobs = [Job(new_id(), "default", envelope) for _ in range(self._batch)]
            await self._broker.enqueue(jobs)

    async def _turn(self, ended: list[Lease], *, claims: bool = True) -> list[Lease]:
        self._claims += 1
        prefix = f"{OWNER}:{self._claims}:"
        asked = ClaimRequest(["default"], self._batch, 60_000, prefix) if claims else None
        turn = await self._broker.turn([(lease, Acked()) for lease in ended], asked)
        assert not turn.lost
        return turn.leases

    async def claim(self) -> None:
        self._leases = [await self._turn([]) for _ in range(self._calls)]

    async def settle(self) -> None:
        for held in self._leases:
            await self._turn(held, claims=False)

    async def take_turns(self) -> None:
        held = await self._turn([])
        while held:
            held = await self._turn(held)


async def measure(url: str) -> list[tuple[str, float]]:
    app = App(url, namespace=f"steps-{new_owner()}")
    app.task(name="noop")(noop)
    rows = list(codec(app))
    async with app:
        for steps in (execution, coalescer):
            rows += [row async for row in steps(app)]
    return rows + [row async for row in scripts(url)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", required=True)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    configure_logging(LogFormat.CONSOLE, logging.WARNING)
    rounds = [uvloop.run(measure(given.url)) for _ in range(given.rounds)]
    for steps in zip(*rounds, strict=True):
        name, values = steps[0][0], [value for _, value in steps]
        row = {
            "step": name,
            "us": round(statistics.median(values), 2),
            "least": round(min(values), 2),
        }
        print(json.dumps(row))


if __name__ == "__main__":
    main()
