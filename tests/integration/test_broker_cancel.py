"""cancel: scheduled -> cancelled; ready, active: a cancel request, which the next step obeys."""

import pytest

from qcore.broker.redis import scripts
from qcore.broker.redis.broker import Broker
from qcore.model.codec import encode
from qcore.model.job import Acked, Buried, JobOutcome, JobStatus, Outcome, Released, Retried
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
    failed_state,
    leased,
    put,
    running,
    settle,
    status_of,
    stored,
    take_wakeup,
    tokens,
)
from tests.support.reclaiming import reclaim, reclaim_owner, swept
from tests.support.servers import on_standalone_and_cluster

pytestmark = on_standalone_and_cluster

OUTCOME = encode(JobOutcome(JobStatus.CANCELLED, reason="nobody wants it"))
KEEP_MS = 60 * SECOND
#: What `cancels` holds, and `done` later.
CANCEL_REQUEST = f"{KEEP_MS} ".encode() + OUTCOME
STATE = failed_state("no")


def text(value: bytes) -> str | bytes:
    """Return what `content` shows of a value."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value


def cancelled(*ids: str, at_ms: int = NOW) -> dict[str, dict[str, object]]:
    """Return what is left of cancelled jobs."""
    return {
        "done": dict.fromkeys(ids, text(CANCEL_REQUEST)),
        "expiry": dict.fromkeys(ids, at_ms + KEEP_MS),
    }


async def cancel(broker: Broker, *ids: str, now_ms: int = NOW) -> list[str]:
    call = scripts.CANCEL.call(broker._keys_of(QUEUE), now_ms, KEEP_MS, OUTCOME, *ids)
    (reply,) = await broker._ask([call])
    return [place.decode() for place in reply]


async def test_cancel_of_a_scheduled_job_ends_it_at_once(broker):
    await put(broker, "a", "b", when="+1000")
    await take_wakeup(broker)
    names = broker._keys_of(QUEUE).names
    await ask(broker, b"HSET", names["state"], "a", STATE)
    await ask(broker, b"HSET", names["crashes"], "a", f"1 {NOW}")
    assert await cancel(broker, "a") == ["scheduled"]
    assert await content(broker) == {
        **cancelled("a"),
        "scheduled": {"b": NOW + 1000},
        "jobs": {"b": stored("b")},
    }


async def test_cancel_of_a_ready_job_is_a_cancel_request(broker):
    await put(broker, "a", "b")
    assert await cancel(broker, "a") == ["ready"]
    assert await content(broker) == {
        "ready": ["a", "b"],
        "jobs": {"a": stored("a"), "b": stored("b")},
        "cancels": {"a": text(CANCEL_REQUEST)},
        "wakeup": WAKEUP,
    }
    assert [await status_of(broker, id) for id in "ab"] == ["cancelled", "ready"]


async def test_cancel_of_an_active_job_is_a_cancel_request(broker, inspector):
    await leased(broker, "a")
    assert await cancel(broker, "a") == ["active"]
    assert await content(broker) == {
        "active": tokens("a"),
        "running": running("a"),
        "jobs": {"a": stored("a")},
        "cancels": {"a": text(CANCEL_REQUEST)},
    }
    assert await status_of(broker, "a") == "active"


async def test_cancel_of_what_has_ended_or_never_was_changes_nothing(broker):
    dead, kept, acked = await leased(broker, "dead", "kept", "acked")
    await settle(broker, (dead, Buried(STATE)), (kept, Acked(b"r", 10)), (acked, Acked()))
    before = await content(broker)
    places = await cancel(broker, "dead", "kept", "acked", "unknown")
    assert places == ["ended", "ended", "", ""]
    assert await content(broker) == before


async def test_cancel_twice_is_once(broker):
    await put(broker, "a", when="+1000")
    await put(broker, "b")
    assert await cancel(broker, "a", "a", "b", "b") == ["scheduled", "ended", "ready", "ready"]
    found = await content(broker)
    assert found["cancels"] == {"b": text(CANCEL_REQUEST)}
    assert found["done"] == {"a": text(CANCEL_REQUEST)}


async def test_cancel_by_the_inspector_takes_more_than_one_call(broker, inspector):
    ids = [f"{n:03}" for n in range(600)]
    await put(broker, *ids[:400])
    await put(broker, *ids[400:], when="+1000000")
    assert await inspector.cancel(QUEUE, ids) == ["ready"] * 400 + ["scheduled"] * 200
    record = await inspector.job(QUEUE, "599")
    assert (record.status, record.reason) == (JobStatus.CANCELLED, "on request")


# -- the next step obeys ---------------------------------------------------------------------------


async def test_claim_shows_the_cancel_request_and_leaves_its_end_to_the_worker(broker):
    await put(broker, "a", "b")
    await cancel(broker, "b")
    a, b = (await claim(broker)).leases
    assert (a.cancel_requested, b.cancel_requested) == (False, True)
    assert await settle(broker, (b, Acked(OUTCOME, KEEP_MS)), (a, Acked())) == set()
    assert await content(broker) == {**cancelled("b"), "wakeup": WAKEUP}


async def test_recover_shows_the_cancel_request(broker):
    await leased(broker, "a", "b")
    await cancel(broker, "a")
    found = await broker.recover([QUEUE], f"{OWNER}:1:", LEASE_MS, now_ms=NOW)
    assert {lease.id: lease.cancel_requested for lease in found} == {"a": True, "b": False}


async def test_cancel_requests_are_told_by_token(broker):
    leases = await leased(broker, *"abc")
    assert await broker.cancel_requested(leases) == set()
    await cancel(broker, "b")
    assert await broker.cancel_requested(leases) == {leases[1].token}


@pytest.mark.parametrize("outcome", [Retried(500, STATE), Released()], ids=["retry", "release"])
async def test_settle_that_would_run_it_again_ends_it(broker, outcome):
    a, b = await leased(broker, "a", "b")
    await cancel(broker, "a")
    assert await settle(broker, (a, outcome), (b, Acked()), now_ms=NOW + 5) == set()
    assert await content(broker) == cancelled("a", at_ms=NOW + 5)


@pytest.mark.parametrize(
    ("outcome", "left"),
    [
        (Acked(), {}),
        (Acked(b"r", 10), {"done": {"a": "10 r"}, "expiry": {"a": NOW + 10}}),
        (Buried(b"no"), {"dead": {"a": NOW}, "jobs": {"a": stored("a")}, "state": {"a": "no"}}),
    ],
    ids=["ack", "keep", "bury"],
)
async def test_settle_of_a_run_that_ended_forgets_the_cancel_request(
    broker, outcome: Outcome, left
):
    (a,) = await leased(broker, "a")
    await cancel(broker, "a")
    assert await settle(broker, (a, outcome)) == set()
    assert await content(broker) == left


async def test_settle_of_a_zombie_leaves_the_cancel_request_to_the_successor(broker):
    (zombie,) = await leased(broker, "a")
    await reclaim_owner(broker, NOW, charge=False)
    (successor,) = (await claim(broker, prefix=f"{OWNER}:2:")).leases
    await cancel(broker, "a")
    before = await content(broker)
    for outcome in (Retried(1, STATE), Released()):
        assert await settle(broker, (zombie, outcome)) == {zombie.token}
        assert await content(broker) == before
    assert await settle(broker, (successor, Released())) == set()
    assert await status_of(broker, "a") == "cancelled"


async def test_reclaim_ends_it(broker):
    await leased(broker, "a")
    await cancel(broker, "a")
    end = NOW + LEASE_MS
    await swept(broker, end - 1)
    assert await reclaim(broker, end) == [(f"{OWNER}:1:a", "cancelled")]
    assert await content(broker) == {
        **cancelled("a", at_ms=end),
        "meta": {"last_sweep": f"{end}"},
    }


@pytest.mark.parametrize("charge", [True, False])
async def test_reclaim_owner_ends_it(broker, charge):
    await leased(broker, "a")
    await cancel(broker, "a")
    assert await reclaim_owner(broker, NOW, charge=charge) == [(f"{OWNER}:1:a", "cancelled")]
    assert await content(broker) == cancelled("a")


async def test_clear_forgets_the_cancel_request(broker, inspector):
    await put(broker, "a")
    await cancel(broker, "a")
    assert await inspector.clear(QUEUE) == 1
    assert not {"cancels", "jobs", "ready"} & set(await content(broker))


async def test_revived_job_has_no_cancel_request_of_its_last_life(broker, inspector):
    (a,) = await leased(broker, "a")
    await cancel(broker, "a")
    await settle(broker, (a, Buried(STATE)))
    assert await cancel(broker, "a") == ["ended"]
    await inspector.revive(QUEUE, ["a"])
    (again,) = (await claim(broker, prefix=f"{OWNER}:2:")).leases
    assert not again.cancel_requested


async def test_purge_forgets_a_cancel_request(broker, inspector):
    """None is left by the scripts; an older release may have left one."""
    (a,) = await leased(broker, "a")
    await settle(broker, (a, Buried(STATE)))
    await ask(broker, b"HSET", broker._keys_of(QUEUE).names["cancels"], "a", CANCEL_REQUEST)
    assert await inspector.purge(QUEUE, ids=["a"]) == 1
    assert set(await content(broker)) == {"meta"}
