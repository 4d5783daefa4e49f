"""Waiters: whoever asks for a job and leaves a channel hears of its end on it."""

from collections.abc import AsyncIterator

import pytest

from qcore.broker.redis import scripts
from qcore.broker.redis.broker import Broker
from qcore.model.job import Acked, Buried, Released, Retried
from qcore.settings import BrokerConfig
from tests.support.moves import (
    LEASE_MS,
    NOW,
    QUEUE,
    ask,
    claim,
    content,
    leased,
    put,
    settle,
)
from tests.support.reclaiming import reclaim, reclaim_owner, swept
from tests.support.servers import Server


@pytest.fixture
async def broker(own_server: Server) -> AsyncIterator[Broker]:
    """On a server of its own: channels are those of the whole server."""
    broker = Broker(BrokerConfig(url=own_server.url))
    yield broker
    await broker.close()


async def wait(broker: Broker, id: str, channel: str = "c1") -> str:
    (reply,) = await broker._ask([scripts.FIND.call(broker._keys_of(QUEUE), id, channel)])
    return reply[0].decode()


async def waiting(broker: Broker) -> dict[str, str]:
    return (await content(broker)).get("waiters", {})


async def test_find_with_a_channel_leaves_it_for_what_has_not_ended(broker):
    await put(broker, "ready", "active", "dead", "done")
    leases = {lease.id: lease for lease in (await claim(broker)).leases}
    await settle(
        broker,
        (leases["ready"], Released()),
        (leases["dead"], Buried(b"")),
        (leases["done"], Acked(b"r", 10)),
    )
    await put(broker, "scheduled", when="+1000")
    ids = ("ready", "active", "scheduled", "dead", "done", "unknown")
    assert [await wait(broker, id) for id in ids] == [
        *("ready", "active", "scheduled", "dead", "done", "")
    ]
    assert await waiting(broker) == {"ready": "c1", "active": "c1", "scheduled": "c1"}


async def test_find_leaves_each_channel_once(broker):
    await put(broker, "a")
    for channel in ("c1", "c2", "c1", "c2"):
        await wait(broker, "a", channel)
    assert await waiting(broker) == {"a": "c1 c2"}


async def test_find_leaves_a_channel_whose_name_is_part_of_another(broker):
    await put(broker, "a")
    for channel in ("c12", "c1", "2"):
        await wait(broker, "a", channel)
    assert (await waiting(broker))["a"].split() == ["c12", "c1", "2"]


async def test_find_keeps_a_bounded_list_of_channels(broker):
    await put(broker, "a")
    for n in range(300):
        await wait(broker, "a", f"channel-{n:05}")
    assert len((await waiting(broker))["a"]) < 1100


@pytest.mark.parametrize(
    ("outcome", "status"),
    [
        (Acked(), "completed"),
        (Acked(b"r", 10), "completed"),
        (Buried(b"no"), "dead"),
    ],
    ids=["ack", "keep", "bury"],
)
async def test_settle_that_ends_a_job_tells_every_channel_of_it(broker, hear, outcome, status):
    a, b = await leased(broker, "a", "b")
    await wait(broker, "a")
    await wait(broker, "a", "c2")
    await wait(broker, "b")
    await settle(broker, (a, outcome))
    assert await hear(2) == [f"c1: a {status}", f"c2: a {status}"]
    assert await waiting(broker) == {"b": "c1"}
    await settle(broker, (b, Acked()))
    assert await hear(1) == ["c1: b completed"]
    assert await waiting(broker) == {}


@pytest.mark.parametrize("outcome", [Retried(10, b""), Released()], ids=["retry", "release"])
async def test_settle_that_ends_nothing_tells_nobody(broker, hear, outcome):
    (a,) = await leased(broker, "a")
    await wait(broker, "a")
    await settle(broker, (a, outcome))
    assert await hear(0) == []
    assert await waiting(broker) == {"a": "c1"}


async def test_settle_of_a_zombie_tells_nobody(broker, hear):
    (zombie,) = await leased(broker, "a")
    await reclaim_owner(broker, NOW, charge=False)
    await wait(broker, "a")
    for outcome in (Acked(), Acked(b"r", 10), Buried(b"")):
        await settle(broker, (zombie, outcome))
    assert await hear(0) == []
    assert await waiting(broker) == {"a": "c1"}


async def test_cancel_tells_of_scheduled_and_ready_ones_at_once(broker, hear, inspector):
    await put(broker, "ready")
    await put(broker, "scheduled", when="+1000")
    for id in ("ready", "scheduled"):
        await wait(broker, id)
    await inspector.cancel(QUEUE, ["ready", "scheduled"])
    assert await hear(2) == ["c1: ready cancelled", "c1: scheduled cancelled"]
    assert await waiting(broker) == {}


async def test_cancel_of_an_active_one_tells_when_it_ended(broker, hear, inspector):
    a, b = await leased(broker, "a", "b")
    for id in "ab":
        await wait(broker, id)
    await inspector.cancel(QUEUE, ["a", "b"])
    assert await hear(0) == []
    await settle(broker, (a, Released()))
    assert await hear(1) == ["c1: a cancelled"]
    await settle(broker, (b, Acked(b"r", 10)))
    assert await hear(1) == ["c1: b completed"]
    assert await waiting(broker) == {}


async def test_clear_tells_of_each_job(broker, hear, inspector):
    await put(broker, "a", "b")
    await put(broker, "c", when="+1000")
    for id in "abc":
        await wait(broker, id)
    await inspector.clear(QUEUE)
    assert await hear(3) == [f"c1: {id} cancelled" for id in "abc"]
    assert await waiting(broker) == {}


async def test_reclaim_tells_of_the_dead_and_of_nothing_else(broker, hear):
    await leased(broker, "a", "b")
    for id in "ab":
        await wait(broker, id)
    await ask(broker, b"HSET", broker._keys_of(QUEUE).names["crashes"], "a", f"9 {NOW}")
    await swept(broker, NOW + LEASE_MS - 1)
    await reclaim(broker, NOW + LEASE_MS)
    assert await hear(1) == ["c1: a dead"]
    assert await waiting(broker) == {"b": "c1"}


async def test_reclaim_owner_tells_of_the_dead(broker, hear):
    await leased(broker, "a")
    await wait(broker, "a")
    await reclaim_owner(broker, NOW, crash_limit=1)
    assert await hear(1) == ["c1: a dead"]
    assert await waiting(broker) == {}
