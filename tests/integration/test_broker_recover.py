"""recover: active -> active, what a claim took whose reply was lost."""

import msgspec

from qcore.model.job import Lease
from tests.support.moves import (
    LEASE_MS,
    NOW,
    OTHER_OWNER,
    OWNER,
    PREFIX,
    QUEUE,
    ack,
    ask,
    claim,
    content,
    failed_state,
    leased,
    put,
    token,
)
from tests.support.servers import on_standalone_and_cluster

both = on_standalone_and_cluster


def plain(lease: Lease) -> Lease:
    """Return a lease without its fencing token, which a recovered one has anew."""
    return msgspec.structs.replace(lease, fence=0)


@both
async def test_recover_returns_what_the_claim_would_have(broker):
    await put(broker, "a", "b", now_ms=NOW - 7)
    names = broker._keys_of(QUEUE).names
    await ask(broker, b"HSET", names["state"], "a", failed_state("no"))
    await ask(broker, b"HSET", names["crashes"], "b", f"1 {NOW}")
    lost = (await claim(broker)).leases
    before = await content(broker)
    found = await broker.recover([QUEUE], PREFIX, LEASE_MS, now_ms=NOW)
    assert sorted(map(plain, found), key=lambda lease: lease.id) == list(map(plain, lost))
    assert await content(broker) == before


@both
async def test_recover_finds_only_its_own_claim(broker):
    await put(broker, *"abcd")
    for prefix in (f"{OWNER}:1:", f"{OWNER}:11:", f"{OTHER_OWNER}:1:", f"{OWNER}:2:"):
        await claim(broker, 1, prefix=prefix)
    (found,) = await broker.recover([QUEUE], f"{OWNER}:1:", LEASE_MS, now_ms=NOW)
    assert found.token == token("a").encode()


@both
async def test_recover_of_a_claim_that_took_nothing_is_empty(broker):
    await leased(broker, "a", prefix=f"{OTHER_OWNER}:1:")
    assert await broker.recover([QUEUE], PREFIX, LEASE_MS, now_ms=NOW) == []
    assert await broker.recover(["unknown"], PREFIX, LEASE_MS, now_ms=NOW) == []


@both
async def test_recover_leaves_out_what_was_settled(broker):
    a, b = await leased(broker, "a", "b")
    await ack(broker, a)
    (found,) = await broker.recover([QUEUE], PREFIX, LEASE_MS, now_ms=NOW)
    assert plain(found) == plain(b)


@both
async def test_recover_finds_all_among_thousands_of_leases(broker):
    """More than one page of the scan."""
    ids = [f"{n:04}" for n in range(1500)]
    for i in range(0, 1500, 500):
        await put(broker, *ids[i : i + 500])
    for seq in range(1, 4):
        await claim(broker, prefix=f"{OWNER}:{seq}:")
    found = await broker.recover([QUEUE], f"{OWNER}:2:", LEASE_MS, now_ms=NOW)
    assert sorted(lease.id for lease in found) == ids[500:1000]


@both
async def test_recover_returns_a_lease_without_payload(broker):
    await put(broker, "a")
    await ask(broker, b"HDEL", broker._keys_of(QUEUE).names["jobs"], "a")
    await claim(broker)
    (found,) = await broker.recover([QUEUE], PREFIX, LEASE_MS, now_ms=NOW)
    assert (found.id, found.envelope) == ("a", None)


async def test_recover_asks_every_queue_of_the_claim(broker):
    await put(broker, "h", queue="high")
    await put(broker, "l", queue="low")
    lost = (await claim(broker, queues=["high", "low"])).leases
    found = await broker.recover(["high", "low"], PREFIX, LEASE_MS, now_ms=NOW)
    assert list(map(plain, found)) == list(map(plain, lost))


@both
async def test_recover_renews_what_it_finds(broker):
    """The lease may have expired since the claim, and whoever finds it is about to run it."""
    await leased(broker, "a")
    late = NOW + 2 * LEASE_MS
    await broker.recover([QUEUE], PREFIX, LEASE_MS, now_ms=late)
    assert (await content(broker))["active"] == {token("a"): late + LEASE_MS}


@both
async def test_recover_by_the_owner_finds_all_its_claims_and_no_other(broker):
    await put(broker, *"abcd")
    for prefix in (f"{OWNER}:1:", f"{OWNER}:11:", f"{OTHER_OWNER}:1:", f"{OWNER}0:1:"):
        await claim(broker, 1, prefix=prefix)
    found = await broker.recover([QUEUE], f"{OWNER}:", LEASE_MS, now_ms=NOW)
    assert sorted(lease.token.decode() for lease in found) == [
        token("b", seq=11),
        token("a"),
    ]
