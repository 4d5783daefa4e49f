"""F08: jobs that end badly, in one queue with jobs that did nothing wrong."""

from typing import Any

import pytest

from qcore import JobHandle
from qcore.broker.identity import new_id
from qcore.model.job import ERROR_TEXT_LIMIT, Job, JobStatus
from qcore.model.views import JobRecord
from tests.support.checker import assert_sound
from tests.support.fleet import Fleet, Producer
from tests.support.waiting import eventually
from tests.support.workers import dead, reached

INNOCENTS = 500
KINDS = ("work", "work", "work", "work_in_thread")
PLACES = ("bad", "bad_in_thread", "bad_in_process")


async def send_innocents(producer: Producer, count: int) -> list[int]:
    return [await producer.send(KINDS[i % len(KINDS)], 0.01) for i in range(count)]


async def died(producer: Producer, job: JobHandle[Any], timeout_s: float = 30) -> JobRecord:
    """Wait for a job to be dead, and check that an operator can read why."""
    record = await dead(producer.app, job, timeout_s)
    assert record.reason
    assert record.reason.isprintable()
    assert all(len(error.text.encode()) <= ERROR_TEXT_LIMIT for error in record.errors)
    return record


#: How a job fails -> what an operator reads of it, and the kind of the error.
WORDS = {
    "sys.exit": "the task is done with this world",
    "huge error": "the end of it",
    "give up": "no such customer",
    "segfault": "was ended by SIGSEGV",
    "sigsegv": "was ended by SIGSEGV",
    "_exit": "exited with 3",
}
ERROR_KINDS = {"sys.exit": "SystemExit", "huge error": "ValueError", "give up": "GiveUp"}


async def test_jobs_that_fail_in_any_way_leave_their_neighbours_alone(fleet: Fleet):
    async with fleet.producer() as producer:
        jobs: dict[tuple[str, str], JobHandle[Any]] = {}

        async def send_bad(task: str, how: str) -> None:
            number = fleet.history.number()
            jobs[task, how] = await producer.task(task).enqueue(number, how)
            numbers.add(number)

        innocents, numbers = list[int](), set[int]()
        ways = [(place, how) for place in PLACES for how in ("sys.exit", "huge error", "give up")]
        ways += [("bad_in_process", how) for how in ("segfault", "sigsegv", "_exit")]
        for place, how in ways:
            innocents += await send_innocents(producer, INNOCENTS // len(ways))
            await send_bad(place, how)
        undecodable, raw = producer.app.job(f"default/{new_id()}"), b"\xc1 no envelope"
        await producer.app.broker.enqueue([Job(undecodable.id, "default", raw)])

        async def unknown_here() -> None: ...

        parked = await producer.app.task(name="gone.task")(unknown_here).enqueue()
        innocents += await send_innocents(producer, INNOCENTS - len(innocents))

        command = fleet.start(processes=2)
        await eventually(lambda: fleet.done() >= set(innocents), 30)
        for (place, how), job in jobs.items():
            record = await died(producer, job)
            assert record.attempts == 1
            assert record.crashes == 0
            assert [error.kind for error in record.errors] == [ERROR_KINDS.get(how, "ProcessDied")]
            assert WORDS[how] in record.errors[0].text, (place, how)
            assert WORDS[how] in str(record.reason), (place, how)
        record = await died(producer, undecodable)
        assert record.payload == raw
        assert "is not a qcore envelope" in str(record.reason)

        record = await reached(producer.app, parked, JobStatus.SCHEDULED)
        assert record.attempts == 0
        assert "no worker that took it knows task gone.task" in record.errors[0].text

        command.signal()
        assert await command.ended(15) == 0
        assert not [e for e in command.events("worker.exited") if e["signal"]]
        runs = fleet.runs()
        assert all(len(runs.pop(n)) == 1 for n in numbers)
        assert assert_sound(fleet.history, runs).done == INNOCENTS


@pytest.mark.parametrize(
    ("place", "how"), [("bad", "segfault"), ("bad_in_thread", "sigsegv"), ("bad", "_exit")]
)
async def test_jobs_that_kill_their_worker_leave_their_neighbours_alone(
    fleet: Fleet, place: str, how: str
):
    async with fleet.producer() as producer:
        await send_innocents(producer, 50)
        number = fleet.history.number()
        culprit = await producer.task(place).enqueue(number, how)
        await send_innocents(producer, INNOCENTS - 50)
        command = fleet.start(processes=2)
        record = await died(producer, culprit, 40)
        assert record.crashes == 3
        death = record.deaths[-1]
        assert death.how == ("exit 3" if how == "_exit" else "SIGSEGV")
        assert "it had the process for itself" in str(record.reason)
        crash_handler = [e for e in command.events("worker.exited") if e["pid"] == death.pid]
        assert [e["worker"] for e in crash_handler] == [death.worker]
        assert death.peak_rss_bytes > 1_000_000
        assert (death.jobs, death.beside) == (1, ())
        # who ran beside it when it killed others
        among_all, among_quarantined = record.deaths[:-1]
        assert (among_all.jobs, len(set(among_all.beside) - {culprit.id})) == (100, 20)
        # some of them may have ended before
        assert 1 < among_quarantined.jobs <= 10
        assert len(set(among_quarantined.beside) - {culprit.id}) == among_quarantined.jobs - 1
        await fleet.emptied(20)
        command.signal()
        assert await command.ended(15) == 0
        runs = fleet.runs()
        assert len(runs.pop(number)) == 4
        buried = await producer.app.inspector.dead("default", limit=500)
        assert [job.id for job in buried] == [culprit.id], f"{len(buried) - 1} innocents are dead"
        crashed = {e["pid"] for e in command.events("worker.exited") if e["exit_code"] != 0}
        assert assert_sound(fleet.history, runs, killed=crashed).done == INNOCENTS
