"""F06, F07: jobs that block the loop, never end, take all memory or crash, among thousands."""

from collections.abc import Sequence

import pytest

from qcore.model.views import JobRecord
from tests.support.checker import assert_sound
from tests.support.fleet import Command, Fleet, Producer
from tests.support.waiting import eventually

INNOCENTS = 3000
#: A worker is deaf when its loop is blocked for 0.9 * (LEASE_S - LEASE_S / 3) s.
LEASE_S = 4.0
#: Task, its other arguments -> how its process ended.
HARM: dict[tuple[str, tuple[object, ...]], str] = {
    ("block_for_ever", ()): "SIGKILL by its supervisor: stalled for 2.4 s",
    ("hold_interpreter", ()): "SIGKILL by its supervisor: stalled for 2.4 s",
    ("swallow_timeout", ()): "SIGKILL by its supervisor: kill timeout of 1.5 s",
    ("bomb", (False,)): "MB of memory, allowed are 315",
    ("bomb", (True,)): "SIGKILL by its supervisor: ",  # it blocks: on a busy machine that is first
    ("bad", ("segfault",)): "SIGSEGV",
}


async def died(producer: Producer, id: str) -> JobRecord:
    async def look() -> JobRecord | None:
        record = await producer.app.inspector.job("default", id)
        return record if record is not None and record.status == "dead" else None

    record = await eventually(look, 90)
    assert record is not None
    return record


async def go_through(
    fleet: Fleet, harm: Sequence[tuple[str, tuple[object, ...]]], *, beside_s: float
) -> tuple[Command, list[JobRecord]]:
    """Run harmful jobs among innocent ones to their ends; return how the harmful ended."""
    async with fleet.producer() as producer:
        ids: list[str] = []
        numbers: set[int] = set()
        for task, arguments in harm:
            for _ in range(INNOCENTS // len(harm)):
                await producer.send("work")
            numbers.add(number := fleet.history.number())
            ids.append((await producer.task(task).enqueue(number, *arguments)).id)
            for _ in range(20):
                await producer.send("work", beside_s)
        command = fleet.start(processes=2, lease=LEASE_S, max_memory="200M:300M")
        records = [await died(producer, id) for id in ids]
        await fleet.emptied(30)
        dead = await producer.app.inspector.dead("default", limit=500)
        assert {record.id for record in dead} == set(ids)
    command.signal()
    assert await command.ended(15) == 0
    ended = {e["pid"] for e in command.events("worker.exited") if e["exit_code"] != 0}
    innocents = {n: runs for n, runs in fleet.runs().items() if n not in numbers}
    findings = assert_sound(fleet.history, innocents, killed=ended)
    assert findings.done == len(innocents) == len(fleet.history.outcomes)
    return command, records


def check_record(record: JobRecord, harm: tuple[str, tuple[object, ...]]) -> None:
    assert record.task is not None
    assert record.task.endswith(f".{harm[0]}")
    assert record.attempts == 0
    assert record.crashes in (
        2,
        3,
    )  # one that nobody can name has a third, beside other quarantined jobs
    own = record.deaths[-1]
    assert HARM[harm] in own.how
    assert ".quarantine." in own.worker
    assert own.pid > 0
    assert own.peak_rss_bytes > 10_000_000
    assert HARM[harm] in str(record.reason)
    # who ran beside it when it did harm to others; it may have come to an idle worker, alone
    assert all((one.jobs > 1) == bool(one.beside) for one in record.deaths[:-1])


@pytest.mark.parametrize("harm", [("block_for_ever", ()), ("swallow_timeout", ())])
async def test_job_that_does_not_end_is_dead_and_charged_alone(
    fleet: Fleet, harm: tuple[str, tuple[object, ...]]
):
    """F06: it is known who did it, so that no neighbour is ever suspected."""
    # longer than a harmful run, so that there are neighbours in both
    command, (record,) = await go_through(fleet, [harm], beside_s=3.0)
    check_record(record, harm)
    assert [event["jobs"] for event in command.events("worker.killed")] == [[record.id]] * 3
    assert [event["job"] for event in command.events("job.condemned")] == [record.id]
    charged = [e for e in command.events("job.reclaimed") if e["to"] == "scheduled"]
    assert [event["job"] for event in charged] == [record.id]
    # a quarantine process was started for it alone
    alone = [e for e in command.events("worker.spawned") if ".quarantine." in e["worker"]]
    assert len(alone) <= 2


@pytest.mark.timeout(180)
async def test_jobs_that_do_harm_in_every_way_are_dead_and_thousands_beside_them_are_done(
    fleet: Fleet,
):
    """F06, F07 and F08 at once: memory, a crash, a blocked loop, a swallowed cancellation."""
    command, records = await go_through(fleet, list(HARM), beside_s=0.5)
    for record, harm in zip(records, HARM, strict=True):
        assert record.task is not None
        assert HARM[harm] in record.deaths[-1].how
        assert record.deaths[-1].peak_rss_bytes > 10_000_000
        assert record.deaths[-1].pid > 0
        assert any(death.beside for death in record.deaths)
    condemned = {event["job"] for event in command.events("job.condemned")}
    assert condemned == {record.id for record in records}
