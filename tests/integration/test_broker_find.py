"""find: where one job is, and what is known about it; dead jobs, latest first."""

import msgspec
import pytest

from qcore.errors import CodecError
from qcore.model.admission import Terms, UniqueKey, key_name
from qcore.model.codec import ENVELOPE_VERSION, encode
from qcore.model.job import (
    Acked,
    AttemptError,
    Buried,
    Envelope,
    Job,
    JobOutcome,
    JobState,
    JobStatus,
    Retried,
)
from tests.support.moves import (
    LEASE_MS,
    NOW,
    OWNER,
    QUEUE,
    SECOND,
    ack,
    ask,
    claim,
    content,
    failed_state,
    leased,
    put,
    settle,
    status_of,
    token,
)
from tests.support.reclaiming import reclaim_owner
from tests.support.servers import on_standalone_and_cluster

pytestmark = on_standalone_and_cluster

ARGS = encode({"n": 1})
ENVELOPE = encode(Envelope(ENVELOPE_VERSION, "shop.pay", msgspec.Raw(ARGS)))


async def test_find_of_a_ready_job(broker, inspector):
    await put(broker, "a", body=ENVELOPE)
    record = await inspector.job(QUEUE, "a")
    assert (record.id, record.queue, record.status) == ("a", QUEUE, JobStatus.READY)
    assert (record.task, record.payload, record.enqueued_ms) == ("shop.pay", ARGS, NOW)
    assert (record.attempts, record.crashes, record.errors) == (0, 0, ())
    assert (record.at_ms, record.token, record.reason, record.result) == (None,) * 4


async def test_find_of_a_scheduled_job_tells_when_it_is_due(broker, inspector):
    await put(broker, "a", when="+1500")
    record = await inspector.job(QUEUE, "a")
    assert (record.status, record.at_ms) == (JobStatus.SCHEDULED, NOW + 1500)


async def test_find_of_an_active_job_tells_its_token_and_deadline(broker, inspector):
    await leased(broker, "a")
    record = await inspector.job(QUEUE, "a")
    assert (record.status, record.at_ms) == (JobStatus.ACTIVE, NOW + LEASE_MS)
    assert record.token == token("a")


async def test_find_of_a_failed_job_tells_attempts_errors_and_crashes(broker, inspector):
    (a,) = await leased(broker, "a")
    await settle(broker, (a, Retried(0, failed_state("first", "second"))))
    await claim(broker, prefix=f"{OWNER}:2:")
    await reclaim_owner(broker, NOW)
    record = await inspector.job(QUEUE, "a")
    assert (record.status, record.attempts, record.crashes) == (JobStatus.READY, 2, 1)
    assert [error.text for error in record.errors] == ["first", "second"]


async def test_find_of_a_dead_job_tells_the_reason(broker, inspector):
    (a,) = await leased(broker, "a")
    await settle(broker, (a, Buried(failed_state("no", "ValueError: really not"))))
    record = await inspector.job(QUEUE, "a")
    assert (record.status, record.at_ms) == (JobStatus.DEAD, NOW)
    assert record.reason == "ValueError: really not"


@pytest.mark.parametrize(
    ("kind", "text", "reason"),
    [
        ("ValueError", "Traceback\n  File\nValueError: bad\n", "ValueError: bad"),
        ("ProcessDied", "signal 9", "ProcessDied: signal 9"),
        ("GiveUp", "no such customer", "no such customer"),
    ],
)
async def test_find_reason_is_the_last_line_with_its_kind(broker, inspector, kind, text, reason):
    (a,) = await leased(broker, "a")
    error = AttemptError(1, kind, text, NOW, NOW, "host", 1)
    await settle(broker, (a, Buried(encode(JobState(1, (error,))))))
    assert (await inspector.job(QUEUE, "a")).reason == reason


async def test_find_reason_of_a_job_dead_by_crashes_is_not_its_last_error(broker, inspector):
    (a,) = await leased(broker, "a")
    await settle(broker, (a, Retried(0, failed_state("only a failure"))))
    await claim(broker, prefix=f"{OWNER}:2:", now_ms=NOW + SECOND)
    await reclaim_owner(broker, NOW + SECOND, crash_limit=1)
    record = await inspector.job(QUEUE, "a")
    assert record.status is JobStatus.DEAD
    assert record.reason.startswith("its lease was lost 1 time")


async def test_find_of_a_kept_result(broker, inspector):
    (a,) = await leased(broker, "a")
    outcome = encode(JobOutcome(JobStatus.COMPLETED, msgspec.Raw(encode({"n": 1}))))
    await settle(broker, (a, Acked(outcome, 10)))
    record = await inspector.job(QUEUE, "a")
    assert record.status is JobStatus.COMPLETED
    assert msgspec.msgpack.decode(record.result) == {"n": 1}


async def test_find_of_an_unreadable_outcome_is_an_error(broker, inspector):
    (a,) = await leased(broker, "a")
    await settle(broker, (a, Acked(b"\xff", 10)))
    with pytest.raises(CodecError, match="outcome cannot be read"):
        await inspector.job(QUEUE, "a")


async def test_find_of_an_acked_job_that_kept_nothing_is_nothing(broker, inspector):
    (a,) = await leased(broker, "a")
    await ack(broker, a)
    assert await inspector.job(QUEUE, "a") is None
    assert await inspector.job("never-used", "a") is None


async def test_find_of_an_undecodable_payload_shows_all_its_bytes(broker, inspector):
    await put(broker, "a", body=b"\xffgarbage")
    record = await inspector.job(QUEUE, "a")
    assert (record.task, record.payload) == (None, b"\xffgarbage")


async def test_find_of_a_dead_job_without_payload_still_finds_it(broker, inspector):
    (a,) = await leased(broker, "a")
    await settle(broker, (a, Buried(failed_state("payload missing"))))
    await ask(broker, b"HDEL", broker._keys_of(QUEUE).names["jobs"], "a")
    record = await inspector.job(QUEUE, "a")
    assert (record.status, record.payload, record.enqueued_ms) == (JobStatus.DEAD, None, None)


async def test_find_changes_nothing(broker):
    await leased(broker, "a")
    before = await content(broker)
    await status_of(broker, "a")
    assert await content(broker) == before


async def test_dead_lists_the_latest_death_first_and_pages(broker, inspector):
    for n, lease in enumerate(await leased(broker, *"abcde")):
        await settle(broker, (lease, Buried(failed_state(f"no {n}"))), now_ms=NOW + n)
    records = await inspector.dead(QUEUE, limit=2)
    assert [(record.id, record.at_ms) for record in records] == [("e", NOW + 4), ("d", NOW + 3)]
    assert [record.id for record in await inspector.dead(QUEUE, limit=2, skip=2)] == ["c", "b"]
    assert [record.reason for record in await inspector.dead(QUEUE, skip=4)] == ["ValueError: no 0"]
    assert await inspector.dead(QUEUE, skip=5) == []


async def test_dead_agrees_with_the_record_of_each_job(broker, inspector):
    a, b = await leased(broker, "a", "b")
    await settle(broker, (a, Buried(failed_state("no"))), (b, Buried(b"")))
    for record in await inspector.dead(QUEUE):
        assert record == await inspector.job(QUEUE, record.id)


# -- unique keys -----------------------------------------------------------------------------------


async def test_find_tells_the_key_that_a_job_holds(broker, inspector):
    key = UniqueKey(key_name("u", "pay", "=p1"), "started", "keep")
    await broker.enqueue([Job(id, QUEUE, ENVELOPE, terms=Terms(key=key)) for id in ("a", "b", "c")])
    found = (await inspector.job(QUEUE, "a")).unique
    assert (found.kind, found.task, found.value, found.job) == ("unique", "pay", "p1", "a")
    assert (found.until, found.until_ms, found.times) == ("started", None, 3)
    await claim(broker, now_ms=None)
    assert (await inspector.job(QUEUE, "a")).unique is None


async def test_find_tells_no_key_that_another_holds_nor_one_whose_window_is_over(broker, inspector):
    await put(broker, "a", body=ENVELOPE)
    names = broker._keys_of(QUEUE).names
    await ask(broker, b"HSET", names["unique_of"], "a", b"du1 t=k")
    for entry in (b"0 1 1 - 0 b", b"1 1 1 - 0 a", b"\xff", b""):
        await ask(broker, b"HSET", names["unique"], b"u1 t=k", entry)
        assert (await inspector.job(QUEUE, "a")).unique is None
    await ask(broker, b"HSET", names["unique"], b"u1 t=k", b"0 1 1 - 0 a")
    assert (await inspector.job(QUEUE, "a")).unique.value == "k"
