"""settle: active -> completed, scheduled, dead or head of ready."""

import random

from qcore.broker.contract import CALL_BYTES
from qcore.model.job import Acked, Buried, Released, Retried
from tests.support.moves import (
    LEASE_MS,
    NOW,
    OWNER,
    QUEUE,
    SECOND,
    WAKEUP,
    ack,
    ask,
    claim,
    content,
    failed_state,
    leased,
    put,
    settle,
    status_of,
    stored,
    take_wakeup,
    tokens,
)
from tests.support.reclaiming import reclaim, reclaim_owner, swept
from tests.support.servers import on_standalone_and_cluster

pytestmark = on_standalone_and_cluster

STATE = failed_state("no")


async def test_ack_without_outcome_leaves_nothing(broker):
    (a,) = await leased(broker, "a")
    assert await settle(broker, (a, Acked())) == set()
    assert await content(broker) == {}


async def test_ack_with_outcome_keeps_it_for_its_time(broker):
    (a,) = await leased(broker, "a")
    await settle(broker, (a, Acked(b"\x00\xffoutcome", 5 * SECOND)), now_ms=NOW + 1)
    assert await content(broker) == {
        "done": {"a": b"5000 \x00\xffoutcome"},
        "expiry": {"a": NOW + 1 + 5 * SECOND},
    }


async def test_ack_forgets_record_and_crashes(broker):
    await put(broker, "a", "b")
    names = broker._keys_of(QUEUE).names
    for id in "ab":
        await ask(broker, b"HSET", names["state"], id, STATE)
        await ask(broker, b"HSET", names["crashes"], id, f"1 {NOW}")
    a, _ = (await claim(broker)).leases
    await take_wakeup(broker)
    await ack(broker, a)
    found = await content(broker)
    assert set(found["jobs"]) == set(found["state"]) == set(found["crashes"]) == {"b"}


async def test_retry_schedules_with_the_new_record(broker):
    (a,) = await leased(broker, "a")
    assert await settle(broker, (a, Retried(1500, STATE))) == set()
    assert await content(broker) == {
        "scheduled": {"a": NOW + 1500},
        "jobs": {"a": stored("a")},
        "state": {"a": STATE},
    }


async def test_retry_sets_no_wakeup(broker):
    """The worker that settles it sees it in its own claim, the idle ones at their next look."""
    (a,) = await leased(broker, "a")
    await settle(broker, (a, Retried(0, STATE)))
    assert not await take_wakeup(broker)


async def test_retry_is_claimed_again_with_its_record(broker):
    (a,) = await leased(broker, "a", now_ms=NOW - 9)
    await settle(broker, (a, Retried(100, STATE)))
    (again,) = (await claim(broker, prefix=f"{OWNER}:2:", now_ms=NOW + 100)).leases
    assert (again.state, again.envelope, again.enqueued_ms) == (STATE, b"a", NOW - 9)
    assert again.token != a.token


async def test_bury_is_dead_with_payload_and_record(broker):
    (a,) = await leased(broker, "a")
    assert await settle(broker, (a, Buried(STATE)), now_ms=NOW + 3) == set()
    assert await content(broker) == {
        "dead": {"a": NOW + 3},
        "jobs": {"a": stored("a")},
        "state": {"a": STATE},
    }


async def test_release_returns_to_the_head_in_order_and_charges_nothing(broker):
    a, b, c = await leased(broker, "a", "b", "c")
    await put(broker, "d")
    await take_wakeup(broker)
    assert await settle(broker, *((lease, Released()) for lease in (a, b, c))) == set()
    assert await content(broker) == {
        "ready": ["a", "b", "c", "d"],
        "jobs": {id: stored(id) for id in "abcd"},
        "wakeup": WAKEUP,
    }


async def test_settle_of_all_outcomes_in_one_call(broker):
    ack_, keep, retry, bury, release = await leased(broker, *"akrbx")
    lost = await settle(
        broker,
        (bury, Buried(STATE)),
        (release, Released()),
        (keep, Acked(b"result", 10)),
        (retry, Retried(10, b"record")),
        (ack_, Acked()),
    )
    assert lost == set()
    assert await content(broker) == {
        "ready": ["x"],
        "scheduled": {"r": NOW + 10},
        "dead": {"b": NOW},
        "done": {"k": "10 result"},
        "expiry": {"k": NOW + 10},
        "jobs": {id: stored(id) for id in "rbx"},
        "state": {"r": "record", "b": STATE},
        "wakeup": WAKEUP,
    }


async def test_settle_of_500_mixed_items_loses_none_and_mixes_none_up(broker):
    """Each item ends as its own outcome says, those whose lease was lost are left alone."""
    draw = random.Random(7)
    leases = await leased(broker, *(f"{n:03}" for n in range(500)))
    ended, lost, expected = [], set(), {}
    gone = set(draw.sample(range(500), 60))
    for n, lease in enumerate(leases):
        kind = draw.choice(["ack", "keep", "retry", "bury", "release"])
        mark = f"mark {n}".encode()
        outcome = {
            "ack": Acked(),
            "keep": Acked(mark, n),
            "retry": Retried(n, mark),
            "bury": Buried(mark),
            "release": Released(),
        }[kind]
        ended.append((lease, outcome))
        if n in gone:
            lost.add(lease.token)
        else:
            expected[lease.id] = (kind, n, mark.decode())
    await ask(broker, b"ZREM", broker._keys_of(QUEUE).names["active"], *lost)
    assert await settle(broker, *ended) == lost

    found = await content(broker)
    by = {
        kind: {id: (n, mark) for id, (k, n, mark) in expected.items() if k == kind}
        for kind in ("ack", "keep", "retry", "bury", "release")
    }
    assert found["ready"] == sorted(by["release"])
    assert found["scheduled"] == {id: NOW + n for id, (n, _) in by["retry"].items()}
    assert found["dead"] == dict.fromkeys(by["bury"], NOW)
    assert found["done"] == {id: f"{n} {mark}" for id, (n, mark) in by["keep"].items()}
    assert found["expiry"] == {id: NOW + n for id, (n, _) in by["keep"].items()}
    assert found["state"] == {id: m for id, (_, m) in (by["retry"] | by["bury"]).items()}
    untouched = {leases[n].id for n in gone}
    assert set(found["jobs"]) == untouched | set(by["release"] | by["retry"] | by["bury"])
    assert set(found["running"]) == untouched
    assert "active" not in found


async def test_settle_of_more_than_one_call_settles_all(broker):
    leases = await leased(broker, *(f"{n:04}" for n in range(501)))
    assert await ack(broker, *leases) == set()
    assert await content(broker) == {}


async def test_settle_of_large_records_is_split_by_bytes(broker):
    leases = await leased(broker, *"abcde")
    outcome = Acked(bytes(CALL_BYTES // 2), 10)
    assert await settle(broker, *((lease, outcome) for lease in leases)) == set()
    assert set((await content(broker))["done"]) == set("abcde")


async def test_settle_twice_is_lost_and_writes_nothing(broker):
    (a,) = await leased(broker, "a")
    await settle(broker, (a, Buried(STATE)))
    before = await content(broker)
    assert await settle(broker, (a, Acked(b"late", 10))) == {a.token}
    assert await content(broker) == before


async def test_settle_of_a_zombie_writes_nothing(broker):
    """Its job was reclaimed and is run by another: neither the job nor the other's lease moves."""
    (zombie,) = await leased(broker, "a")
    later = NOW + LEASE_MS
    await swept(broker, later - 1)
    await reclaim(broker, later)
    (successor,) = (await claim(broker, prefix=f"{OWNER}:2:", now_ms=later)).leases
    before = await content(broker)
    for outcome in (Acked(), Acked(b"x", 10), Retried(1, STATE), Buried(STATE), Released()):
        assert await settle(broker, (zombie, outcome), now_ms=later) == {zombie.token}
        assert await content(broker) == before
    assert await settle(broker, (successor, Acked()), now_ms=later) == set()
    assert await status_of(broker, "a") is None


async def test_settle_of_an_expired_lease_that_nobody_took_counts(broker):
    (a,) = await leased(broker, "a")
    assert await settle(broker, (a, Acked()), now_ms=NOW + 100 * LEASE_MS) == set()
    assert await content(broker) == {}


async def test_settle_keeps_the_running_entry_of_another_lease(broker):
    """A partial loss: the index of the successor stays, that of the settled goes."""
    a, b = await leased(broker, "a", "b")
    await broker.extend([b], LEASE_MS, now_ms=NOW + 1)
    await reclaim_owner(broker, NOW, charge=False)
    heirs = (await claim(broker, prefix=f"{OWNER}:2:")).leases
    assert {lease.id for lease in heirs} == {"a", "b"}
    assert await settle(broker, (heirs[0], Acked()), (a, Acked()), (b, Released())) == {
        a.token,
        b.token,
    }
    found = await content(broker)
    assert found["active"] == {heirs[1].token.decode(): NOW + LEASE_MS}
    assert found["running"] == {heirs[1].id: heirs[1].token.decode()}


async def test_settle_in_several_queues_takes_one_script_each(broker):
    (a,) = await leased(broker, "a")
    (b,) = await leased(broker, "b", queue="other")
    assert await settle(broker, (a, Acked()), (b, Released())) == set()
    assert await content(broker) == {}
    assert (await content(broker, "other"))["ready"] == ["b"]


async def test_settle_of_an_expired_keep_time_of_zero_can_be_pruned_at_once(broker):
    (a,) = await leased(broker, "a")
    await settle(broker, (a, Acked(b"x", 0)))
    assert await broker.prune(QUEUE, now_ms=NOW) == (1, 0, False)
    assert await content(broker) == {"done": {"a": "x"}, "expiry": {"a": NOW}}


async def test_settle_leaves_other_leases_alone(broker):
    a, _ = await leased(broker, "a", "b")
    await ack(broker, a)
    assert (await content(broker))["active"] == tokens("b")
