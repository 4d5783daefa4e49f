"""F01: workers are killed while jobs run."""

import asyncio
import random
from pathlib import Path

import pytest

from tests.support.checker import assert_sound
from tests.support.fleet import BENCHMARK, Command, Fleet, Producer, fleet_on
from tests.support.servers import Server
from tests.support.waiting import eventually

KILLING_S = 6.0
KILL_EVERY_S = 0.5
FULL_SPEED_JOBS, FULL_SPEED_KILLS = 30_000, 6


async def produce(producer: Producer, dice: random.Random, until: asyncio.Event) -> None:
    """Enqueue short and longer jobs of every kind, until told to stop."""
    while not until.is_set():
        task = dice.choice(("work", "work", "work", "work_in_thread", "work_in_process"))
        seconds = 0.05 if task == "work_in_process" else dice.choice((0.0, 0.02, 0.1, 0.4))
        await producer.send(task, seconds)
        await asyncio.sleep(0.004)


async def kill_at_random(fleet: Fleet, command: Command, dice: random.Random) -> None:
    end = asyncio.get_running_loop().time() + KILLING_S
    while asyncio.get_running_loop().time() < end:
        if workers := command.workers():
            fleet.kill_worker(dice.choice(workers))
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
        assert len(fleet.killed) >= 5
        findings = assert_sound(fleet.history, fleet.runs(), killed=fleet.killed)
        assert findings.done == len(fleet.history.outcomes)


async def test_workers_killed_at_full_speed_run_again_no_more_than_they_held(
    tmp_path: Path, own_server: Server
):
    with fleet_on(tmp_path, own_server.url, "chaos") as fleet:
        async with fleet.producer() as producer:
            await producer.send_many("work", FULL_SPEED_JOBS)
        command = fleet.start(processes=2, **BENCHMARK)
        for kill in range(1, FULL_SPEED_KILLS + 1):
            some = FULL_SPEED_JOBS * kill // (FULL_SPEED_KILLS + 2)
            await eventually(lambda n=some: fleet.journal.done_count() > n, 30)
            pid = await eventually(lambda: busiest(fleet), 30)
            assert pid is not None
            fleet.kill_worker(pid)
        await fleet.emptied(30)
        command.signal()
        assert await command.ended(15) == 0
        assert len(fleet.killed) == FULL_SPEED_KILLS
        findings = assert_sound(fleet.history, fleet.runs(), killed=fleet.killed)
        reclaimed = len(command.events("job.reclaimed"))
    assert findings.done == FULL_SPEED_JOBS
    # they were in the middle of it; and none held more than it had slots
    held = FULL_SPEED_KILLS * BENCHMARK["concurrency"]
    assert FULL_SPEED_KILLS <= reclaimed <= held
    assert findings.runs - findings.done <= reclaimed


def busiest(fleet: Fleet) -> int | None:
    """Return the living worker that has started a job last; None when none has yet."""
    runs = [run for found in fleet.runs().values() for run in found if run.pid not in fleet.killed]
    return max(runs, key=lambda run: run.started_at).pid if runs else None


@pytest.mark.parametrize("task", ["work", "work_in_thread", "work_in_process"])
async def test_worker_killed_gives_its_jobs_to_its_sibling_within_a_second(fleet: Fleet, task: str):
    command = fleet.start(processes=2, concurrency=1, lease=30)  # no lease ends in time
    await command.ready(2)
    async with fleet.producer() as producer:
        for _ in range(2):  # one for each worker: a pool starts its process when it needs one
            await producer.send(task, 1.0)
        await fleet.emptied(15)
        n = await producer.send(task, 3.0)
        await eventually(lambda: n in fleet.runs(), 10)
        (run,) = fleet.runs()[n]
        killed_at = fleet.kill_worker(run.pid)
        await eventually(lambda: len(fleet.runs()[n]) == 2, 10)
        again = fleet.runs()[n][1]
        assert again.pid != run.pid
        assert again.started_at - killed_at < 1.0
        await fleet.emptied(10)
    command.signal()
    assert await command.ended(10) == 0
    assert_sound(fleet.history, fleet.runs(), killed=fleet.killed)


async def test_only_worker_killed_runs_its_jobs_again_once_it_is_replaced(fleet: Fleet):
    command = fleet.start(processes=1, lease=30)
    (pid,) = await command.ready(1)
    async with fleet.producer() as producer:
        for _ in range(20):
            await producer.send("work", 0.5)
        await eventually(lambda: len(fleet.runs()) == 20, 10)
        killed_at = fleet.kill_worker(pid)
        await fleet.emptied(10)
        # far below the lease: the time that a Python process takes to start
        again = [found[1].started_at for found in fleet.runs().values() if len(found) > 1]
        assert again
        assert max(again) - killed_at < 5.0
    command.signal()
    assert await command.ended(10) == 0
    assert_sound(fleet.history, fleet.runs(), killed=fleet.killed)
