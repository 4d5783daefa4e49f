"""note: active -> active, with a new record."""

from qcore.broker.redis import scripts
from qcore.model.job import Released
from tests.support.moves import (
    NOW,
    OWNER,
    QUEUE,
    ack,
    ask,
    claim,
    content,
    leased,
    running,
    settle,
    stored,
    token,
    tokens,
)
from tests.support.reclaiming import reclaim_owner
from tests.support.servers import on_standalone_and_cluster

pytestmark = on_standalone_and_cluster


async def test_note_writes_the_record_and_nothing_else(broker):
    a, _ = await leased(broker, "a", "b")
    assert await broker.update_records([(a, b"begun")]) == set()
    assert await content(broker) == {
        "active": tokens("a", "b"),
        "running": running("a", "b"),
        "jobs": {"a": stored("a"), "b": stored("b")},
        "state": {"a": "begun"},
    }


async def test_note_again_overwrites(broker):
    (a,) = await leased(broker, "a")
    assert await broker.update_records([(a, b"first")]) == set()
    assert await broker.update_records([(a, b"second")]) == set()
    assert (await content(broker))["state"] == {"a": "second"}


async def test_note_of_a_lost_lease_writes_nothing(broker):
    (a,) = await leased(broker, "a")
    await reclaim_owner(broker, NOW, charge=False)
    (successor,) = (await claim(broker, prefix=f"{OWNER}:2:")).leases
    before = await content(broker)
    assert await broker.update_records([(a, b"late")]) == {a.token}
    assert await content(broker) == before
    assert await broker.update_records([(successor, b"begun")]) == set()


async def test_note_of_a_job_that_has_ended_leaves_no_record_behind(broker):
    (a,) = await leased(broker, "a")
    await ack(broker, a)
    assert await broker.update_records([(a, b"late")]) == {a.token}
    assert await content(broker) == {}


async def test_note_is_what_the_next_claim_finds(broker):
    (a,) = await leased(broker, "a")
    await broker.update_records([(a, b"begun")])
    await settle(broker, (a, Released()))
    (again,) = (await claim(broker, prefix=f"{OWNER}:2:")).leases
    assert again.state == b"begun"


async def test_note_of_several_tells_the_lost_ones(broker):
    a, b, c = await leased(broker, *"abc")
    await ack(broker, b)
    call = scripts.UPDATE_RECORD.call(
        broker._keys_of(QUEUE), *(w for x in (a, b, c) for w in (x.token, x.id))
    )
    assert await broker._ask([call]) == [[token("b").encode()]]
    assert (await content(broker))["state"] == {"a": "a", "c": "c"}
    assert (await ask(broker, b"HLEN", broker._keys_of(QUEUE).names["state"])) == 2
