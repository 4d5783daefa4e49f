"""reclaim_owner: active of a dead process -> ready, scheduled or dead, whatever the deadline."""

from tests.support.moves import (
    LEASE_MS,
    NOW,
    OTHER_OWNER,
    OWNER,
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
    token,
)
from tests.support.reclaiming import reclaim_owner
from tests.support.servers import on_standalone_and_cluster

pytestmark = on_standalone_and_cluster


async def test_reclaim_owner_charged_writes_exactly_these_keys(broker):
    await leased(broker, "a", "b")
    await put(broker, "c")
    taken = await reclaim_owner(broker, NOW)
    assert sorted(taken) == [(token("a"), "ready"), (token("b"), "ready")]
    assert await content(broker) == {
        "ready": ["a", "b", "c"],
        "jobs": {id: stored(id) for id in "abc"},
        "crashes": {"a": f"1 {NOW}", "b": f"1 {NOW}"},
        "wakeup": WAKEUP,
    }


async def test_reclaim_owner_uncharged_counts_no_crash(broker):
    """The process was ended for nothing that its jobs did."""
    await leased(broker, "a")
    await ask(broker, b"HSET", broker._keys_of(QUEUE).names["crashes"], "a", f"1 {NOW}")
    assert await reclaim_owner(broker, NOW, charge=False) == [(token("a"), "ready")]
    assert await content(broker) == {
        "ready": ["a"],
        "jobs": {"a": stored("a")},
        "crashes": {"a": f"1 {NOW}"},
        "wakeup": WAKEUP,
    }


async def test_reclaim_owner_charged_backs_off_and_ends_dead(broker):
    await leased(broker, "a", "b")
    names = broker._keys_of(QUEUE).names
    await ask(broker, b"HSET", names["crashes"], "a", f"2 {NOW - 1}", "b", f"4 {NOW - 1}")
    assert sorted(await reclaim_owner(broker, NOW, crash_limit=5)) == [
        (token("a"), "scheduled"),
        (token("b"), "dead"),
    ]
    found = await content(broker)
    assert found["scheduled"] == {"a": NOW + 2 * SECOND}
    assert found["dead"] == {"b": NOW}


async def test_reclaim_owner_charges_the_culprits_and_nobody_else(broker):
    await leased(broker, "a", "b", "c")
    names = broker._keys_of(QUEUE).names
    await ask(broker, b"HSET", names["crashes"], "b", f"2 {NOW - 1}", "c", f"1 {NOW - 1}")
    taken = await reclaim_owner(broker, NOW, culprits=[token("b").encode()])
    assert sorted(taken) == [
        (token("a"), "ready"),
        (token("b"), "scheduled"),
        (token("c"), "ready"),
    ]
    found = await content(broker)
    assert found["crashes"] == {"b": f"3 {NOW}", "c": f"1 {NOW - 1}"}
    assert found["ready"] == ["a", "c"]


async def test_reclaim_owner_charges_nobody_when_the_culprits_are_gone(broker):
    """They ended before their process did."""
    await leased(broker, "a")
    await reclaim_owner(broker, NOW, culprits=[token("b").encode()])
    assert "crashes" not in await content(broker)


async def test_reclaim_owner_leaves_other_owners_alone(broker):
    await leased(broker, "mine")
    await leased(broker, "theirs", prefix=f"{OTHER_OWNER}:1:")
    await reclaim_owner(broker, NOW, owner=OTHER_OWNER)
    found = await content(broker)
    assert found["active"] == {token("mine"): NOW + LEASE_MS}
    assert found["running"] == {"mine": token("mine")}
    assert found["ready"] == ["theirs"]


async def test_reclaim_owner_leaves_an_owner_alone_whose_name_only_begins_the_same(broker):
    await leased(broker, "a", prefix=f"{OWNER}0:1:")
    assert await reclaim_owner(broker, NOW) == []


async def test_reclaim_owner_takes_all_claims_of_the_owner(broker):
    await put(broker, "a", "b", "c")
    for seq in (1, 2, 11):
        await claim(broker, 1, prefix=f"{OWNER}:{seq}:")
    assert len(await reclaim_owner(broker, NOW)) == 3
    assert (await content(broker))["ready"] == ["a", "b", "c"]


async def test_reclaim_owner_takes_all_of_thousands_of_leases(broker):
    """More than one page of the scan, beside as many of another owner; each exactly once."""
    mine = [f"{n:04}" for n in range(0, 3000, 2)]
    theirs = [f"{n:04}" for n in range(1, 3000, 2)]
    for i in range(0, 1500, 500):
        await leased(broker, *mine[i : i + 500])
        await leased(broker, *theirs[i : i + 500], prefix=f"{OTHER_OWNER}:1:")
    taken = await reclaim_owner(broker, NOW)
    assert sorted(taken) == [(token(id), "ready") for id in mine]
    found = await content(broker)
    assert sorted(found["ready"]) == mine
    assert sorted(found["running"]) == theirs
    assert found["crashes"] == dict.fromkeys(mine, f"1 {NOW}")


async def test_reclaim_owner_makes_a_late_settle_lost(broker):
    (a,) = await leased(broker, "a")
    await reclaim_owner(broker, NOW)
    assert await ack(broker, a) == {a.token}
    assert (await content(broker))["ready"] == ["a"]


async def test_reclaim_owner_of_nobody_changes_nothing(broker):
    await leased(broker, "a")
    before = await content(broker)
    assert await reclaim_owner(broker, NOW, owner=OTHER_OWNER) == []
    assert await content(broker) == before


async def test_reclaim_owner_names_the_job_of_each_token(broker):
    await leased(broker, "an:id:with:colons")
    taken = await broker.reclaim_owner([QUEUE], OWNER, charge=True, crash_limit=9, now_ms=NOW)
    (item,) = taken[QUEUE]
    assert (item.id, item.to) == ("an:id:with:colons", "ready")
