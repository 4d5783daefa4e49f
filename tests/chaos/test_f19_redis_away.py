"""F19: Redis is killed and comes back, or hangs, while workers are idle or busy."""

import asyncio
import os
import random
import signal
from pathlib import Path

import pytest

from qcore.broker.embedded.process import server_pid
from tests.support.checker import assert_sound
from tests.support.fleet import LEASE_S, Command, Fleet, Producer, fleet_on
from tests.support.servers import Server
from tests.support.waiting import eventually

#: Tries follow each other within 2 s by default; the rest is for a loaded machine.
BACK_S = 5.0
OUTAGES_S = (1.0, 6.0, 3 * LEASE_S)


async def produce(producer: Producer, dice: random.Random, until: asyncio.Event) -> None:
    while not until.is_set():
        task = dice.choice(("work", "work_once", "work", "work_in_thread", "work_in_process"))
        seconds = 0.05 if task == "work_in_process" else dice.choice((0.0, 0.02, 0.3, 2.0))
        await producer.send(task, seconds)
        await asyncio.sleep(0.005)


async def take_away(server: Server, fault: signal.Signals, outage_s: float) -> None:
    """Make the server fail for so long."""
    if fault is signal.SIGKILL:
        server.kill()
    else:
        server.signal(signal.SIGSTOP)
    await asyncio.sleep(outage_s)
    if fault is signal.SIGKILL:
        await asyncio.to_thread(server.start)
    else:
        server.signal(signal.SIGCONT)


async def flows_again(fleet: Fleet, timeout_s: float) -> None:
    """Wait until a job whose enqueue began after this call has been done."""
    mark = fleet.history.number()
    await eventually(lambda: max(fleet.done()) > mark, timeout_s)


def assert_no_worker_died(command: Command) -> None:
    assert command.exit_codes() == [0, 0]


@pytest.mark.parametrize("outage_s", OUTAGES_S)
@pytest.mark.parametrize("fault", [signal.SIGKILL, signal.SIGSTOP])
async def test_redis_away_from_busy_workers_loses_no_job_and_runs_none_twice(
    fleet: Fleet,
    durable_server: Server,
    dice: random.Random,
    fault: signal.Signals,
    outage_s: float,
):
    command = fleet.start(processes=2, concurrency=50)
    await command.ready(2)
    enough = asyncio.Event()
    async with fleet.producer() as first, fleet.producer() as second:
        async with asyncio.TaskGroup() as group:
            for producer in (first, second):
                for _ in range(3):
                    group.create_task(produce(producer, random.Random(dice.random()), enough))
            await eventually(lambda: len(fleet.done()) > 50, 10)
            await take_away(durable_server, fault, outage_s)
            await flows_again(fleet, BACK_S)
            enough.set()
        await fleet.emptied(30)
    command.signal()
    assert await command.ended(15) == 0
    assert_no_worker_died(command)
    findings = assert_sound(fleet.history, fleet.runs())
    assert findings.runs == findings.done


@pytest.mark.parametrize("outage_s", OUTAGES_S)
@pytest.mark.parametrize("fault", [signal.SIGKILL, signal.SIGSTOP])
async def test_redis_away_from_idle_workers_does_not_keep_them_idle(
    fleet: Fleet, durable_server: Server, fault: signal.Signals, outage_s: float
):
    command = fleet.start(processes=2)
    await command.ready(2)
    async with fleet.producer() as producer:
        await producer.send("work")
        await fleet.emptied(5)
        await take_away(durable_server, fault, outage_s)
        for _ in range(20):
            await producer.send("work")
        await fleet.emptied(BACK_S)
    command.signal()
    assert await command.ended(15) == 0
    assert_no_worker_died(command)
    assert assert_sound(fleet.history, fleet.runs()).runs == 21


async def test_embedded_server_killed_is_started_again_by_its_users(
    tmp_path: Path, dice: random.Random
):
    folder = tmp_path / "data"
    with fleet_on(tmp_path, f"embedded://{folder}", "chaos") as fleet:
        command = fleet.start(processes=2, concurrency=50)
        await command.ready(2)
        enough = asyncio.Event()
        async with fleet.producer() as producer:
            async with asyncio.TaskGroup() as group:
                group.create_task(produce(producer, dice, enough))
                for _ in range(3):
                    before = len(fleet.done())
                    await eventually(lambda n=before: len(fleet.done()) > n + 50, 10)
                    pid = server_pid(folder)
                    assert pid is not None
                    os.kill(pid, signal.SIGKILL)
                    await flows_again(fleet, 3.0)
                enough.set()
            await fleet.emptied(30)
        command.signal()
        assert await command.ended(15) == 0
        assert_no_worker_died(command)
        findings = assert_sound(fleet.history, fleet.runs())
        assert findings.done == len(fleet.history.outcomes)
        await eventually(lambda: not fleet.left_behind(), 5)  # the last user stopped it
