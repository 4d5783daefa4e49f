"""reclaim: active with an expired lease -> ready, scheduled or dead."""

import pytest

from qcore.model.job import Released
from tests.support.moves import (
    LEASE_MS,
    NOW,
    OWNER,
    QUEUE,
    SECOND,
    WAKEUP,
    ask,
    claim,
    content,
    leased,
    put,
    running,
    settle,
    stored,
    take_wakeup,
    token,
    tokens,
)
from tests.support.reclaiming import CRASH_LIMIT, GUARD_MS, STALE_MS, SWEEP_MS, reclaim, swept
from tests.support.servers import on_standalone_and_cluster

pytestmark = on_standalone_and_cluster

#: The moment at which a lease of NOW ends.
END = NOW + LEASE_MS
HOURS = 3600 * SECOND


async def crashed(broker, count: int, at_ms: int, id: str = "a") -> None:
    await ask(broker, b"HSET", broker._keys_of(QUEUE).names["crashes"], id, f"{count} {at_ms}")


async def test_reclaim_writes_exactly_these_keys(broker):
    await leased(broker, "a")
    await swept(broker, END - SWEEP_MS)
    assert await reclaim(broker, END) == [(token("a"), "ready")]
    assert await content(broker) == {
        "ready": ["a"],
        "jobs": {"a": stored("a")},
        "crashes": {"a": f"1 {END}"},
        "meta": {"last_sweep": f"{END}"},
        "wakeup": WAKEUP,
    }


async def test_reclaim_leaves_leases_alone_that_have_not_expired(broker):
    await leased(broker, "a")
    await swept(broker, END - SWEEP_MS)
    assert await reclaim(broker, END - 1) == []
    assert await content(broker) == {
        "active": tokens("a"),
        "running": running("a"),
        "jobs": {"a": stored("a")},
        "meta": {"last_sweep": f"{END - 1}"},
    }


async def test_reclaim_returns_jobs_to_the_head_oldest_first(broker):
    a, _, c = await leased(broker, "a", "b", "c")
    await broker.extend([a, c], LEASE_MS, now_ms=NOW + 1)
    await put(broker, "waiting")
    await swept(broker, END)
    taken = await reclaim(broker, END + 1)
    assert sorted(taken) == [(token(id), "ready") for id in "abc"]
    # b expired first, then a and c
    assert (await content(broker))["ready"] == ["b", "a", "c", "waiting"]


# -- the guard -----------------------------------------------------------------------------------


async def test_reclaim_first_sweep_gives_live_owners_time(broker):
    """Nobody swept before: the owners may live, and could not renew."""
    await leased(broker, "a")
    assert await reclaim(broker, END) == []
    found = await content(broker)
    assert found["meta"] == {"last_sweep": f"{END}", "guard_until": f"{END + GUARD_MS}"}
    assert found["active"] == tokens("a")
    for at in range(END + SWEEP_MS, END + GUARD_MS, SWEEP_MS):
        assert await reclaim(broker, at) == []
    assert await reclaim(broker, END + GUARD_MS) == [(token("a"), "ready")]


async def test_reclaim_sweep_that_is_late_sets_the_guard_again(broker):
    await leased(broker, "a")
    await swept(broker, END)
    late = END + STALE_MS + 1
    assert await reclaim(broker, late) == []
    assert await reclaim(broker, late + GUARD_MS - 1) == []


async def test_reclaim_sweep_within_its_time_sets_no_guard(broker):
    await leased(broker, "a")
    await swept(broker, END)
    assert await reclaim(broker, END + STALE_MS) == [(token("a"), "ready")]


async def test_reclaim_guard_lets_a_live_owner_renew(broker):
    (a,) = await leased(broker, "a")
    outage = END + 5 * LEASE_MS
    assert await reclaim(broker, outage) == []
    assert await broker.extend([a], LEASE_MS, now_ms=outage + SECOND) == set()
    for at in range(outage + SWEEP_MS, outage + LEASE_MS, SWEEP_MS):
        assert await reclaim(broker, at) == []


async def test_reclaim_sweeps_of_many_workers_do_not_prolong_the_guard(broker):
    await leased(broker, "a")
    await reclaim(broker, END)
    for step in range(40):
        await reclaim(broker, END + step * SECOND // 2)
    assert (await content(broker))["meta"]["guard_until"] == f"{END + GUARD_MS}"


# -- the clock of Redis goes back ------------------------------------------------------------------


async def test_reclaim_after_the_clock_went_back_guards_once(broker):
    (a,) = await leased(broker, "a")
    await swept(broker, NOW)
    back = NOW - 24 * HOURS
    assert await reclaim(broker, back) == []
    found = await content(broker)
    assert found["meta"]["guard_until"] == f"{back + GUARD_MS}"
    # a deadline a day ahead would hold its job for a day
    assert found["active"] == {a.token.decode(): back + LEASE_MS}
    for at in range(back + SWEEP_MS, back + LEASE_MS, SWEEP_MS):
        assert await reclaim(broker, at) == []
    assert await reclaim(broker, back + LEASE_MS) == [(token("a"), "ready")]


async def test_reclaim_ignores_a_guard_from_before_the_clock_went_back(broker):
    await leased(broker, "a", now_ms=NOW)
    await reclaim(broker, NOW + 48 * HOURS)  # sets a guard in a future that will be left
    await swept(broker, END)
    assert await reclaim(broker, END + 1) == [(token("a"), "ready")]


async def test_reclaim_pulls_back_a_deadline_from_two_leases_on_only(broker):
    (a,) = await leased(broker, "a")
    await broker.extend([a], 2 * LEASE_MS - 1, now_ms=NOW)
    await swept(broker, NOW + 1)
    await reclaim(broker, NOW)
    assert (await content(broker))["active"] == {a.token.decode(): NOW + 2 * LEASE_MS - 1}
    await broker.extend([a], 2 * LEASE_MS, now_ms=NOW)
    await swept(broker, NOW + 1)
    await reclaim(broker, NOW)
    assert (await content(broker))["active"] == {a.token.decode(): NOW + LEASE_MS}


async def test_reclaim_leaves_longer_leases_alone_while_the_clock_is_right(broker):
    """A sweeper with a short lease must not shorten the leases of workers with a longer one."""
    (a,) = await leased(broker, "a")
    await broker.extend([a], 10 * LEASE_MS, now_ms=NOW)
    await swept(broker, NOW)
    await reclaim(broker, NOW + 1)
    assert (await content(broker))["active"] == {a.token.decode(): NOW + 10 * LEASE_MS}


async def test_reclaim_pulls_back_more_deadlines_than_one_sweep_takes(broker):
    leases = await leased(broker, *(f"{n:03}" for n in range(250)))
    await broker.extend(leases, 10 * LEASE_MS, now_ms=NOW)
    await swept(broker, NOW + 1)
    for _ in range(2):
        await reclaim(broker, NOW)
    found = await content(broker)
    assert set(found["active"].values()) == {NOW + LEASE_MS}
    assert "clock_back" not in found["meta"]


# -- crashes ---------------------------------------------------------------------------------------


async def test_reclaim_backs_off_from_the_second_crash_on_and_ends_dead(broker):
    """1st: at once. Then 1, 2, 4 ... 60 s. The last one that is allowed: dead."""
    await put(broker, "a")
    now, waits = NOW, []
    for crash in range(1, CRASH_LIMIT):
        alone = crash > 2
        (lease,) = (
            await claim(broker, now_ms=now, prefix=f"{OWNER}:{crash}:", quarantined=alone)
        ).leases
        assert lease.crashes == crash - 1
        now += LEASE_MS
        await swept(broker, now - 1)
        ((_, to),) = await reclaim(broker, now)
        found = await content(broker)
        assert found["crashes"] == {"a": f"{crash} {now}"}
        assert to == ("ready" if crash == 1 else "scheduled")
        due = found.get("scheduled", {}).get("a", now)
        waits.append((due - now) // SECOND)
        now = due
    assert waits == [0, 1, 2, 4, 8, 16, 32, 60, 60]
    await claim(broker, now_ms=now, prefix=f"{OWNER}:99:", quarantined=True)
    await take_wakeup(broker)
    now += LEASE_MS
    await swept(broker, now - 1)
    assert await reclaim(broker, now) == [(f"{OWNER}:99:a", "dead")]
    assert await content(broker) == {
        "dead": {"a": now},
        "jobs": {"a": stored("a")},
        "crashes": {"a": f"{CRASH_LIMIT} {now}"},
        "meta": {"last_sweep": f"{now}"},
    }


@pytest.mark.parametrize(("age_ms", "count"), [(72 * HOURS - 1, 4), (72 * HOURS, 1)])
async def test_reclaim_forgets_crashes_of_three_days_ago(broker, age_ms, count):
    await leased(broker, "a")
    await crashed(broker, 3, END - age_ms)
    await swept(broker, END - 1)
    await reclaim(broker, END)
    assert (await content(broker))["crashes"] == {"a": f"{count} {END}"}


@pytest.mark.parametrize("limit", [1, 2])
async def test_reclaim_is_dead_at_the_limit_of_the_fleet(broker, limit):
    await leased(broker, "a")
    await crashed(broker, limit - 1, END - 1)
    await swept(broker, END - 1)
    assert await reclaim(broker, END, crash_limit=limit) == [(token("a"), "dead")]


async def test_reclaim_of_scheduled_jobs_sets_the_wakeup(broker):
    """It may be the earliest due now: whoever sleeps looks again."""
    await leased(broker, "a")
    await crashed(broker, 1, END - 1)
    await swept(broker, END - 1)
    assert await reclaim(broker, END) == [(token("a"), "scheduled")]
    assert (await content(broker))["scheduled"] == {"a": END + SECOND}
    assert await take_wakeup(broker)


async def test_reclaim_of_nothing_sets_no_wakeup(broker):
    await swept(broker, NOW)
    await reclaim(broker, NOW)
    assert not await take_wakeup(broker)


async def test_reclaim_is_bounded_and_takes_the_oldest_first(broker):
    ids = [f"{n:03}" for n in range(450)]
    await leased(broker, *ids)
    await swept(broker, END - 1)
    sizes = [len(await reclaim(broker, END)) for _ in range(4)]
    assert sizes == [200, 200, 50, 0]
    assert sorted((await content(broker))["ready"]) == ids


async def test_reclaim_never_takes_a_lease_twice(broker):
    await leased(broker, "a")
    await swept(broker, END - 1)
    assert len(await reclaim(broker, END)) == 1
    assert await reclaim(broker, END) == []
    assert (await content(broker))["crashes"] == {"a": f"1 {END}"}


async def test_reclaim_of_an_id_without_payload_keeps_it_visible(broker):
    await leased(broker, "a")
    await ask(broker, b"HDEL", broker._keys_of(QUEUE).names["jobs"], "a")
    await swept(broker, END - 1)
    assert await reclaim(broker, END) == [(token("a"), "ready")]
    (again,) = (await claim(broker, now_ms=END, prefix=f"{OWNER}:2:")).leases
    assert again.envelope is None
    await settle(broker, (again, Released()))


async def test_reclaim_ends_a_lease_that_no_fleet_can_have(broker):
    """Forged, with a deadline that nobody lives to see; the longest lease there is has a day."""
    await leased(broker, "a", "b")
    day = 24 * HOURS
    names = broker._keys_of(QUEUE).names
    await ask(broker, b"ZADD", names["active"], NOW + 2 * day + 1, token("a"), "inf", token("b"))
    await swept(broker, NOW)
    assert await reclaim(broker, NOW) == []
    assert set((await content(broker))["active"].values()) == {NOW + LEASE_MS}
    await ask(broker, b"ZADD", names["active"], NOW + 2 * day - 1, token("a"))
    await reclaim(broker, NOW)
    assert (await content(broker))["active"][token("a")] == NOW + 2 * day - 1


async def test_reclaim_drops_what_is_no_lease_of_a_job(broker):
    """What another hand wrote stops no sweep, and gives nobody a job that somebody runs."""
    await leased(broker, "a")
    forged = [b"rubbish", b"no:token", b"x:1:a", b"\xff"]
    names = broker._keys_of(QUEUE).names
    await ask(broker, b"ZADD", names["active"], *(word for f in forged for word in (1, f)))
    await swept(broker, NOW)
    call = await broker.reclaim(
        [QUEUE], lease_ms=LEASE_MS, stale_ms=10**9, guard_ms=0, crash_limit=9, now_ms=NOW
    )
    taken = call.taken[QUEUE]
    assert {(item.token, item.to) for item in taken} == {(f, "dropped") for f in forged}
    assert [item.id for item in taken]  # to be logged
    found = await content(broker)
    assert list(found["active"]) == [token("a")]
    assert found["running"] == {"a": token("a")}
    assert "ready" not in found
