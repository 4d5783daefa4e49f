"""The parent of the workers: it replaces those that die, and gives up when none comes up."""

import asyncio
import os
import resource
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from qcore.broker.contract import Order
from qcore.broker.redis.broker import Broker
from qcore.broker.redis.fleet import Fleet as Registry
from qcore.broker.redis.inspector import Inspector
from qcore.model.fleet import RollState, WorkerState
from qcore.runtime.supervisor.supervisor import Supervisor
from qcore.settings import SupervisorConfig, WorkerConfig
from qcore_cli.child import worker_command
from qcore_cli.logs import LogFormat, LogStyle
from tests.support import fleet_tasks
from tests.support.checker import assert_sound
from tests.support.fleet import TASKS, Fleet, fleet_on
from tests.support.servers import Server
from tests.support.waiting import eventually


@pytest.fixture
async def supervisor(
    fleet: Fleet, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Supervisor]:
    """One that runs in the process of the test."""
    for name, value in fleet.env.items():
        monkeypatch.setenv(name, value)
    config = WorkerConfig(queues=("default",), heartbeat_s=0.1, shutdown_timeout_s=5)
    supervisor = Supervisor(
        SupervisorConfig(processes=2),
        config,
        command=worker_command(TASKS, LogStyle(LogFormat.JSON)),
        broker=broker,
    )
    running = asyncio.create_task(supervisor.run())
    yield supervisor
    supervisor.stop_now()
    assert await asyncio.wait_for(running, 10) == 0


async def test_workers_are_seen_as_their_last_beats_say(supervisor: Supervisor, fleet: Fleet):
    await eventually(
        lambda: [view.state for view in supervisor.workers()] == [WorkerState.RUNNING] * 2, 20
    )
    async with fleet.producer() as producer:
        await producer.send("work", 1.0)
        await eventually(lambda: sum(view.running for view in supervisor.workers()) == 1)
        await eventually(lambda: sum(view.done for view in supervisor.workers()) == 1)
    first, second = supervisor.workers()
    assert (first.name, second.name) == ("worker.1", "worker.2")
    assert first.pid != second.pid
    assert all(10e6 < view.rss_bytes < 500e6 for view in (first, second))
    assert all(0 <= view.loop_lag_ms < 1000 for view in (first, second))
    supervisor.drain()
    assert supervisor._leave_at <= asyncio.get_running_loop().time() + 5.001, "its own share counts"
    supervisor._obey_restart(Order("", "", 1, leave=False))
    assert supervisor.view().roll.state is RollState.NONE, "it leaves, and replaces nobody"
    await eventually(lambda: not supervisor.workers())


async def test_worker_that_dies_is_replaced_with_backoff(fleet: Fleet):
    command = fleet.start(processes=1)
    for deaths in range(1, 6):
        await eventually(lambda n=deaths: len(command.events("worker.ready")) == n, 20)
        (pid,) = command.workers()
        fleet.kill_worker(pid)
    await eventually(lambda: len(command.events("worker.ready")) == 6, 20)
    exits = command.events("worker.exited")
    assert [event["signal"] for event in exits] == ["SIGKILL"] * 5
    assert len({event["owner"] for event in command.events("worker.spawned")}) == 6
    command.signal()
    assert await command.ended(10) == 0


async def test_job_of_a_dead_worker_runs_again_and_is_charged_a_crash(fleet: Fleet):
    command = fleet.start(processes=2, lease=30)
    await command.ready(2)
    async with fleet.producer() as producer:
        job = await producer.task("work").enqueue(fleet.history.number(), 2.0)
        await eventually(lambda: fleet.runs(), 10)
        (run,) = fleet.runs()[0]
        fleet.kill_worker(run.pid)
        await eventually(lambda: len(fleet.runs()[0]) == 2, 10)
        record = await producer.app.inspector.job("default", job.id)
        assert record is not None
        assert (record.crashes, record.attempts) == (1, 0)
        assert fleet.runs()[0][1].attempt == 1
        (event,) = command.events("job.reclaimed")
        assert (event["job"], event["to"]) == (job.id, "ready")


def kill_all(*pids: int) -> None:
    for pid in pids:
        os.kill(pid, signal.SIGKILL)


async def test_jobs_of_a_killed_supervisor_and_its_workers_run_again_when_the_next_one_starts(
    fleet: Fleet, broker: Broker
):
    """Long before their leases end: it sees that the processes are gone."""
    command = fleet.start(processes=2, lease=600)
    workers = await command.ready(2)
    async with fleet.producer() as producer:
        jobs = [await producer.task("work").enqueue(fleet.history.number(), 60.0) for _ in range(4)]
        await eventually(lambda: len(fleet.runs()) == 4, 10)
        await eventually(lambda: registered(broker, workers))
        kill_all(command.pid, *workers)
        command.process.wait(5)
        again = fleet.start(processes=2, lease=600)
        await eventually(lambda: twice(fleet) == {0, 1, 2, 3}, 20)
        for job in jobs:
            record = await producer.app.inspector.job("default", job.id)
            assert record is not None
            assert record.crashes == 1  # what killed them may have been one of the jobs
    (lost,) = again.events("supervisor.lost")
    assert (lost["name"], lost["pid"], lost["workers"]) == ("worker", command.pid, 2)
    assert {e["job"] for e in again.events("job.reclaimed")} == {job.id for job in jobs}
    await eventually(lambda: no_longer_registered(broker, command.pid))


async def registered(broker: Broker, workers: list[int]) -> bool:
    found = [w for member in await Registry(broker).members() for w in member.view.workers]
    return {worker.pid for worker in found} >= set(workers)


async def no_longer_registered(broker: Broker, pid: int) -> bool:
    return pid not in {member.view.pid for member in await Registry(broker).members()}


async def test_worker_of_a_killed_supervisor_keeps_its_jobs_until_it_is_gone_too(
    fleet: Fleet, broker: Broker
):
    command = fleet.start(processes=2, lease=600, shutdown_timeout=60)
    workers = await command.ready(2)
    async with fleet.producer() as producer:
        while len({run.pid for runs in fleet.runs().values() for run in runs}) < 2:
            await producer.send("work", 600.0)
            await asyncio.sleep(0.05)
        await eventually(lambda: registered(broker, workers))
        dead, living = workers
        kill_all(command.pid, dead)
        command.process.wait(5)
        # the other one may have seen it, too, before it was killed
        await eventually(lambda: living in {e["pid"] for e in command.events("orders.lost")})
        numbers = {
            pid: {n for n, (run, *_) in fleet.runs().items() if run.pid == pid} for pid in workers
        }
        again = fleet.start(processes=1, lease=600, shutdown_timeout=1)
        await eventually(lambda: again.events("job.reclaimed"), 20)
        await eventually(lambda: twice(fleet) == numbers[dead], 10)
        assert not await no_longer_registered(broker, command.pid)
        kill_all(living)
        await eventually(lambda: twice(fleet) == numbers[dead] | numbers[living], 10)
        await eventually(lambda: no_longer_registered(broker, command.pid))


def twice(fleet: Fleet) -> set[int]:
    return {n for n, runs in fleet.runs().items() if len(runs) > 1}


@pytest.mark.skipif(sys.platform != "linux", reason="changes the limit of another process")
async def test_supervisor_that_can_start_no_process_tries_again_and_keeps_the_old_ones(
    fleet: Fleet,
):
    command = fleet.start(processes=2)
    first, second = await command.ready(2)
    limits = resource.prlimit(command.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(command.pid, resource.RLIMIT_NOFILE, (3, limits[1]))
    command.signal(signal.SIGHUP)
    await eventually(lambda: command.events("roll.failed"), 10)
    fleet.kill_worker(first)
    await eventually(lambda: len(command.events("worker.failed")) >= 4, 20)
    assert command.workers() == [second]
    resource.prlimit(command.pid, resource.RLIMIT_NOFILE, limits)
    await command.ready(2)
    command.signal()
    assert await command.ended(10) == 0


@pytest.mark.skipif(sys.platform != "linux", reason="changes the limit of another process")
async def test_roll_is_not_over_while_the_place_of_a_worker_is_empty(fleet: Fleet):
    command = fleet.start(processes=1)
    (first,) = await command.ready(1)
    limits = resource.prlimit(command.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(command.pid, resource.RLIMIT_NOFILE, (3, limits[1]))
    fleet.kill_worker(first)
    await eventually(lambda: command.events("worker.failed"), 20)
    command.signal(signal.SIGHUP)
    await eventually(lambda: command.events("roll.started"), 10)
    resource.prlimit(command.pid, resource.RLIMIT_NOFILE, limits)
    await eventually(lambda: command.events("roll.finished"), 20)
    (new,) = await command.ready(1)
    names = [(e["event"], e.get("pid")) for e in command.all_events()]
    # that it is ready is said when Redis has answered a claim of it
    assert names.index(("worker.started", new)) < names.index(("roll.finished", None))


async def test_supervisor_whose_parent_ignores_the_end_of_children_sees_it_all_the_same(
    fleet: Fleet,
):
    """Who ignores SIGCHLD hands that down, and then the kernel keeps no exit code."""
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        command = fleet.start(processes=1)
    finally:
        signal.signal(signal.SIGCHLD, before)
    (first,) = await command.ready(1)
    fleet.kill_worker(first)
    await eventually(lambda: command.workers() not in ([], [first]), 20)
    (event,) = command.events("worker.exited")
    assert event["signal"] == "SIGKILL"


async def test_supervisor_starts_without_redis_and_works_when_it_comes(
    tmp_path: Path, own_server: Server
):
    with fleet_on(tmp_path, own_server.url, "late") as fleet:
        own_server.kill()
        command = fleet.start(processes=1)
        await eventually(lambda: command.events("worker.started"), 30)
        assert not command.events("worker.ready")  # nobody may take it for a worker that works
        own_server.start()
        async with fleet.producer() as producer:
            await producer.send("work")
            await eventually(lambda: fleet.done(), 15)
            inspector = producer.app.inspector
            await eventually(lambda: knows(inspector, list(fleet_tasks.app.queues)), 15)
        command.signal()
        assert await command.ended(10) == 0
        assert_sound(fleet.history, fleet.runs())


async def knows(inspector: Inspector, names: list[str]) -> bool:
    return await inspector.names() == sorted(names)


LEAVE = """
import os

@app.task
async def leave() -> None:
    os._exit(0)
"""


async def test_worker_that_ends_by_itself_with_code_0_is_logged_as_one_that_fails(fleet: Fleet):
    fleet.write_tasks("shop", LEAVE)
    command = fleet.start(processes=1, app="shop:app")
    await command.ready(1)
    async with fleet.producer() as producer:

        async def leave() -> None: ...

        await producer.app.task(name="shop.leave", queue="default")(leave).enqueue()
        await eventually(lambda: command.events("job.condemned"), 30)
        ends = command.events("worker.exited")
        assert {(event["exit_code"], event["level"]) for event in ends} == {(0, "error")}
    await command.ready(1)
    command.signal()
    assert await command.ended(10) == 0
    assert command.events("worker.exited")[-1]["level"] == "info"


HANGS_AT_ITS_END = """
import asyncio

@app.lifespan
async def lifespan():
    yield
    await asyncio.sleep(3600)
"""


async def test_worker_that_leaves_by_itself_and_hangs_is_killed_at_the_shutdown_timeout(
    fleet: Fleet,
):
    """Nobody has told it to leave, so nobody waits for it."""
    fleet.write_tasks("shop", HANGS_AT_ITS_END)
    command = fleet.start(processes=1, app="shop:app", shutdown_timeout=2)
    (first,) = await command.ready(1)
    os.kill(first, signal.SIGTERM)
    await eventually(lambda: command.workers() not in ([], [first]), 20)
    (killed,) = command.events("worker.killed")
    assert (killed["pid"], killed["why"]) == (first, "shutdown timeout")


HOLDS_AT_ITS_END = """
import asyncio, pathlib, time
gate = pathlib.Path({!r})

@app.task
async def hold() -> None:
    while not gate.exists():
        await asyncio.sleep(0.02)
    time.sleep(3600)
"""


async def test_job_of_a_worker_that_leaves_by_itself_too_late_is_not_charged(
    fleet: Fleet, broker: Broker
):
    gate = fleet.folder / "gate"
    fleet.write_tasks("shop", HOLDS_AT_ITS_END.format(str(gate)))
    command = fleet.start(processes=1, app="shop:app", shutdown_timeout=6, lease=30)
    (first,) = await command.ready(1)
    async with fleet.producer() as producer:

        async def hold() -> None: ...

        job = await producer.app.task(name="shop.hold", queue="default")(hold).enqueue()

        async def states() -> tuple[str | None, list[str]]:
            record = await producer.app.inspector.job("default", job.id)
            (member,) = await Registry(broker).members()
            return record and record.status, [worker.state for worker in member.view.workers]

        async def runs() -> bool:
            return (await states())[0] == "active"

        async def leaves() -> bool:
            return "draining" in (await states())[1]

        await eventually(runs, 20)
        os.kill(first, signal.SIGTERM)
        await eventually(leaves)
        gate.touch()
        await eventually(lambda: command.events("job.reclaimed"), 20)
        record = await producer.app.inspector.job("default", job.id)
        assert record is not None
        assert (record.crashes, record.attempts) == (0, 0)
        assert {e["why"] for e in command.events("worker.killed")} == {"shutdown timeout"}
        command.signal(signal.SIGKILL)


@pytest.mark.parametrize("where", ["boot", "loop", "end"])
async def test_worker_that_hangs_does_not_outlive_a_killed_supervisor(fleet: Fleet, where: str):
    """It cannot see that its supervisor is gone, or cannot end."""
    code = "import time; time.sleep(3600)" if where == "boot" else HANGS_AT_ITS_END
    fleet.write_module("shop", code if where != "loop" else "")
    command = fleet.start_with(
        processes=1, app="shop:app", shutdown_timeout_s=2.0, lease_s=60.0, stall_s=30.0
    )
    if where == "boot":
        await eventually(lambda: command.events("worker.spawned"), 20)
    else:
        await command.ready(1)
    if where == "loop":
        async with fleet.producer() as producer:
            number = fleet.history.number()
            await producer.task("block").enqueue(number, 3600.0)
            await eventually(lambda: number in fleet.blocked(), 10)
    command.signal(signal.SIGKILL)
    await eventually(lambda: not fleet.left_behind(), 10)


async def test_supervisor_that_was_stopped_and_continued_kills_nobody(fleet: Fleet):
    command = fleet.start(processes=2)
    await command.ready(2)
    command.signal(signal.SIGSTOP)
    async with fleet.producer() as producer:
        for _ in range(10):
            await producer.send("work", 0.1)
        await fleet.emptied(10)
    command.signal(signal.SIGCONT)
    command.signal()
    assert await command.ended(10) == 0
    assert not command.events("worker.killed")
    assert_sound(fleet.history, fleet.runs())


async def test_task_that_may_outlive_a_stop_is_named_at_the_start(fleet: Fleet):
    fleet.write_tasks("shop", "@app.task(timeout=90)\nasync def long() -> None: ...\n")
    command = fleet.start(processes=1, app="shop:app", shutdown_timeout=20, lease=30)
    await command.ready(1)
    (event,) = command.events("clocks.doubted")
    assert event["what"] == "task shop.long"
    assert event["why"].startswith("its timeout is 90 s, but of the shutdown timeout of 20 s jobs")
