"""Jobs that have lost two leases run in quarantine, where a process that ends tells who did it."""

import os
import signal
import sys
from collections.abc import AsyncIterator
from typing import Any

import pytest

from qcore import JobHandle
from qcore.runtime.host.machine import stat_of
from tests.support.fleet import Command, Fleet, Producer
from tests.support.waiting import eventually
from tests.support.workers import dead, record_of

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals")

#: Until a job has lost its last lease: each process takes a second to start, and the job waits.
LONG_S = 80


@pytest.fixture
async def producer(fleet: Fleet) -> AsyncIterator[Producer]:
    async with fleet.producer() as producer:
        yield producer


@pytest.fixture
def command(fleet: Fleet) -> Command:
    return fleet.start(processes=1, lease=30)


async def enqueued(
    fleet: Fleet, producer: Producer, task: str, how: float | str
) -> tuple[int, JobHandle[Any]]:
    number = fleet.history.number()
    return number, await producer.task(task).enqueue(number, how)


async def killed_while_it_runs(fleet: Fleet, number: int, times: int) -> None:
    """Kill the worker of each of the first runs of a job, from outside."""
    for run in range(times):
        found = await eventually(lambda n=run: fleet.runs().get(number, [])[n:], 30)
        fleet.kill_worker(found[0].pid)


async def done(fleet: Fleet, number: int, job: JobHandle[Any]) -> None:
    await eventually(lambda: number in fleet.done(), LONG_S)
    assert await job.result(timeout=10) is None


def worker_of(command: Command, pid: int) -> str:
    (event,) = [e for e in command.events("worker.spawned") if e["pid"] == pid]
    return event["worker"]


async def test_third_run_has_a_process_for_itself_and_that_leaves_when_none_waits(
    fleet: Fleet, command: Command, producer: Producer
):
    number, job = await enqueued(fleet, producer, "work", 1.0)
    await killed_while_it_runs(fleet, number, 2)
    await done(fleet, number, job)
    runs = fleet.runs()[number]
    workers = [worker_of(command, run.pid) for run in runs]
    assert workers == ["worker.1", "worker.1", "worker.quarantine.1"]
    pid = runs[-1].pid
    (left,) = await eventually(
        lambda: [e for e in command.events("worker.exited") if e["pid"] == pid], 20
    )
    assert (left["exit_code"], left["signal"]) == (0, None)
    assert not command.events("job.condemned")


async def test_kills_from_outside_bury_no_job_before_they_are_five(
    fleet: Fleet, command: Command, producer: Producer
):
    """Anybody may have sent them: the out-of-memory killer, or an operator."""
    number, job = await enqueued(fleet, producer, "work", 1.0)
    await killed_while_it_runs(fleet, number, 4)
    await done(fleet, number, job)
    assert not command.events("job.condemned")
    assert len(fleet.runs()[number]) == 5


async def test_fifth_kill_buries_the_job_and_says_how(
    fleet: Fleet, command: Command, producer: Producer
):
    number, job = await enqueued(fleet, producer, "work", 60.0)
    await killed_while_it_runs(fleet, number, 5)
    record = await dead(producer.app, job, LONG_S)
    death = record.deaths[-1]
    assert (death.how, death.worker) == ("SIGKILL", "worker.quarantine.1")
    assert death.pid == fleet.runs()[number][-1].pid
    assert death.peak_rss_bytes > 1_000_000
    assert record.attempts == 0
    assert "SIGKILL; it had the process for itself" in (record.reason or "")
    await eventually(lambda: command.events("job.condemned"))  # it is written down after that
    (event,) = command.events("job.condemned")
    assert (event["job"], event["how"]) == (job.id, "SIGKILL")


async def test_job_that_exits_with_three_is_dead_when_it_is_alone(fleet: Fleet, producer: Producer):
    command = fleet.start(processes=2, lease=30)
    number, job = await enqueued(fleet, producer, "bad", "_exit")
    record = await dead(producer.app, job, LONG_S)
    death = record.deaths[-1]
    assert death.how == "exit 3"
    assert record.crashes == 3
    assert len(fleet.runs()[number]) == 4
    # whoever revives it gives it a new life: it is no quarantined job any more
    assert await producer.app.inspector.revive("default", [job.id]) == [job.id]
    await eventually(lambda: len(fleet.runs()[number]) > 4, 20)
    last = fleet.runs()[number][4]
    assert "quarantine" not in worker_of(command, last.pid)


async def test_quarantined_job_of_a_pool_runs_in_a_pool_of_its_own(
    fleet: Fleet, command: Command, producer: Producer
):
    number, job = await enqueued(fleet, producer, "work_in_process", 1.0)
    await killed_while_it_runs(fleet, number, 2)
    await done(fleet, number, job)
    last = fleet.runs()[number][-1]
    assert worker_of(command, last.pid) == "worker.quarantine.1"


SPAWNS = """
import asyncio, pathlib, subprocess

@app.task
async def spawn() -> None:
    pathlib.Path({!r}).write_text(f"{{subprocess.Popen(['sleep', '3600']).pid}}\\n")
    await asyncio.sleep(3600)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
async def test_what_a_worker_started_does_not_outlive_it(fleet: Fleet, producer: Producer):
    """Its job runs again by then, and two at the same time may do harm."""
    file = fleet.folder / "pid"
    fleet.write_tasks("shop", SPAWNS.format(str(file)))
    command = fleet.start(processes=1, app="shop:app")
    (first,) = await command.ready(1)

    async def spawn() -> None: ...

    await producer.app.task(name="shop.spawn", queue="default")(spawn).enqueue()
    await eventually(lambda: file.exists() and file.read_text().endswith("\n"), 20)
    started = int(file.read_text())
    assert stat_of(started)
    fleet.kill_worker(first)
    await eventually(lambda: stat_of(started)[:1] in ([], [b"Z"]))


async def test_pool_process_that_a_quarantined_job_ends_is_an_error_of_its_run(
    fleet: Fleet, command: Command, producer: Producer
):
    """The pool saw it die: that is proof enough, its worker lives on."""
    number = fleet.history.number()
    keys = producer.app.broker._keys_of("default").names
    job = await producer.task("bad_in_process").options(delay=0.5).enqueue(number, "_exit")
    (now, _) = (await producer.app.broker._ask([(b"TIME",)]))[0]
    await producer.app.broker._ask([(b"HSET", keys["crashes"], job.id, f"2 {int(now)}000")])
    record = await dead(producer.app, job, LONG_S)
    assert record.deaths == ()
    assert "exited with 3" in (record.reason or "")
    (run,) = fleet.runs()[number]
    assert worker_of(command, run.pid) == "worker.quarantine.1"
    exits = command.events("worker.exited")
    assert not [e for e in exits if e["signal"] or e["exit_code"]]


async def test_quarantined_wait_for_nobody_when_the_supervisor_stops(
    fleet: Fleet, command: Command, producer: Producer
):
    number, job = await enqueued(fleet, producer, "work", 60.0)
    await killed_while_it_runs(fleet, number, 2)
    await eventually(lambda: len(fleet.runs()[number]) == 3, 30)
    command.signal(signal.SIGTERM)
    command.signal(signal.SIGTERM)
    await command.ended(15)
    record = await record_of(producer.app, job)
    assert (record.status, record.crashes) == ("ready", 2)
    (waiting,) = await producer.app.broker._ask(
        [(b"LRANGE", producer.app.broker._keys_of("default").names["quarantine"], 0, -1)]
    )
    assert waiting == [job.id.encode()]


def most_at_once(fleet: Fleet, numbers: set[int], begin: float = 0.0) -> int:
    """Return how many of these jobs ran at the same time, of the runs that began after a moment."""
    runs = [run for n, runs in fleet.runs().items() if n in numbers for run in runs]
    ended = [
        (run.started_at, run.ended_at) for run in runs if run.ended_at and run.started_at > begin
    ]
    return max((sum(a <= start < b for a, b in ended) for start, _ in ended), default=0)


async def charged(producer: Producer, jobs: list[JobHandle[Any]], count: int) -> None:
    """Let these have lost so many leases in the past, and be due soon."""
    names = producer.app.broker._keys_of("default").names
    ((now, _),) = await producer.app.broker._ask([(b"TIME",)])
    words = [word for job in jobs for word in (job.id, f"{count} {int(now)}000")]
    await producer.app.broker._ask([(b"HSET", names["crashes"], *words)])


async def test_quarantined_of_a_host_that_was_killed_run_several_at_a_time(
    fleet: Fleet, producer: Producer
):
    numbers = [fleet.history.number() for _ in range(60)]
    task = producer.task("work").options(delay=1)
    jobs = [await task.enqueue(number, 0.3) for number in numbers]
    await charged(producer, jobs, 2)
    command = fleet.start(processes=1, lease=30)
    await eventually(lambda: fleet.done() >= set(numbers), LONG_S)
    assert most_at_once(fleet, set(numbers)) > 5
    workers = {worker_of(command, run.pid) for runs in fleet.runs().values() for run in runs}
    assert workers == {"worker.quarantine.1"}


async def test_those_beside_a_culprit_run_together_again_when_it_is_condemned(
    fleet: Fleet, producer: Producer
):
    numbers = [fleet.history.number() for _ in range(40)]
    culprit = fleet.history.number()
    task = producer.task("work").options(delay=1)
    bad = await producer.task("bad").options(delay=1).enqueue(culprit, "segfault")
    jobs = [await task.enqueue(number, 0.3) for number in numbers]
    await charged(producer, [bad, *jobs], 2)
    command = fleet.start(processes=1, lease=30)
    record = await dead(producer.app, bad, LONG_S)
    await eventually(lambda: fleet.done() >= set(numbers), LONG_S)
    assert len(fleet.runs()[culprit]) == 2, "with others, and alone"
    assert "it had the process for itself, after 3 lost" in (record.reason or "")
    beside = {event["job"] for event in command.events("job.acquitted")}
    assert beside == set(record.deaths[0].beside)
    acquitted = {n for n, job in zip(numbers, jobs, strict=True) if job.id in beside}
    assert len(acquitted) > 3
    assert most_at_once(fleet, acquitted, fleet.runs()[culprit][-1].started_at) > 3
    assert all(len(fleet.runs()[n]) <= 2 for n in numbers)
