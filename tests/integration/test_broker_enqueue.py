"""enqueue: - -> ready or scheduled."""

import asyncio
import time

import pytest

from qcore.broker.identity import new_id
from qcore.broker.redis import scripts
from qcore.broker.redis.broker import Broker
from qcore.errors import BrokerError, PayloadTooLarge
from qcore.model.admission import Admission
from qcore.model.job import Job
from qcore.settings import BrokerConfig
from tests.support.content import keys_of
from tests.support.moves import (
    NOW,
    QUEUE,
    SECOND,
    WAKEUP,
    ack,
    ask,
    claim,
    content,
    leased,
    put,
    stored,
    take_wakeup,
)
from tests.support.servers import on_standalone_and_cluster

pytestmark = on_standalone_and_cluster


async def call(broker: Broker, nonce: str, number: int, *items: object, now_ms: int = NOW) -> list:
    """Send one enqueue call as a producer does; return the ids that were known."""
    script = scripts.ENQUEUE.call(broker._keys_of(QUEUE), now_ms, nonce, number, *items)
    return (await broker._ask([script]))[0]


async def test_enqueue_writes_exactly_these_keys(broker):
    assert await call(broker, "nonce", 7, "a", "", b"payload") == []
    assert await keys_of(broker, QUEUE) == {
        "ready": ["a"],
        "jobs": {"a": stored("payload")},
        "producers": {"nonce": f"7 {NOW}"},
        "wakeup": WAKEUP,
        "meta": {"epoch": f"{NOW}"},
    }


@pytest.mark.parametrize(("fence", "epoch"), [("5", "0"), ("many", f"{NOW}")])
async def test_enqueue_to_a_queue_that_an_older_version_filled_has_an_epoch_of_since_ever(
    broker, fence, epoch
):
    await ask(broker, b"HSET", broker._keys_of(QUEUE).names["meta"], "fence", fence)
    await put(broker, "a")
    assert (await keys_of(broker, QUEUE))["meta"] == {"fence": fence, "epoch": epoch}
    await put(broker, "b", now_ms=NOW + 5)
    assert (await keys_of(broker, QUEUE))["meta"]["epoch"] == epoch


async def test_enqueue_keeps_the_order_given(broker):
    ids = [f"{n:03}" for n in range(500)]
    await put(broker, *ids)
    await put(broker, "last")
    assert (await content(broker))["ready"] == [*ids, "last"]


async def test_enqueue_with_delay_schedules_from_the_redis_clock(broker):
    await put(broker, "a", when="+1500")
    assert await content(broker) == {
        "scheduled": {"a": NOW + 1500},
        "jobs": {"a": stored("a")},
        "wakeup": WAKEUP,
    }


async def test_enqueue_with_future_eta_schedules_at_that_time(broker):
    await put(broker, "a", when=f"@{NOW + 60 * SECOND}")
    found = await content(broker)
    assert found["scheduled"] == {"a": NOW + 60 * SECOND}
    assert "ready" not in found


@pytest.mark.parametrize("when", ["+0", f"@{NOW}", f"@{NOW - SECOND}", "@0"])
async def test_enqueue_that_is_due_is_ready_at_once(broker, when):
    await put(broker, "a", when=when)
    found = await content(broker)
    assert found["ready"] == ["a"]
    assert "scheduled" not in found


async def test_enqueue_of_mixed_times_keeps_the_order_of_the_ready(broker):
    items = ("a", "", b"", "b", "+5", b"", "c", f"@{NOW - 1}", b"", "d", f"@{NOW + 1}", b"")
    await call(broker, "nonce", 1, *items)
    found = await content(broker)
    assert found["ready"] == ["a", "c"]
    assert found["scheduled"] == {"d": NOW + 1, "b": NOW + 5}


async def test_enqueue_of_a_known_id_changes_nothing_and_says_so(broker):
    await put(broker, "a")
    before = await content(broker)
    assert await put(broker, "a", now_ms=NOW + SECOND) == [b"a"]
    assert await content(broker) == before


async def test_enqueue_of_a_known_id_with_another_payload_is_told_apart(broker):
    await put(broker, "a")
    before = await content(broker)
    assert await put(broker, "a", body=b"other", now_ms=NOW + SECOND) == [[b"a"]]
    assert await content(broker) == before


async def test_two_jobs_under_one_id_are_an_error_of_the_second_alone(broker):
    """Never a success: what another job's id stands for is not what this caller asked for."""
    assert await broker.enqueue([Job("a", QUEUE, b"one")]) == []
    second, *neighbours = await asyncio.gather(
        broker.enqueue([Job("a", QUEUE, b"two")]),
        broker.enqueue([Job("b", QUEUE, b"")]),
        broker.enqueue([Job("c", QUEUE, b"")]),
        return_exceptions=True,
    )
    assert isinstance(second, BrokerError)
    assert "a not enqueued: another job has this id" in str(second)
    assert neighbours == [[], []]
    assert await broker.enqueue([Job("a", QUEUE, b"one")]) == [Admission("a", "known", "a")]
    assert (await content(broker))["ready"] == ["a", "b", "c"]


async def test_taken_id_among_others_is_named_and_the_others_are_enqueued(broker):
    await put(broker, "b")
    with pytest.raises(BrokerError) as failure:
        await broker.enqueue([Job(id, QUEUE, b"other") for id in "abc"])
    assert "b not enqueued: another job has this id" in str(failure.value)
    assert "the rest of the call, 2 of 3, is enqueued" in str(failure.value)
    assert (await content(broker))["ready"] == ["b", "a", "c"]


async def test_taken_ids_are_counted_where_they_are_many(broker):
    await put(broker, *"abcde")
    with pytest.raises(BrokerError) as failure:
        await broker.enqueue([Job(id, QUEUE, b"other") for id in "abcde"])
    assert "a, b, c and 2 more not enqueued" in str(failure.value)
    assert "the rest" not in str(failure.value)


async def test_enqueue_with_a_known_id_accepts_its_neighbours(broker):
    await put(broker, "b")
    assert await put(broker, "a", "b", "c") == [b"b"]
    assert (await content(broker))["ready"] == ["b", "a", "c"]


async def test_enqueue_of_an_active_id_is_refused_as_known(broker):
    await leased(broker, "a")
    before = await content(broker)
    assert await put(broker, "a") == [b"a"]
    assert await content(broker) == before


async def test_enqueue_of_the_same_id_twice_in_a_call_is_one_job(broker):
    assert await put(broker, "a", "a") == [b"a"]
    assert (await content(broker))["ready"] == ["a"]


async def test_enqueue_repeated_under_its_call_number_is_executed_once(broker):
    """The repeat of a call whose reply was lost, even after the job is done and gone."""
    await call(broker, "nonce", 1, "a", "", b"")
    (lease,) = (await claim(broker)).leases
    await ack(broker, lease)
    assert await call(broker, "nonce", 1, "a", "", b"") == []
    assert "ready" not in await content(broker)


async def test_enqueue_repeated_late_after_a_newer_call_is_executed_once(broker):
    await call(broker, "nonce", 1, "a", "", b"")
    await call(broker, "nonce", 10, "b", "", b"")
    assert await call(broker, "nonce", 9, "c", "", b"") == []  # 9 < 10, also as text
    assert (await content(broker))["ready"] == ["a", "b"]


async def test_enqueue_call_numbers_of_producers_are_apart(broker):
    await call(broker, "one", 5, "a", "", b"")
    await call(broker, "two", 1, "b", "", b"", now_ms=NOW + 1)
    found = await keys_of(broker, QUEUE)
    assert found["ready"] == ["a", "b"]
    assert found["producers"] == {"one": f"5 {NOW}", "two": f"1 {NOW + 1}"}


async def test_enqueue_sets_the_wakeup_for_a_ready_job(broker):
    await put(broker, "a")
    await take_wakeup(broker)
    await put(broker, "b")
    assert await take_wakeup(broker)


async def test_enqueue_sets_the_wakeup_only_for_the_earliest_scheduled(broker):
    """A worker sleeps until the first due time: only an earlier one must wake it."""
    await put(broker, "a", when="+5000")
    assert await take_wakeup(broker)
    await put(broker, "b", when="+6000")
    assert not await take_wakeup(broker)
    await put(broker, "c", when="+4000")
    assert await take_wakeup(broker)


async def test_enqueue_of_known_ids_only_sets_no_wakeup(broker):
    await put(broker, "a")
    await take_wakeup(broker)
    await put(broker, "a")
    assert not await take_wakeup(broker)


async def test_enqueue_carries_any_bytes_unchanged(broker):
    body = bytes(range(256)) * 3
    await put(broker, "a", body=body)
    (lease,) = (await claim(broker)).leases
    assert lease.envelope == body
    assert lease.enqueued_ms == NOW


async def test_enqueue_through_the_broker_uses_the_redis_clock(broker):
    seconds, micros = map(int, await ask(broker, b"TIME"))
    await broker.enqueue([Job("a", QUEUE, b"x", delay_ms=60_000), Job("b", QUEUE, b"y")])
    found = await content(broker)
    began = seconds * 1000 + micros // 1000
    assert found["ready"] == ["b"]
    assert began + 60_000 <= found["scheduled"]["a"] <= began + 70_000
    assert await ask(broker, b"SMEMBERS", f"{broker.config.namespace}:queues") == [QUEUE.encode()]


async def test_enqueue_through_the_broker_takes_an_absolute_eta(broker):
    eta_ms = time.time_ns() // 1_000_000 + 3_600_000
    await broker.enqueue([Job("a", QUEUE, b"x", eta_ms=eta_ms)])
    assert (await content(broker))["scheduled"] == {"a": eta_ms}


async def test_enqueue_of_a_payload_over_the_limit_names_job_size_and_limit(broker):
    with pytest.raises(PayloadTooLarge, match=r"job big take 131073 bytes, the limit is 131072"):
        await broker.enqueue([Job("ok", QUEUE, b""), Job("big", QUEUE, bytes(131_073))])
    assert await content(broker) == {}


async def test_enqueue_of_a_payload_at_the_limit_is_accepted(broker):
    await broker.enqueue([Job("big", QUEUE, bytes(131_072))])
    assert (await content(broker))["ready"] == ["big"]


async def test_enqueue_of_one_payload_larger_than_a_call_is_accepted(server_url, namespace):
    """The limit of bytes in one call groups jobs, it refuses none."""
    limit = 3 * 1024 * 1024
    config = BrokerConfig(url=server_url, namespace=namespace, payload_limit_bytes=limit)
    broker = Broker(config)
    try:
        await asyncio.gather(
            broker.enqueue([Job("small", QUEUE, b"x")]),
            broker.enqueue([Job("big", QUEUE, bytes(limit))]),
            broker.enqueue([Job("after", QUEUE, b"x")]),
        )
        assert sorted((await content(broker))["ready"]) == ["after", "big", "small"]
    finally:
        await broker.close()


async def test_enqueue_returns_the_ids_that_were_there(broker):
    id = new_id()
    assert await broker.enqueue([Job(id, QUEUE, b"")]) == []
    assert await broker.enqueue([Job(id, QUEUE, b"")]) == [Admission(id, "known", id)]


async def test_enqueue_of_a_queue_registers_its_name_after_a_cancelled_caller(broker):
    """A caller cancelled while the name was on its way must not hide the queue for ever."""
    first = asyncio.ensure_future(broker.enqueue([Job("a", QUEUE, b"")]))
    await asyncio.sleep(0)  # it has begun, and waits for Redis
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    await broker.enqueue([Job("b", QUEUE, b"")])
    assert await ask(broker, b"SMEMBERS", f"{broker.config.namespace}:queues") == [QUEUE.encode()]


async def test_enqueue_of_concurrent_callers_keeps_their_order(broker):
    """The first use of a queue is no exception."""
    ids = [f"{n:02}" for n in range(20)]
    await asyncio.gather(*(broker.enqueue([Job(id, QUEUE, b"")]) for id in ids))
    assert (await content(broker))["ready"] == ids
