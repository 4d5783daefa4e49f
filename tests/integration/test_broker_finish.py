"""Every way in which a job ends: what is stored of it goes, and who waits for it is told."""

from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from qcore.broker.redis import scripts
from qcore.broker.redis.broker import Broker
from qcore.broker.redis.inspector import Inspector
from qcore.model.job import Acked, Buried, Lease, Outcome, Released, Retried
from qcore.settings import BrokerConfig
from tests.support.moves import LEASE_MS, NOW, QUEUE, SECOND, ask, claim, content, put, settle
from tests.support.reclaiming import reclaim, reclaim_owner, swept
from tests.support.servers import Server

LATE = NOW + LEASE_MS + 1


@pytest.fixture
async def broker(own_server: Server) -> AsyncIterator[Broker]:
    """On a server of its own: channels are those of the whole server."""
    broker = Broker(BrokerConfig(url=own_server.url))
    yield broker
    await broker.close()


async def taken(broker: Broker) -> Lease:
    await put(broker, "x")
    (lease,) = (await claim(broker)).leases
    return lease


async def call_off(broker: Broker) -> None:
    call = scripts.CANCEL.call(broker._keys_of(QUEUE), NOW, SECOND, b"called off", "x")
    await broker._ask([call])


async def ready(broker: Broker) -> None:
    await put(broker, "x")


async def scheduled(broker: Broker) -> None:
    await put(broker, "x", when="+1000")


async def active(broker: Broker) -> None:
    await taken(broker)


async def unwanted(broker: Broker) -> None:
    await taken(broker)
    await call_off(broker)


def settled(outcome: Outcome) -> Callable[[Broker], Awaitable[None]]:
    async def end(broker: Broker) -> None:
        (found,) = await broker.recover([QUEUE], "", LEASE_MS, now_ms=NOW)
        await settle(broker, (found, outcome))

    return end


async def last_reclaim(broker: Broker) -> None:
    await swept(broker, LATE)
    await reclaim(broker, LATE, crash_limit=1)


async def last_reclaim_of_owner(broker: Broker) -> None:
    await reclaim_owner(broker, NOW, crash_limit=1)


async def clear(broker: Broker) -> None:
    await Inspector(broker).clear(QUEUE)


Move = Callable[[Broker], Awaitable[None]]

#: Name -> how it came there, how it ends, and as what.
WAYS: dict[str, tuple[Move, Move, str]] = {
    "ack": (active, settled(Acked()), "completed"),
    "ack with a result": (active, settled(Acked(b"r", SECOND)), "completed"),
    "bury": (active, settled(Buried(b"record")), "dead"),
    "cancel of a scheduled job": (scheduled, call_off, "cancelled"),
    "retry of a cancelled job": (unwanted, settled(Retried(0, b"record")), "cancelled"),
    "release of a cancelled job": (unwanted, settled(Released()), "cancelled"),
    "bury of a cancelled job": (unwanted, settled(Buried(b"record")), "dead"),
    "reclaim of a cancelled job": (unwanted, last_reclaim, "cancelled"),
    "reclaim of a cancelled job's owner": (unwanted, last_reclaim_of_owner, "cancelled"),
    "last reclaim": (active, last_reclaim, "dead"),
    "last reclaim of its owner": (active, last_reclaim_of_owner, "dead"),
    "clear of a ready job": (ready, clear, "cancelled"),
    "clear of a scheduled job": (scheduled, clear, "cancelled"),
}
#: With an outcome that a handle finds; whose kept for nothing are forgotten.
KEPT = {way for way, (_, _, status) in WAYS.items() if status == "cancelled"} | {
    "ack with a result"
}


@pytest.mark.parametrize("way", WAYS)
async def test_end_of_a_job_leaves_nothing_else_and_is_told(broker: Broker, hear, way: str):
    bring, end, status = WAYS[way]
    await bring(broker)
    names = broker._keys_of(QUEUE).names
    await ask(broker, b"HSET", names["state"], "x", b"record of a run")
    await ask(broker, b"HSET", names["crashes"], "x", f"1 {NOW}")
    await broker._ask([scripts.FIND.call(broker._keys_of(QUEUE), "x", "c1")])
    await hear(0)

    await end(broker)

    assert await hear(1) == [f"c1: x {status}"]
    found = await content(broker)
    holding = {
        name
        for name, kept in found.items()
        if any(word == "x" or str(word).endswith(":x") for word in kept)
    }
    of_the_dead = {"dead", "jobs", "state", "crashes"} if status == "dead" else set[str]()
    assert holding == of_the_dead | ({"done", "expiry"} if way in KEPT else set[str]())


async def test_purge_of_a_dead_job_leaves_nothing(broker: Broker):
    await active(broker)
    await last_reclaim_of_owner(broker)
    assert await Inspector(broker).purge(QUEUE, ids=["x"]) == 1
    assert set(await content(broker)) <= {"meta", "wakeup"}
