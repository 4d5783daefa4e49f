"""revive: dead -> ready."""

from qcore.model.admission import Terms, UniqueKey, key_name
from qcore.model.codec import decode_state
from qcore.model.job import Buried, Job
from tests.support.moves import (
    NOW,
    OWNER,
    QUEUE,
    WAKEUP,
    ask,
    claim,
    content,
    failed_state,
    leased,
    put,
    settle,
    stored,
    take_wakeup,
)
from tests.support.reclaiming import reclaim_owner
from tests.support.servers import on_standalone_and_cluster

pytestmark = on_standalone_and_cluster


async def bury(broker, *ids: str, state: bytes | None = None) -> None:
    for lease in await leased(broker, *ids):
        await settle(broker, (lease, Buried(state or failed_state("first", "last"))))


async def test_revive_gives_all_attempts_again_and_keeps_the_errors(broker, inspector):
    await bury(broker, "a")
    await put(broker, "waiting")
    await take_wakeup(broker)
    assert await inspector.revive(QUEUE, ["a"]) == ["a"]
    found = await content(broker)
    state = decode_state(found.pop("state")["a"])
    assert state.failures == 0
    assert [error.text for error in state.errors] == ["first", "last"]
    assert found == {
        "ready": ["waiting", "a"],
        "jobs": {"a": stored("a"), "waiting": stored("waiting")},
        "wakeup": WAKEUP,
    }


async def test_revive_forgets_crashes(broker, inspector):
    """Else the first loss of a lease would make it dead again."""
    await leased(broker, "a")
    await reclaim_owner(broker, NOW, crash_limit=1)
    await inspector.revive(QUEUE, ["a"])
    assert "crashes" not in await content(broker)
    await claim(broker, prefix=f"{OWNER}:2:")
    assert (await reclaim_owner(broker, NOW, crash_limit=2))[0][1] == "ready"


async def test_revive_of_what_is_not_dead_does_nothing(broker, inspector):
    await leased(broker, "active")
    await put(broker, "ready")
    await put(broker, "scheduled", when="+5")
    await take_wakeup(broker)
    before = await content(broker)
    assert await inspector.revive(QUEUE, ["active", "ready", "scheduled", "unknown"]) == []
    assert await content(broker) == before


async def test_revive_twice_is_one_job(broker, inspector):
    await bury(broker, "a")
    assert await inspector.revive(QUEUE, ["a", "a"]) == ["a"]
    assert await inspector.revive(QUEUE, ["a"]) == []
    assert (await content(broker))["ready"] == ["a"]


async def test_revive_leaves_a_job_without_payload_dead(broker, inspector):
    await bury(broker, "a", "b")
    await ask(broker, b"HDEL", broker._keys_of(QUEUE).names["jobs"], "a")
    assert await inspector.revive(QUEUE, ["a", "b"]) == ["b"]
    assert (await content(broker))["dead"] == {"a": NOW}


async def test_revive_all_reads_no_more_than_it_revives_in_one_call(broker, inspector, monkeypatch):
    ids = [f"{n:03}" for n in range(600)]
    for part in (ids[:500], ids[500:]):
        leases = await leased(broker, *part)
        await settle(broker, *((lease, Buried(b"")) for lease in leases))
    await ask(broker, b"HDEL", broker._keys_of(QUEUE).names["jobs"], ids[0], ids[300])
    sizes, send = list[int](), broker._ask

    async def measure(commands):
        replies = await send(commands)
        sizes.extend(len(reply) for reply in replies if isinstance(reply, list))
        return replies

    monkeypatch.setattr(broker, "_ask", measure)
    whole = [id for id in ids if id not in (ids[0], ids[300])]
    assert sorted(await inspector.revive_all(QUEUE)) == whole
    assert max(sizes) <= 200
    found = await content(broker)
    assert sorted(found["ready"]) == whole
    assert set(found["dead"]) == {ids[0], ids[300]}


async def test_revived_job_is_claimed_with_its_fresh_record(broker, inspector):
    await bury(broker, "a")
    await inspector.revive(QUEUE, ["a"])
    (lease,) = (await claim(broker, prefix=f"{OWNER}:2:")).leases
    assert decode_state(lease.state).failures == 0
    assert lease.crashes == 0
    assert lease.enqueued_ms == NOW


# -- unique keys -----------------------------------------------------------------------------------


async def ask_for(broker, *ids: str, key: str = "p1") -> None:
    name = key_name("u", "pay", f"={key}")
    terms = Terms(key=UniqueKey(name, "done", "keep"))
    await broker.enqueue([Job(id, QUEUE, id.encode(), terms=terms) for id in ids])


async def died(broker, *ids: str) -> None:
    leases = (await claim(broker, prefix=f"{OWNER}:{ids[0]}:", now_ms=None)).leases
    assert [lease.id for lease in leases] == list(ids)
    await settle(broker, *((lease, Buried(b"")) for lease in leases), now_ms=None)


async def test_revived_job_takes_its_key_again(broker, inspector):
    await ask_for(broker, "a")
    await died(broker, "a")
    revived = await inspector.revive(QUEUE, ["a"])
    assert (revived, revived.held) == (["a"], {})
    assert (await inspector.job(QUEUE, "a")).unique.value == "p1"
    await ask_for(broker, "b")
    assert (await content(broker))["ready"] == ["a"]


async def test_revive_says_who_holds_the_key_of_one_that_stays_dead(broker, inspector):
    await ask_for(broker, "a")
    await ask_for(broker, "other", key="p2")
    await died(broker, "a", "other")
    await ask_for(broker, "b")
    before = await content(broker)
    revived = await inspector.revive(QUEUE, ["a", "unknown"])
    assert (revived, revived.held) == ([], {"a": "b"})
    assert await content(broker) == before
    revived = await inspector.revive_all(QUEUE)
    assert (revived, revived.held) == (["other"], {"a": "b"})


async def test_of_two_dead_jobs_with_one_key_one_is_revived(broker, inspector):
    for id in ("a", "b"):
        await ask_for(broker, id)
        await died(broker, id)
    revived = await inspector.revive_all(QUEUE)
    assert (len(revived), len(revived.held)) == (1, 1)
    assert list(revived.held.values()) == revived
    assert list((await content(broker))["dead"]) == list(revived.held)
