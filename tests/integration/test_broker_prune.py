"""prune: completed, cancelled -> -; and producers that have gone silent."""

import pytest

from qcore.broker.contract import CALL_BYTES
from qcore.broker.redis.broker import PRODUCER_SILENT_MS, TRACE_MS
from qcore.model.job import Acked
from tests.support.content import keys_of
from tests.support.moves import NOW, QUEUE, WAKEUP, ask, content, leased, settle
from tests.support.servers import on_standalone_and_cluster

pytestmark = on_standalone_and_cluster


async def produced(broker, **last: int) -> None:
    """Let these producers have made their last calls then."""
    key = broker._keys_of(QUEUE).names["producers"]
    await ask(broker, b"DEL", key)
    pairs = (word for nonce, at_ms in last.items() for word in (nonce, f"17 {at_ms}"))
    await ask(broker, b"HSET", key, *pairs)


async def test_prune_leaves_a_trace_where_the_time_is_over(broker):
    leases = await leased(broker, "over", "edge", "kept")
    keeps = (10, 20, 21)
    outcomes = (Acked(b"0123456789ab 5", keep_ms) for keep_ms in keeps)
    await settle(broker, *zip(leases, outcomes, strict=True))
    assert await broker.prune(QUEUE, now_ms=NOW + 20) == (2, 0, False)
    assert await content(broker) == {
        "done": {"over": "0123456789a", "edge": "0123456789a", "kept": "21 0123456789ab 5"},
        "expiry": {"over": NOW + 20 + 10, "edge": NOW + 20 + 20, "kept": NOW + 21},
    }


@pytest.mark.parametrize(("keep_ms", "trace_ms"), [(5000, 5000), (9 * TRACE_MS, TRACE_MS)])
async def test_prune_forgets_the_trace_after_as_long_again_but_a_day(broker, keep_ms, trace_ms):
    (a,) = await leased(broker, "a")
    await settle(broker, (a, Acked(b"r", keep_ms)))
    over = NOW + keep_ms
    assert await broker.prune(QUEUE, now_ms=over) == (1, 0, False)
    assert await broker.prune(QUEUE, now_ms=over + trace_ms - 1) == (0, 0, False)
    assert (await content(broker))["done"] == {"a": "r"}
    assert await broker.prune(QUEUE, now_ms=over + trace_ms) == (1, 0, False)
    assert await content(broker) == {}


async def test_prune_of_an_expiry_whose_outcome_is_missing_forgets_it(broker):
    await ask(broker, b"ZADD", broker._keys_of(QUEUE).names["expiry"], NOW, "a")
    assert await broker.prune(QUEUE, now_ms=NOW) == (1, 0, False)
    assert await content(broker) == {}


async def test_prune_is_bounded(broker):
    leases = await leased(broker, *(f"{n:03}" for n in range(250)))
    await settle(broker, *((lease, Acked(b"r", 5)) for lease in leases))
    for now in (NOW + 5, NOW + 10):
        assert [(await broker.prune(QUEUE, now_ms=now))[0] for _ in range(3)] == [200, 50, 0]
    assert await content(broker) == {}


async def test_prune_reads_no_more_than_a_megabyte_and_says_that_there_is_more(broker):
    leases = await leased(broker, *(f"{n:02}" for n in range(24)))
    await settle(broker, *((lease, Acked(bytes(CALL_BYTES // 8), 5)) for lease in leases))
    for _ in range(3):
        assert await broker.prune(QUEUE, now_ms=NOW + 5) == (8, 0, True)
    assert await broker.prune(QUEUE, now_ms=NOW + 5) == (0, 0, False)


async def test_prune_goes_on_while_many_producers_are_silent(broker):
    """Where each request of a server is a process, they come faster than rounds of upkeep."""
    await produced(broker, **{f"{n:05}": NOW - PRODUCER_SILENT_MS - 1 for n in range(5000)})
    await ask(broker, b"HSET", broker._keys_of(QUEUE).names["producers"], "heard", f"17 {NOW}")
    more, cursor = True, 0
    while more:
        _, cursor, more = await broker.prune(QUEUE, cursor=cursor, now_ms=NOW)
    assert len((await keys_of(broker, QUEUE))["producers"]) < 100


async def test_prune_forgets_producers_not_heard_of_for_an_hour(broker):
    old, edge = NOW - PRODUCER_SILENT_MS - 1, NOW - PRODUCER_SILENT_MS
    await produced(broker, old=old, edge=edge, young=NOW)
    assert await broker.prune(QUEUE, now_ms=NOW) == (0, 0, False)
    assert await keys_of(broker, QUEUE) == {
        "producers": {"edge": f"17 {edge}", "young": f"17 {NOW}"}
    }


async def test_prune_keeps_producers_of_a_future_that_was_left(broker):
    """The Redis clock went back: their repeats must still be recognised."""
    await produced(broker, ahead=NOW + 10**9)
    await broker.prune(QUEUE, now_ms=NOW)
    assert set((await keys_of(broker, QUEUE))["producers"]) == {"ahead"}


async def test_prune_comes_past_every_producer_by_its_cursor(broker):
    key = broker._keys_of(QUEUE).names["producers"]
    words = [word for n in range(2000) for word in (f"{n:016x}", f"1 {NOW - 10**9}")]
    await ask(broker, b"HSET", key, *words)
    cursor, turns = 0, 0
    while turns == 0 or cursor:
        _, cursor, _ = await broker.prune(QUEUE, cursor=cursor, now_ms=NOW)
        turns += 1
    assert turns > 1
    assert await keys_of(broker, QUEUE) == {}


async def test_prune_leaves_jobs_alone(broker):
    await leased(broker, "a")
    await broker.wakeups.set([QUEUE])
    before = await content(broker)
    await broker.prune(QUEUE, now_ms=NOW + 10**12)
    assert await content(broker) == before
    assert before["wakeup"] == WAKEUP
