"""F09: the command is told to stop, at a good moment or a bad one."""

import asyncio
import os
import random
import signal
import time
from functools import partial

import pytest

from qcore import JobStatus
from tests.support.checker import assert_sound
from tests.support.fleet import Command, Fleet, Producer
from tests.support.servers import Server
from tests.support.waiting import eventually

LONG_S = 60.0
#: What a loaded machine may add to a deadline.
GRACE_S = 6.0


async def start_running(fleet: Fleet, producer: Producer, tasks: list[str], seconds: float) -> None:
    """Enqueue one job of each task, and wait until all of them run."""
    before = len(fleet.runs())
    for task in tasks:
        await producer.send(task, seconds)
    await eventually(lambda: len(fleet.runs()) == before + len(tasks), 20)


async def assert_released(producer: Producer, count: int) -> None:
    """Check that so many jobs wait in the queue as if they had never run."""
    (stats,) = await producer.app.inspector.queues(["default"])
    assert (stats.ready, stats.scheduled, stats.active, stats.dead) == (count, 0, 0, 0)
    broker = producer.app.broker
    (ids,) = await broker._ask([(b"LRANGE", broker._keys_of("default").names["ready"], 0, -1)])
    for id in ids:
        record = await producer.app.inspector.job("default", id.decode())
        assert record is not None
        assert (record.status, record.attempts, record.crashes) == (JobStatus.READY, 0, 0)
        assert record.errors == ()


async def ended_by(command: Command, began: float, limit_s: float) -> None:
    assert await command.ended(limit_s + 15) == 0
    took_s = time.monotonic() - began
    assert took_s < limit_s + GRACE_S, f"took {took_s:.2f} s: {command.tail()}"


STUBBORN = ["work_in_thread", "swallow_cancellation"]
#: More than one worker has slots for with `concurrency=4`.
MIXED = ["work", "work_in_process", *STUBBORN, "work", *STUBBORN]


async def test_term_with_jobs_over_the_deadline_releases_them_uncharged(fleet: Fleet):
    command = fleet.start(processes=2, concurrency=4, shutdown_timeout=3)
    async with fleet.producer() as producer:
        # the last is given back when its process is gone: nobody else may have it before
        await start_running(fleet, producer, [*MIXED, "swallow_alone"], LONG_S)
        command.signal()
        await ended_by(command, time.monotonic(), 3)
        assert not fleet.left_behind()
        await assert_released(producer, len(MIXED) + 1)


async def test_term_while_redis_stalls_releases_what_killed_workers_held(
    fleet: Fleet, durable_server: Server
):
    command = fleet.start(processes=2, concurrency=4, lease=30, shutdown_timeout=8)
    workers = await command.ready(2)
    async with fleet.producer() as producer:
        await start_running(fleet, producer, MIXED, LONG_S)
        durable_server.signal(signal.SIGSTOP)
        command.signal()
        await eventually(lambda: len(command.events("worker.draining")) == 2)
        for pid in workers:
            fleet.kill_worker(pid)
        await eventually(lambda: len(command.events("worker.exited")) == 2)
        await asyncio.sleep(4)  # a disk that stalls; they have 8 s
        durable_server.signal(signal.SIGCONT)
        assert await command.ended(15) == 0
        await assert_released(producer, len(MIXED))


async def test_term_lets_jobs_within_the_deadline_finish(fleet: Fleet):
    command = fleet.start(processes=2, shutdown_timeout=10)
    async with fleet.producer() as producer:
        await start_running(fleet, producer, ["work", "work_in_process", *STUBBORN] * 2, 0.5)
        command.signal()
        await producer.send("work", 0.0)  # nobody is there to claim it
        assert await command.ended(10) == 0
        runs = fleet.runs()
        assert all(len(found) == 1 and found[0].ended_at for found in runs.values())
        assert len(runs) == 8
        await assert_released(producer, 1)


async def test_term_twice_stops_now(fleet: Fleet):
    command = fleet.start(processes=2, concurrency=2, shutdown_timeout=30)
    async with fleet.producer() as producer:
        await start_running(fleet, producer, ["work", "work_in_process", "work", "work"], LONG_S)
        command.signal()
        await eventually(lambda: len(command.events("worker.draining")) == 2)
        command.signal()
        await ended_by(command, time.monotonic(), 1)
        await assert_released(producer, 4)


async def test_term_twice_waits_for_the_stubborn_no_longer_than_the_cleanup(fleet: Fleet):
    command = fleet.start(processes=1, shutdown_timeout=30)
    async with fleet.producer() as producer:
        await start_running(fleet, producer, [*STUBBORN], LONG_S)
        command.signal()
        await eventually(lambda: command.events("worker.draining"))
        command.signal()
        await ended_by(command, time.monotonic(), 4)
        assert not fleet.left_behind()
        await assert_released(producer, 2)


@pytest.mark.parametrize("early", [True, False])
async def test_term_at_boot_leaves_nothing_behind(fleet: Fleet, dice: random.Random, early: bool):
    for _ in range(4):
        command = fleet.start(processes=2, shutdown_timeout=3)
        if not early:
            await eventually(partial(command.events, "supervisor.started"), 20)
        await asyncio.sleep(dice.uniform(0, 0.5))
        command.signal()
        code = await command.ended(5)
        # before the command has its handlers the signal simply ends it
        assert code == 0 or (early and code == -signal.SIGTERM), command.tail()
        await eventually(lambda: not fleet.left_behind(), 5)


@pytest.mark.parametrize("fault", [signal.SIGKILL, signal.SIGSTOP])
@pytest.mark.parametrize("busy", [True, False])
async def test_term_while_redis_is_away_holds_the_deadline(
    fleet: Fleet, durable_server: Server, fault: signal.Signals, busy: bool
):
    command = fleet.start(processes=2, shutdown_timeout=3)
    await command.ready(2)
    if busy:
        async with fleet.producer() as producer:
            tasks = ["work", "work_in_process", *STUBBORN]
            await start_running(fleet, producer, tasks, LONG_S)
    if fault is signal.SIGKILL:
        durable_server.kill()
    else:
        durable_server.signal(fault)
    command.signal()
    await ended_by(command, time.monotonic(), 3)
    assert not fleet.left_behind()


async def test_term_to_idle_workers_does_not_wait_for_a_redis_that_is_away(
    fleet: Fleet, durable_server: Server
):
    command = fleet.start(processes=2, shutdown_timeout=60)
    await command.ready(2)
    async with fleet.producer() as producer:
        await producer.send("work")
    await fleet.emptied(20)
    durable_server.kill()
    command.signal()
    await ended_by(command, time.monotonic(), 15)


async def test_term_while_redis_is_away_tells_it_what_ended_when_it_is_back(
    fleet: Fleet, durable_server: Server
):
    command = fleet.start(processes=1, shutdown_timeout=20)
    async with fleet.producer() as producer:
        await start_running(fleet, producer, ["work"] * 5, 1.0)
    durable_server.kill()
    command.signal()
    await eventually(lambda: len(fleet.done()) == 5)
    durable_server.start()
    assert await command.ended(15) == 0
    await fleet.emptied(1)
    assert_sound(fleet.history, fleet.runs())


async def test_term_to_a_worker_drains_and_replaces_it(fleet: Fleet):
    command = fleet.start(processes=2)
    (first, second) = await command.ready(2)
    async with fleet.producer() as producer:
        tasks = ["work", "work_in_thread", "work_in_process"] * 4
        await start_running(fleet, producer, tasks, 0.7)
        os.kill(first, signal.SIGTERM)
        os.kill(first, signal.SIGTERM)
        await eventually(lambda: len(command.workers()) == 2 and first not in command.workers())
        assert second in command.workers()
        await producer.send("work")
        await fleet.emptied(20)
    command.signal()
    assert await command.ended(10) == 0
    assert_sound(fleet.history, fleet.runs())


async def test_term_to_a_worker_with_stubborn_jobs_replaces_it_too(fleet: Fleet):
    command = fleet.start(processes=1, shutdown_timeout=3)
    (first,) = await command.ready(1)
    async with fleet.producer() as producer:
        await start_running(fleet, producer, [*STUBBORN], LONG_S)
        os.kill(first, signal.SIGTERM)
        await eventually(lambda: len(fleet.runs()[0]) == 2, 10)
        assert not command.events("worker.killed")
        command.signal()
        assert await command.ended(10) == 0
        await assert_released(producer, 2)


async def test_term_to_supervisor_and_workers_at_once_drains_once(fleet: Fleet):
    command = fleet.start(processes=2)
    await command.ready(2)
    async with fleet.producer() as producer:
        await start_running(fleet, producer, ["work", "work_in_process"] * 2, 1.0)
    for pid in fleet.left_behind():  # every process, the pool's too
        os.kill(pid, signal.SIGTERM)
    assert await command.ended(10) == 0
    assert len(command.events("worker.draining")) == 2
    await fleet.emptied(1)
    runs = fleet.runs()
    assert assert_sound(fleet.history, runs).runs == 4


async def test_supervisor_killed_lets_its_workers_finish_and_leave(fleet: Fleet):
    command = fleet.start(processes=2, shutdown_timeout=5)
    await command.ready(2)
    async with fleet.producer() as producer:
        await start_running(fleet, producer, ["work", "work_in_process"] * 2, 1.0)
        command.signal(signal.SIGKILL)
        await eventually(lambda: not fleet.left_behind(), 5)
        assert assert_sound(fleet.history, fleet.runs()).runs == 4
        await assert_released(producer, 0)


async def test_supervisor_killed_leaves_no_orphan_when_jobs_do_not_end(fleet: Fleet):
    command = fleet.start(processes=2, concurrency=4, shutdown_timeout=3)
    await command.ready(2)
    async with fleet.producer() as producer:
        await start_running(fleet, producer, MIXED, LONG_S)
        command.signal(signal.SIGKILL)
        await eventually(lambda: not fleet.left_behind(), 3 + GRACE_S)
        await assert_released(producer, len(MIXED))


async def test_supervisor_and_workers_killed_leave_no_process_of_a_pool(fleet: Fleet):
    command = fleet.start(processes=2, concurrency=1)
    workers = await command.ready(2)
    async with fleet.producer() as producer:
        await start_running(fleet, producer, ["work_in_process"] * 2, LONG_S)
    for pid in (command.pid, *workers):
        os.kill(pid, signal.SIGKILL)
    await eventually(lambda: not fleet.left_behind(), 2)
