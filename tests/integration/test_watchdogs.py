"""Jobs that hold up their process: it ends, they are charged with that, and nobody else is."""

import asyncio
import os
import signal
from typing import Any

import pytest

from qcore.model.views import JobRecord
from tests.support.checker import assert_sound
from tests.support.commands import Command as Qcore
from tests.support.commands import one_line
from tests.support.fleet import Command, Fleet, Producer
from tests.support.waiting import eventually

#: With it a worker is deaf when its loop is blocked for 0.9 * (LEASE_S - LEASE_S / 3) = 3 s.
LEASE_S = 5.0
DEAF = "stalled for 3 s"
LONG_S = 100.0


async def record_of(producer: Producer, id: str) -> JobRecord:
    record = await producer.app.inspector.job("default", id)
    assert record is not None
    return record


async def begun(fleet: Fleet, number: int, times: int = 1) -> None:
    """Wait until the job runs for the n-th time."""
    await eventually(lambda: len(fleet.runs().get(number, [])) >= times, 40)


async def with_neighbour(fleet: Fleet, producer: Producer, task: str) -> tuple[str, int, str, int]:
    """Enqueue a job that would run for long, and one that does harm; return ids and numbers."""
    neighbour = fleet.history.number()
    beside = await producer.task("work").enqueue(neighbour, LONG_S)
    await begun(fleet, neighbour)
    number = fleet.history.number()
    return (await producer.task(task).enqueue(number)).id, number, beside.id, neighbour


def killed(command: Command) -> list[dict[str, Any]]:
    return command.events("worker.killed")


async def test_job_that_swallows_its_timeout_is_killed_and_charged_alone(fleet: Fleet):
    command = fleet.start(processes=1, lease=30)
    async with fleet.producer() as producer:
        job, number, beside, neighbour = await with_neighbour(fleet, producer, "swallow_timeout")
        await begun(fleet, neighbour, 2)
        exempt = await record_of(producer, beside)
        assert exempt.crashes == 0
        how = "SIGKILL by its supervisor, for another job: kill timeout of 1.5 s"
        assert exempt.deaths[-1].how == how
        await begun(fleet, number, 2)  # at once
        record = await record_of(producer, job)
        assert (record.crashes, record.attempts) == (1, 0)
    death = record.deaths[-1]
    assert death.how == "SIGKILL by its supervisor: kill timeout of 1.5 s"
    assert (death.pid, death.beside) == (fleet.runs()[number][0].pid, (beside,))
    (kill, *_) = killed(command)
    assert (kill["why"], kill["jobs"]) == ("kill timeout of 1.5 s", [job])
    (overdue, *_) = command.events("job.overdue")
    assert (overdue["job"], overdue["queue"], overdue["kill_timeout_s"]) == (job, "default", 1.5)
    assert (overdue["worker"], overdue["pid"]) == (kill["worker"], death.pid)
    dumped = {event["job"]: event["stack"] for event in command.events("job.dumped")}
    assert "swallow_cancellation" in dumped[job]


async def test_job_that_blocks_the_loop_is_named_and_its_worker_is_killed_for_it(fleet: Fleet):
    command = fleet.start(processes=1, lease=LEASE_S)
    async with fleet.producer() as producer:
        job, number, beside, neighbour = await with_neighbour(fleet, producer, "block_for_ever")
        await begun(fleet, neighbour, 2)
        assert (await record_of(producer, beside)).crashes == 0
        await begun(fleet, number, 2)
        record = await record_of(producer, job)
        assert record.crashes == 1
        assert record.deaths[-1].how == f"SIGKILL by its supervisor: {DEAF}"
    (kill, *_) = killed(command)
    assert (kill["why"], kill["jobs"]) == (DEAF, [job])
    # from 0.5 s on, each time that it has doubled
    blocked = [e for e in command.events("loop.blocked") if e["blocked_s"] < 3]
    assert {(event["queue"], event["job"]) for event in blocked} == {("default", job)}
    assert {(event["worker"], event["pid"]) for event in blocked} == {(kill["worker"], kill["pid"])}
    assert {event["task"].rpartition(".")[2] for event in blocked} == {"block_for_ever"}
    assert all("block_for_ever" in event["stack"] for event in blocked)
    assert len([e for e in blocked if e["blocked_s"] < 1]) <= 2
    assert "Current thread 0x" in command.log.read_text() or "Thread 0x" in command.log.read_text()


async def test_job_whose_child_task_blocks_the_loop_is_named_and_charged_alone(fleet: Fleet):
    command = fleet.start(processes=1, lease=LEASE_S)
    async with fleet.producer() as producer:
        neighbour = fleet.history.number()
        beside = await producer.task("work").enqueue(neighbour, LONG_S)
        await begun(fleet, neighbour)
        number = fleet.history.number()
        job = await producer.task("block_in_child").enqueue(number, LONG_S)
        await begun(fleet, neighbour, 2)
        await begun(fleet, number, 2)
        assert (await record_of(producer, beside.id)).crashes == 0
        assert (await record_of(producer, job.id)).crashes == 1
    (kill, *_) = killed(command)
    assert (kill["why"], kill["jobs"]) == (DEAF, [job.id])


async def test_job_that_stops_every_thread_is_not_known_and_all_are_charged(fleet: Fleet):
    command = fleet.start(processes=1, lease=LEASE_S)
    async with fleet.producer() as producer:
        # which is known, and over
        before = await producer.send("block", 1.2)
        await eventually(lambda: before in fleet.done(), 30)
        job, number, beside, neighbour = await with_neighbour(fleet, producer, "hold_interpreter")
        await begun(fleet, neighbour, 2)
        assert (await record_of(producer, beside)).crashes == 1
        await begun(fleet, number, 2)
        assert (await record_of(producer, job)).crashes == 1
    (kill, *_) = killed(command)
    assert (kill["why"], kill["jobs"]) == (DEAF, [])


async def test_loop_that_is_blocked_for_a_while_is_logged_and_nothing_else_happens(fleet: Fleet):
    command = fleet.start(processes=1, lease=30)
    async with fleet.producer() as producer:
        number = fleet.history.number()
        job = await producer.task("block").enqueue(number, 2.0)
        await eventually(lambda: number in fleet.done(), 30)
        await fleet.emptied(10)
    blocked = command.events("loop.blocked")
    assert [event["job"] for event in blocked] == [job.id] * len(blocked)
    assert 1 <= len(blocked) <= 2
    assert not killed(command)
    assert not command.events("watchdog.failed")


async def test_worker_with_a_thread_that_does_not_end_is_replaced_and_nobody_is_harmed(
    fleet: Fleet,
):
    command = fleet.start(processes=1, lease=30, shutdown_timeout=30)
    (first,) = await command.ready(1)
    async with fleet.producer() as producer:
        number = fleet.history.number()
        job = await producer.task("hang_in_thread").enqueue(number)
        neighbour = fleet.history.number()
        await producer.task("work").enqueue(neighbour, 5.0)
        await eventually(lambda: command.events("worker.replaced"), 30)
        await eventually(lambda: first not in command.workers(), 30)
        record = await record_of(producer, job.id)
    assert (record.status, record.crashes, record.attempts) == ("dead", 0, 1)
    assert [error.kind for error in record.errors] == ["JobTimedOut"]
    (replaced,) = command.events("worker.replaced")
    assert replaced["why"] == "a thread goes on past its kill timeout"
    assert [event["count"] for event in command.events("threads.abandoned")] == [1]
    (hung,) = command.events("thread.hung")
    assert (hung["queue"], hung["job"]) == ("default", job.id)
    assert "hang_in_thread" in hung["stack"]
    (run,) = fleet.runs()[neighbour]
    assert (run.pid, run.ended_at is None) == (first, False)
    assert not killed(command)


async def test_worker_that_was_stopped_is_killed_and_its_job_is_not_condemned(fleet: Fleet):
    """Whoever sent the signal, it was not the job; and nobody waits for its lease."""
    command = fleet.start(processes=1, lease=LEASE_S)
    async with fleet.producer() as producer:
        number = fleet.history.number()
        job = await producer.task("work").enqueue(number, LONG_S)
        for run in range(3):
            await begun(fleet, number, run + 1)
            os.kill(fleet.runs()[number][run].pid, signal.SIGSTOP)
        await begun(fleet, number, 4)
        record = await record_of(producer, job.id)
        assert record.crashes == 3
        stopped = f"SIGKILL by its supervisor: {DEAF}: it was stopped by a signal"
        assert [death.how for death in record.deaths] == [stopped] * 3
    assert [e["why"] for e in killed(command)] == [f"{DEAF}: it was stopped by a signal"] * 3
    assert ".quarantine." in killed(command)[-1]["worker"]
    assert not command.events("job.condemned")


async def test_supervisor_that_was_stopped_kills_no_worker_that_lives(fleet: Fleet):
    command = fleet.start(processes=2, lease=LEASE_S)
    await command.ready(2)
    async with fleet.producer() as producer:
        await producer.send("work", 12.0)
        command.signal(signal.SIGSTOP)
        await producer.send("work", 0.0)
        await producer.send("work", 8.0)
        await eventually(lambda: len(fleet.done()) == 2, 20)  # longer than two stall limits
        command.signal(signal.SIGCONT)
        await fleet.emptied(20)
    assert assert_sound(fleet.history, fleet.runs()).runs == 3
    assert not killed(command)


async def test_machine_that_was_frozen_kills_no_worker_that_goes_on_after_its_supervisor(
    fleet: Fleet,
):
    command = fleet.start(processes=2, lease=LEASE_S)
    workers = await command.ready(2)
    async with fleet.producer() as producer:
        numbers = [await producer.send("work", 12.0) for _ in range(4)]
        for number in numbers:
            await begun(fleet, number)
        for pid in (command.pid, *workers):
            os.kill(pid, signal.SIGSTOP)
        await asyncio.sleep(1.5 * LEASE_S)  # the fault
        os.kill(command.pid, signal.SIGCONT)
        await asyncio.sleep(1.0)  # the fault goes on: it looks at them several times meanwhile
        for pid in workers:
            os.kill(pid, signal.SIGCONT)
        await fleet.emptied(20)
    assert assert_sound(fleet.history, fleet.runs()).runs == 4
    assert not killed(command)


async def test_job_that_was_frozen_has_the_time_to_end_after_its_timeout(fleet: Fleet):
    command = fleet.start(processes=1, lease=30)
    (worker,) = await command.ready(1)
    async with fleet.producer() as producer:
        number = fleet.history.number()
        job = await producer.task("work_too_long").enqueue(number)
        await begun(fleet, number)
        for pid in (command.pid, worker):
            os.kill(pid, signal.SIGSTOP)
        await asyncio.sleep(3.0)  # the fault, longer than the kill timeout
        for pid in (worker, command.pid):
            os.kill(pid, signal.SIGCONT)
        await fleet.emptied(10)
        record = await record_of(producer, job.id)
    assert (record.status, record.crashes, record.attempts) == ("dead", 0, 1)
    assert not killed(command)
    assert not command.events("job.overdue")


async def test_job_that_is_cancelled_and_goes_on_is_cancelled_when_its_process_is_killed(
    fleet: Fleet,
):
    command = fleet.start(processes=1, lease=30)
    async with fleet.producer() as producer:
        number = fleet.history.number()
        job = await producer.task("swallow_timeout").enqueue(number)
        await begun(fleet, number)
        await job.cancel()

        async def is_cancelled() -> bool:
            return (await record_of(producer, job.id)).status == "cancelled"

        await eventually(is_cancelled, 20)
    assert len(killed(command)) == 1
    assert len(fleet.runs()[number]) == 1


async def test_job_that_may_run_once_is_dead_when_its_process_is_killed(fleet: Fleet):
    fleet.start(processes=1, lease=30)
    async with fleet.producer() as producer:
        number = fleet.history.number()
        job = await producer.task("swallow_once").enqueue(number)

        async def dead() -> JobRecord | None:
            record = await record_of(producer, job.id)
            return record if record.status == "dead" else None

        record = await eventually(dead, 20)
        assert record is not None
    assert record.deaths[-1].how == "SIGKILL by its supervisor: kill timeout of 1.5 s"
    assert "at most once: its run of" in str(record.reason)
    assert len(fleet.runs()[number]) == 1


async def test_job_that_does_not_end_is_charged_also_while_its_supervisor_stops(fleet: Fleet):
    command = fleet.start(processes=1, lease=30, shutdown_timeout=20)
    async with fleet.producer() as producer:
        job, number, beside, _ = await with_neighbour(fleet, producer, "swallow_timeout")
        await begun(fleet, number)
        command.signal()
        assert await command.ended(20) == 0
        assert [event["jobs"] for event in killed(command)] == [[job]]
        record = await record_of(producer, job)
        assert (record.status, record.crashes) == ("ready", 1)
        record = await record_of(producer, beside)
        assert (record.status, record.crashes) == ("ready", 0)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (
            ("--lease", "30", "--stall", "20"),
            "--stall is 20 s and --lease 30 s, renewed every 10 s",
        ),
        (("--lease", "30", "--stall", "2"), "--stall is 2 s, and a worker"),
    ],
)
async def test_stall_limit_that_does_not_fit_is_refused(
    qcore: Qcore, redis_url: str, flags: tuple[str, ...], said: str
):
    result = await qcore("worker", "tests.support.fleet_tasks:app", "--url", redis_url, *flags)
    assert result.code == 1
    assert said in one_line(result)


async def test_job_whose_timeout_ends_while_another_holds_the_loop_is_not_to_blame(fleet: Fleet):
    """It is not told before the loop goes on, and has its time to end from then on."""
    command = fleet.start(processes=1, lease=60)
    await command.ready(1)
    async with fleet.producer() as producer:
        number = fleet.history.number()
        job = await producer.task("work_too_long").enqueue(number)  # ends 0.5 s after its start
        await producer.send("block_at_once", 4.0)
        await fleet.emptied(20)
        record = await record_of(producer, job.id)
    assert (record.status, record.crashes, record.attempts) == ("dead", 0, 1)
    assert "job.overdue" not in {event["event"] for event in command.all_events()}
    assert not killed(command)
