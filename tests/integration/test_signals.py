"""What signals do to a supervisor and to its workers, besides those that stop it."""

import asyncio
import os
import signal

import pytest

from tests.support.checker import assert_sound
from tests.support.fleet import Command, Fleet, Producer
from tests.support.waiting import eventually


async def ready_jobs(producer: Producer) -> int:
    (stats,) = await producer.app.inspector.queues(["default"])
    return stats.ready


async def quieted(command: Command) -> None:
    command.signal(signal.SIGTSTP)
    await eventually(lambda: command.events("supervisor.quieted"))


async def rolled(command: Command, times: int = 1) -> None:
    await eventually(lambda: len(command.events("roll.finished")) == times, 40)


WAITS_AND_FAILS = """
import pathlib, time
gate = pathlib.Path({!r})
gate.with_suffix(".seen").touch()
while not gate.exists():
    time.sleep(0.05)
raise RuntimeError("a bad deploy")
"""


async def test_quiet_workers_claim_nothing_and_renew_what_they_run(fleet: Fleet):
    command = fleet.start(processes=2, lease=1.5)
    await command.ready(2)
    async with fleet.producer() as producer:
        long = await producer.send("work", 4.0)
        await eventually(lambda: fleet.runs().get(long))
        await quieted(command)
        for _ in range(20):
            await producer.send("work")
        await eventually(lambda: long in fleet.done(), 10)
        assert set(fleet.runs()) == {long}
        assert await ready_jobs(producer) == 20
        command.signal(signal.SIGCONT)
        await fleet.emptied(10)
    assert len(command.events("supervisor.resumed")) == 1
    assert not command.events("job.reclaimed")
    command.signal()
    assert await command.ended(10) == 0
    assert assert_sound(fleet.history, fleet.runs()).runs == 21


async def test_worker_that_is_started_while_all_are_quiet_is_quiet(fleet: Fleet):
    command = fleet.start(processes=1)
    (first,) = await command.ready(1)
    await quieted(command)
    fleet.kill_worker(first)
    await eventually(lambda: command.workers() not in ([], [first]), 20)
    command.signal(signal.SIGHUP)
    await rolled(command)
    async with fleet.producer() as producer:
        await producer.send("work")
        await asyncio.sleep(1)  # an idle worker that is not quiet takes it at once
        assert await ready_jobs(producer) == 1
        command.signal(signal.SIGCONT)
        await fleet.emptied(10)


async def test_quiet_supervisor_stops_as_any_other(fleet: Fleet):
    command = fleet.start(processes=1)
    await command.ready(1)
    async with fleet.producer() as producer:
        await producer.send("work", 1.0)
        await eventually(fleet.runs)
        await quieted(command)
        command.signal()
        assert await command.ended(10) == 0
    assert assert_sound(fleet.history, fleet.runs()).done == 1


async def test_cont_without_tstp_changes_nothing(fleet: Fleet):
    command = fleet.start(processes=1)
    await command.ready(1)
    command.signal(signal.SIGSTOP)
    command.signal(signal.SIGCONT)
    command.signal(signal.SIGHUP)
    await rolled(command)
    assert not command.events("supervisor.resumed")


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGUSR2])
async def test_hup_replaces_each_worker_once_by_one_with_the_newest_code(
    fleet: Fleet, number: signal.Signals
):
    fleet.write_module("shop")
    command = fleet.start(processes=3, app="shop:app")
    first = await command.ready(3)
    fleet.write_module("shop", "print('the new code', flush=True)")
    command.signal(number)
    await rolled(command)
    assert command.least_working(3) == 3
    replaced = command.events("worker.replaced")
    assert sorted(event["pid"] for event in replaced) == sorted(first)
    assert {event["why"] for event in replaced} == {number.name}
    assert sorted(command.workers()) == sorted(event["by"] for event in replaced)
    assert command.log.read_text().count("the new code") == 3
    command.signal()
    assert await command.ended(10) == 0
    assert command.exit_codes() == [0] * 6


async def test_second_hup_replaces_also_those_that_the_first_one_started(fleet: Fleet):
    command = fleet.start(processes=2)
    first = set(await command.ready(2))
    command.signal(signal.SIGHUP)
    await eventually(lambda: command.events("worker.replaced"), 20)
    command.signal(signal.SIGHUP)
    await eventually(lambda: len(command.events("roll.started")) == 2)
    between = command.spawned()
    await rolled(command)
    assert not (first | between) & set(command.workers())
    assert len(command.workers()) == 2


async def test_bad_deploy_leaves_every_old_worker_and_the_next_roll_mends_it(fleet: Fleet):
    fleet.write_module("shop")
    command = fleet.start(processes=2, app="shop:app")
    first = await command.ready(2)
    fleet.write_module("shop", "raise RuntimeError('a bad deploy')")
    command.signal(signal.SIGHUP)
    (failed,) = await eventually(lambda: command.events("roll.failed"), 20)
    assert failed["left"] == 2
    assert sorted(command.workers()) == sorted(first)
    assert not command.events("roll.finished")
    fleet.write_module("shop")
    command.signal(signal.SIGHUP)
    await rolled(command)
    assert not set(first) & set(command.workers())


async def test_order_that_comes_while_a_replacement_fails_is_carried_out(fleet: Fleet):
    fleet.write_module("shop")
    command = fleet.start(processes=1, app="shop:app")
    (first,) = await command.ready(1)
    gate = fleet.folder / "gate"
    fleet.write_module("shop", WAITS_AND_FAILS.format(str(gate)))
    command.signal(signal.SIGHUP)
    await eventually(gate.with_suffix(".seen").exists, 20)
    fleet.write_module("shop")
    command.signal(signal.SIGHUP)
    await eventually(lambda: len(command.events("roll.started")) == 2)
    gate.touch()
    await rolled(command)
    assert command.workers() != [first]
    assert len(command.events("replacement.failed")) == 1
    assert not command.events("roll.failed")


async def test_worker_that_dies_after_a_failed_roll_is_missed_until_the_code_is_mended(
    fleet: Fleet,
):
    """The others go on, and the supervisor does not give up while one of them works."""
    fleet.write_module("shop")
    command = fleet.start_with(
        processes=2, app="shop:app", boot_failures=2, restart_max_s=0.5, ready_timeout_s=10.0
    )
    first, second = await command.ready(2)
    fleet.write_module("shop", "raise RuntimeError('a bad deploy')")
    command.signal(signal.SIGHUP)
    await eventually(lambda: command.events("roll.failed"), 20)
    fleet.kill_worker(first)
    await eventually(lambda: len(command.events("worker.exited")) >= 5, 30)
    assert command.workers() == [second]
    async with fleet.producer() as producer:
        await producer.send("work")
        await fleet.emptied(10)
    fleet.write_module("shop")
    await command.ready(2)
    assert not command.events("supervisor.gave_up")


async def test_supervisor_stopped_in_the_middle_of_a_roll_ends_it_when_it_goes_on(fleet: Fleet):
    """The new worker got ready meanwhile, though it was not heard in time."""
    command = fleet.start_with(processes=2, ready_timeout_s=8.0)
    first = await command.ready(2)
    command.signal(signal.SIGHUP)
    await eventually(lambda: len(command.spawned()) == 3, 20)
    command.signal(signal.SIGSTOP)
    await asyncio.sleep(9)  # the fault, longer than the limit
    command.signal(signal.SIGCONT)
    await rolled(command)
    assert not command.events("worker.killed")
    assert not command.events("replacement.failed")
    assert not set(first) & set(command.workers())


async def test_supervisor_stopped_while_an_old_worker_leaves_sees_that_it_has_left(fleet: Fleet):
    command = fleet.start_with(processes=1, shutdown_timeout_s=8.0)
    (first,) = await command.ready(1)
    async with fleet.producer() as producer:
        await producer.send("work", 5.0)
        await eventually(fleet.runs)
        command.signal(signal.SIGHUP)
        await eventually(lambda: command.events("worker.replaced"), 20)
        command.signal(signal.SIGSTOP)
        assert not command.events("worker.stopped")
        await asyncio.sleep(9)  # the fault, longer than the limit
        assert command.events("worker.stopped")
        command.signal(signal.SIGCONT)
        await rolled(command)
    assert not command.events("worker.killed")
    (left,) = command.events("worker.exited")
    assert (left["pid"], left["level"]) == (first, "info")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_stop_while_the_app_is_asked_what_it_declares_leaves_nothing_behind(
    fleet: Fleet, number: signal.Signals
):
    fleet.write_module("shop", "import time; time.sleep(600)")
    command = fleet.start(processes=1, app="shop:app")
    await eventually(lambda: len(fleet.left_behind()) == 2, 20)
    for harmless in (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        command.signal(harmless)
    command.signal(number)
    assert await command.ended(10) == 0
    await eventually(lambda: not fleet.left_behind(), 5)


async def test_stop_in_the_middle_of_a_roll_leaves_nothing_behind(fleet: Fleet):
    fleet.write_module("shop")
    command = fleet.start(processes=2, app="shop:app", shutdown_timeout=3)
    await command.ready(2)
    fleet.write_module("shop", "import time; time.sleep(600)")
    command.signal(signal.SIGHUP)
    await eventually(lambda: len(command.spawned()) == 3, 20)
    command.signal()
    assert await command.ended(6) == 0
    assert not fleet.left_behind()
    assert not command.events("replacement.failed")


async def test_second_term_ends_a_worker_that_hangs_at_boot_or_in_its_loop(fleet: Fleet):
    fleet.write_module("shop")
    command = fleet.start(processes=1, app="shop:app", shutdown_timeout=100, lease=30)
    await command.ready(1)
    fleet.write_module("shop", "import time; time.sleep(600)")
    async with fleet.producer() as producer:
        number = fleet.history.number()
        job = await producer.task("block").enqueue(number, 600.0)
        await eventually(lambda: number in fleet.blocked())
        command.signal(signal.SIGHUP)
        await eventually(lambda: len(command.spawned()) == 2, 20)
        command.signal()
        await eventually(lambda: command.events("supervisor.draining"))
        command.signal()
        assert await command.ended(20) == 0
        assert [event["workers"] for event in command.events("supervisor.hurried")] == [2]
        whys = [event["why"] for event in command.events("worker.killed")]
        assert whys == ["stopped before it was ready", "shutdown timeout"]
        record = await producer.app.inspector.job("default", job.id)
        assert record is not None
        assert (record.status, record.crashes, record.attempts) == ("ready", 0, 0)


async def test_usr1_logs_what_each_worker_runs_and_where_it_waits(fleet: Fleet):
    command = fleet.start(processes=1)
    await command.ready(1)
    async with fleet.producer() as producer:
        await producer.send("work", 3.0)
        await producer.send("work_in_thread", 3.0)
        await eventually(lambda: len(fleet.runs()) == 2)
        command.signal(signal.SIGUSR1)
        jobs = await eventually(lambda: command.events("job.dumped"))
        await eventually(lambda: command.events("thread.dumped"))
        (told,) = command.events("worker.dumped")
        assert told["running"] == 2
        work = next(job for job in jobs if job["task"].endswith(".work"))
        assert " > work (" in work["stack"]
        assert "fleet_tasks.py:" in work["stack"]
        assert 0 < work["age_s"] < 30
        threads = [event["stack"] for event in command.events("thread.dumped")]
        assert any("work_in_thread (" in stack for stack in threads)
        await fleet.emptied(10)
    assert_sound(fleet.history, fleet.runs())


async def test_usr1_prints_the_threads_of_a_worker_whose_loop_is_blocked(fleet: Fleet):
    command = fleet.start(processes=1, lease=30, shutdown_timeout=3)
    await command.ready(1)
    async with fleet.producer() as producer:
        number = fleet.history.number()
        await producer.task("block").enqueue(number, 600.0)
        await eventually(lambda: number in fleet.blocked())

        def printed() -> bool:
            command.signal(signal.SIGUSR1)
            return "in block" in command.log.read_text()

        await eventually(printed, 15)


async def test_signals_of_the_supervisor_do_a_worker_no_harm(fleet: Fleet):
    """A process manager may send them to every process of a service."""
    command = fleet.start(processes=1)
    (pid,) = await command.ready(1)
    async with fleet.producer() as producer:
        await producer.send("work_in_process", 1.5)
        await eventually(fleet.runs)
        for worker in fleet.left_behind():
            if worker != command.pid:
                for number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
                    os.kill(worker, number)
        await fleet.emptied(10)
        assert command.workers() == [pid]
        os.kill(pid, signal.SIGTSTP)
        os.kill(pid, signal.SIGCONT)
        assert command.workers() == [pid]
    command.signal()
    assert await command.ended(10) == 0
    assert_sound(fleet.history, fleet.runs())
