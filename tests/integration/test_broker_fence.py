"""Fencing tokens: each claim of a queue has a larger one than all before it."""

from tests.support.content import keys_of
from tests.support.moves import (
    LEASE_MS,
    NOW,
    OWNER,
    PREFIX,
    QUEUE,
    ask,
    claim,
    put,
)
from tests.support.servers import on_standalone_and_cluster

both = on_standalone_and_cluster

FIRST = NOW * 1000


@both
async def test_fence_is_the_same_for_one_claim_and_grows_with_each(broker):
    await put(broker, *"abcd")
    fences = [
        [lease.fence for lease in (await claim(broker, 2, prefix=f"{OWNER}:{n}:")).leases]
        for n in range(2)
    ]
    assert fences == [[FIRST, FIRST], [FIRST + 1, FIRST + 1]]
    assert (await keys_of(broker, QUEUE))["meta"]["fence"] == f"{FIRST + 1}"


@both
async def test_fence_grows_with_time(broker):
    await put(broker, *"ab")
    await claim(broker, 1)
    (b,) = (await claim(broker, 1, now_ms=NOW + 7)).leases
    assert b.fence == FIRST + 7000


@both
async def test_fence_grows_though_the_clock_goes_back(broker):
    await put(broker, *"ab")
    (a,) = (await claim(broker, 1)).leases
    (b,) = (await claim(broker, 1, now_ms=NOW - 10**9)).leases
    assert b.fence == a.fence + 1


@both
async def test_fence_grows_though_a_failover_took_the_stored_one_back(broker):
    await put(broker, *"abc")
    (a,) = (await claim(broker, 1)).leases
    for word in (b"DEL", b"HDEL"):
        key = broker._keys_of(QUEUE).names["meta"]
        await ask(broker, word, key, *([b"fence"] if word == b"HDEL" else []))
        (b,) = (await claim(broker, 1, now_ms=NOW + 1)).leases
        assert b.fence > a.fence


@both
async def test_fence_of_a_recovered_lease_is_larger_than_that_of_its_claim(broker):
    await put(broker, "a")
    (a,) = (await claim(broker)).leases
    (again,) = await broker.recover([QUEUE], PREFIX, LEASE_MS, now_ms=NOW)
    assert again.token == a.token
    assert again.fence > a.fence


@both
async def test_fence_of_a_claim_that_took_nothing_is_not_used_up(broker):
    await claim(broker)
    assert await broker.recover([QUEUE], PREFIX, LEASE_MS, now_ms=NOW) == []
    assert await keys_of(broker, QUEUE) == {}


async def test_fence_counts_for_each_queue_of_a_claim(broker):
    await put(broker, "h1", "h2", queue="high")
    await put(broker, "l1", queue="low")
    await claim(broker, 1, queues=["high"])
    turn = await claim(broker, queues=["high", "low"])
    assert {lease.id: lease.fence for lease in turn.leases} == {"h2": FIRST + 1, "l1": FIRST}
