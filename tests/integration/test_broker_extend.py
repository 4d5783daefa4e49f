"""extend: active -> active with a new deadline."""

from tests.support.moves import (
    LEASE_MS,
    NOW,
    QUEUE,
    SECOND,
    ack,
    content,
    leased,
    running,
    stored,
    tokens,
)
from tests.support.reclaiming import reclaim, swept
from tests.support.servers import on_standalone_and_cluster

pytestmark = on_standalone_and_cluster


async def test_extend_moves_the_deadline_and_nothing_else(broker):
    (a, _) = await leased(broker, "a", "b")
    assert await broker.extend([a], LEASE_MS, now_ms=NOW + 10 * SECOND) == set()
    assert await content(broker) == {
        "active": tokens("b") | tokens("a", deadline=NOW + 10 * SECOND + LEASE_MS),
        "running": running("a", "b"),
        "jobs": {"a": stored("a"), "b": stored("b")},
    }


async def test_extend_revives_an_expired_lease(broker):
    """An expired lease is not lost until somebody reclaims it."""
    (a,) = await leased(broker, "a")
    later = NOW + LEASE_MS + 60 * SECOND
    await swept(broker, later - 1)
    assert await broker.extend([a], LEASE_MS, now_ms=later) == set()
    assert await reclaim(broker, later + 1) == []
    assert await ack(broker, a) == set()


async def test_extend_of_a_reclaimed_lease_is_lost_and_writes_nothing(broker):
    a, b = await leased(broker, "a", "b")
    later = NOW + LEASE_MS
    await swept(broker, later - 1)
    assert await broker.extend([b], LEASE_MS, now_ms=later) == set()
    await reclaim(broker, later)
    before = await content(broker)
    assert await broker.extend([a], LEASE_MS, now_ms=later) == {a.token}
    assert await content(broker) == before


async def test_extend_of_some_lost_still_renews_the_others(broker):
    a, b, c = await leased(broker, "a", "b", "c")
    await ack(broker, b)
    assert await broker.extend([a, b, c], LEASE_MS, now_ms=NOW + 1) == {b.token}
    assert (await content(broker))["active"] == tokens("a", "c", deadline=NOW + 1 + LEASE_MS)


async def test_extend_never_creates_a_lease(broker):
    (a,) = await leased(broker, "a")
    await ack(broker, a)
    assert await broker.extend([a], LEASE_MS, now_ms=NOW) == {a.token}
    assert await content(broker) == {}


async def test_extend_of_nothing_sends_nothing(broker):
    assert await broker.extend([], LEASE_MS, now_ms=NOW) == set()


async def test_extend_of_more_than_one_call_renews_all_and_finds_all_lost(broker):
    leases = await leased(broker, *(f"{n:03}" for n in range(500)))
    more = await leased(broker, *(f"{n:04}" for n in range(700, 1200)))
    await ack(broker, leases[0], more[-1])
    lost = await broker.extend([*leases, *more], LEASE_MS, now_ms=NOW + 5)
    assert lost == {leases[0].token, more[-1].token}
    assert set((await content(broker))["active"].values()) == {NOW + 5 + LEASE_MS}


async def test_extend_renews_leases_of_several_queues(broker):
    """One script per queue: also in a Cluster."""
    (a,) = await leased(broker, "a")
    (b,) = await leased(broker, "b", queue="other")
    assert await broker.extend([a, b], LEASE_MS, now_ms=NOW + 5) == set()
    for queue, id in ((QUEUE, "a"), ("other", "b")):
        assert (await content(broker, queue))["active"] == tokens(id, deadline=NOW + 5 + LEASE_MS)
