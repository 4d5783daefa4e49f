"""F01: workers are killed while jobs run."""

import asyncio
import random
from pathlib import Path

import pytest

from tests.support.checker import assert_sound
from tests.support.fleet import BENCHMARK, Command, Fleet, Producer, fleet_on
from tests.support.load import backlog_on
from tests.support.servers import Server
from tests.support.waiting import eventually

KILLS, KILL_EVERY_S = 8, 0.5
FULL_SPEED_KILLS = 6
#: Longer than what is killed under it takes to run again on any machine.
LEASE_S = 60.0


async def produce(producer: Producer, dice: random.Random, until: asyncio.Event) -> None:
    """Enqueue short and longer jobs of every kind, until told to stop."""
    while not until.is_set():
        task = dice.choice(("work", "work_once", "work", "work_in_thread", "work_in_process"))
        seconds = 0.05 if task == "work_in_process" else dice.choice((0.0, 0.02, 0.1, 0.4))
        await producer.send(task, seconds)
        await asyncio.sleep(0.004)


async def kill_at_random(fleet: Fleet, command: Command, dice: random.Random) -> None:
    for _ in range(KILLS):
        workers = await eventually(lambda: set(command.workers()) - fleet.killed, 30)
        fleet.kill_worker(dice.choice(sorted(workers)))
        await asyncio.sleep(KILL_EVERY_S)


async def test_workers_killed_under_load_lose_no_job(fleet: Fleet, dice: random.Random):
    command = fleet.start(processes=2, concurrency=20)
    await command.ready(2)
    async with fleet.producer() as first, fleet.producer() as second:
        enough = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            for producer in (first, second):
                group.create_task(produce(producer, random.Random(dice.random()), enough))
            await kill_at_random(fleet, command, dice)
            enough.set()
        await fleet.emptied(60)
        command.signal()
        assert await command.ended(15) == 0
        findings = assert_sound(fleet.history, fleet.runs(), killed=fleet.killed)
        assert findings.done == len(fleet.history.outcomes)


async def test_workers_killed_at_full_speed_run_again_no_more_than_they_held(
    tmp_path: Path, own_server: Server
):
    with fleet_on(tmp_path, own_server.url, "chaos") as fleet:
        command = fleet.start(processes=2, **BENCHMARK)
        async with fleet.producer() as producer, backlog_on(fleet, producer):
            for kill in range(FULL_SPEED_KILLS):
                # claimed with the next hundred, and in hand until its worker is dead
                gate = tmp_path / f"gate-{kill}"
                n = await producer.send(producer.task("hold").options(queue="urgent"), str(gate))
                await eventually(lambda n=n: fleet.runs().get(n), 30)
                fleet.kill_worker(fleet.runs()[n][0].pid)
                gate.touch()
        await fleet.emptied(60)
        command.signal()
        assert await command.ended(15) == 0
        assert len(fleet.killed) == FULL_SPEED_KILLS
        findings = assert_sound(fleet.history, fleet.runs(), killed=fleet.killed)
        reclaimed = len(command.events("job.reclaimed"))
    assert findings.done == len(fleet.history.outcomes)
    held = FULL_SPEED_KILLS * BENCHMARK["concurrency"]
    assert FULL_SPEED_KILLS <= reclaimed <= held
    assert findings.runs - findings.done <= reclaimed


@pytest.mark.parametrize("task", ["work", "work_in_thread", "work_in_process"])
async def test_worker_killed_gives_its_jobs_to_its_sibling_before_their_lease_ends(
    fleet: Fleet, task: str
):
    command = fleet.start(processes=2, concurrency=1, lease=LEASE_S)
    await command.ready(2)
    async with fleet.producer() as producer:
        for _ in range(2):  # one for each worker: a pool starts its process when it needs one
            await producer.send(task, 1.0)
        await fleet.emptied(15)
        n = await producer.send(task, 3.0)
        await eventually(lambda: n in fleet.runs(), 10)
        (run,) = fleet.runs()[n]
        killed_at = fleet.kill_worker(run.pid)
        await eventually(lambda: len(fleet.runs()[n]) == 2, 25)
        again = fleet.runs()[n][1]
        assert again.pid != run.pid
        assert again.started_at - killed_at < LEASE_S / 2
        await fleet.emptied(10)
    command.signal()
    assert await command.ended(10) == 0
    assert_sound(fleet.history, fleet.runs(), killed=fleet.killed)


async def test_only_worker_killed_runs_its_jobs_again_once_it_is_replaced(fleet: Fleet):
    command = fleet.start(processes=1, lease=LEASE_S)
    (pid,) = await command.ready(1)
    async with fleet.producer() as producer:
        for _ in range(20):
            await producer.send("work", 0.5)
        await eventually(lambda: len(fleet.runs()) == 20, 10)
        killed_at = fleet.kill_worker(pid)
        await fleet.emptied(25)
        again = [found[1].started_at for found in fleet.runs().values() if len(found) > 1]
        assert again
        assert max(again) - killed_at < LEASE_S / 2
    command.signal()
    assert await command.ended(10) == 0
    assert_sound(fleet.history, fleet.runs(), killed=fleet.killed)
