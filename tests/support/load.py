"""Producers that keep a fleet busy while something is done to it."""

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from tests.support.fleet import Fleet, Producer

#: Every place in which a task can run; few in a process, for each worker has one. Some hold a key.
MIXED = ("work",) * 10 + ("work_once",) * 5 + ("work_in_thread",) * 4 + ("work_in_process",)
IN_PROCESS_S = 0.02


@dataclass(frozen=True, slots=True)
class _Jobs:
    tasks: Sequence[str]
    seconds: Sequence[float]
    delays_s: Sequence[float]
    pause_s: float
    max_open: int


async def _produce(
    fleet: Fleet, producer: Producer, dice: random.Random, until: asyncio.Event, jobs: _Jobs
) -> None:
    while not until.is_set():
        if len(fleet.history.outcomes) - fleet.journal.done_count() > jobs.max_open:
            await asyncio.sleep(0.05)
            continue
        task = dice.choice(jobs.tasks)
        takes_s = IN_PROCESS_S if "process" in task else dice.choice(jobs.seconds)
        delay_s = dice.choice(jobs.delays_s)
        wanted = producer.task(task).options(delay=delay_s) if delay_s else task
        await producer.send(wanted, takes_s)
        await asyncio.sleep(jobs.pause_s)


@asynccontextmanager
async def load_on(
    fleet: Fleet,
    dice: random.Random,
    *,
    producers: int = 2,
    streams: int = 1,
    tasks: Sequence[str] = MIXED,
    seconds: Sequence[float] = (0.0, 0.02, 0.1),
    delays_s: Sequence[float] = (0.0,),
    pause_s: float = 0.005,
    max_open: int = 400,
    url: str | None = None,
) -> AsyncIterator[None]:
    """Enqueue jobs until the end of the block; an enqueue on its way is waited for.

    Args:
        fleet: Whose jobs.
        dice: Chooses the jobs; each stream gets its own.
        producers: Apps, each with its own connection.
        streams: Tasks of each app that enqueue one job after the other.
        tasks: Chosen from by chance, as are the `seconds` that a job takes and its delay.
        seconds: See `tasks`.
        delays_s: See `tasks`.
        pause_s: Between two enqueues of a stream.
        most_open: Jobs that are not done while more are enqueued: a slow machine gets fewer.
        url: Another way to the server than the fleet's.
    """
    jobs = _Jobs(tasks, seconds, delays_s, pause_s, max_open)
    enough = asyncio.Event()
    async with AsyncExitStack() as stack, asyncio.TaskGroup() as group:
        for _ in range(producers):
            producer = await stack.enter_async_context(fleet.producer(url))
            for _ in range(streams):
                own = random.Random(dice.random())
                group.create_task(_produce(fleet, producer, own, enough, jobs))
        try:
            yield
        finally:
            enough.set()


@asynccontextmanager
async def backlog_on(
    fleet: Fleet, producer: Producer, *, task: str = "work", jobs: int = 8_000
) -> AsyncIterator[None]:
    """Keep so many jobs waiting until the end of the block, however fast they are done."""
    enough = asyncio.Event()

    async def fill_up() -> None:
        while not enough.is_set():
            if len(fleet.history.outcomes) - fleet.journal.done_count() < jobs:
                await producer.send_many(task, jobs // 2)
            else:
                await asyncio.sleep(0.005)

    await producer.send_many(task, jobs)
    async with asyncio.TaskGroup() as group:
        group.create_task(fill_up())
        try:
            yield
        finally:
            enough.set()
