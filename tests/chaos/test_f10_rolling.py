"""F10: rolling restarts under load, also from one version of a task module to the next.

QCORE_TEST_ROLLS says how many restarts follow each other.
"""

import asyncio
import os
import random
import signal

import pytest

from tests.support.checker import assert_sound, check
from tests.support.fleet import Command, Fleet, Producer
from tests.support.load import load_on
from tests.support.waiting import eventually

ROLLS = int(os.environ.get("QCORE_TEST_ROLLS", "3"))
pytestmark = pytest.mark.timeout(60 + 30 * ROLLS)

#: The first version of the module, and one with another task and another argument.
OLD = """
@app.task(name="shop.greet")
async def greet(ctx: Context, n: int) -> None:
    with written_down(ctx, n):
        pass
"""
NEW = """
@app.task(name="shop.greet")
async def greet(ctx: Context, n: int, loudly: bool = False) -> None:
    with written_down(ctx, n):
        pass

@app.task(name="shop.leave")
async def leave(ctx: Context, n: int) -> None:
    with written_down(ctx, n):
        pass
"""


async def roll(command: Command, times: int, number: signal.Signals = signal.SIGHUP) -> None:
    for n in range(1, times + 1):
        command.signal(number)
        await eventually(lambda n=n: len(command.events("roll.finished")) == n, 60)


async def test_rolling_restarts_lose_nothing_and_run_nothing_twice(
    fleet: Fleet, dice: random.Random
):
    command = fleet.start(processes=2, shutdown_timeout=30)
    await command.ready(2)
    async with load_on(fleet, dice, seconds=(0.0, 0.02, 0.1, 1.5)):
        await roll(command, ROLLS)
        least = command.least_working(2)
    await fleet.emptied(30)
    command.signal()
    assert await command.ended(30) == 0
    assert least == 2
    assert len(command.events("worker.replaced")) == 2 * ROLLS
    findings = assert_sound(fleet.history, fleet.runs())
    assert findings.runs == findings.done == len(fleet.history.outcomes) > 50
    assert not command.events("job.reclaimed")
    assert set(command.exit_codes()) == {0}


async def test_only_jobs_over_the_deadline_run_again_after_a_roll(
    fleet: Fleet, dice: random.Random
):
    command = fleet.start(processes=2, shutdown_timeout=3)
    await command.ready(2)
    gate = fleet.folder / "gate"
    async with fleet.producer() as producer, load_on(fleet, dice, tasks=("work",)):
        long = [await producer.send("hold", str(gate)) for _ in range(6)]
        await eventually(lambda: set(long) <= set(fleet.runs()))
        await roll(command, 1)
        gate.touch()
        least = command.least_working(2)
    await fleet.emptied(60)
    command.signal()
    assert await command.ended(15) == 0
    findings = check(fleet.history, fleet.runs())
    assert not findings.lost | findings.unexpected | findings.duplicated
    again = {n for n, runs in fleet.runs().items() if len(runs) > 1}
    assert again == set(long)
    assert findings.runs - findings.done == len(command.events("job.released"))
    assert not command.events("job.reclaimed")
    assert least == 2


async def produce_new(producer: Producer, enough: asyncio.Event, pause_s: float) -> None:
    """Enqueue jobs that only the new version knows, and some that both do."""

    async def greet(n: int, loudly: bool = False) -> None: ...
    async def leave(n: int) -> None: ...

    task = producer.app.task
    greeting = task(name="shop.greet", queue="default")(greet)
    leaving = task(name="shop.leave", queue="default")(leave)
    while not enough.is_set():
        await producer.send(greeting)
        await producer.send(greeting, loudly=True)
        await producer.send(leaving)
        await asyncio.sleep(pause_s)


async def test_old_and_new_workers_share_the_queues_without_loss(fleet: Fleet, dice: random.Random):
    head = "from qcore import Context\nfrom tests.support.fleet_tasks import written_down\n"
    fleet.write_module("shop", head + OLD)
    commands = [fleet.start(processes=2, app="shop:app", name=name) for name in ("one", "two")]
    for command in commands:
        await command.ready(2)
    enough = asyncio.Event()
    async with fleet.producer() as producer, load_on(fleet, dice), asyncio.TaskGroup() as group:
        # producers have the new code before the workers have it
        group.create_task(produce_new(producer, enough, 0.05))
        await eventually(lambda: any(c.events("job.parked") for c in commands), 20)
        fleet.write_module("shop", head + NEW)
        for command in commands:
            await roll(command, 1, signal.SIGUSR2)
        enough.set()
    await fleet.emptied(90)
    for command in commands:
        command.signal()
        assert await command.ended(20) == 0
    findings = assert_sound(fleet.history, fleet.runs())
    assert findings.runs == findings.done == len(fleet.history.outcomes)
    assert not any(command.events("job.buried") for command in commands)
