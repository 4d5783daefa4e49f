"""A wait with a claim behind it: one write, one read; how it ends, and what of it can be lost."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from qcore import App
from qcore.broker.contract import ClaimRequest
from qcore.broker.identity import new_id, new_owner
from qcore.broker.redis import scripts
from qcore.broker.redis.broker import Broker
from qcore.broker.redis.claiming_wait import ClaimingWait, Woken
from qcore.errors import BrokerError, BrokerUnavailable
from qcore.model.job import Job
from qcore.runtime.worker.capacity import ClaimBudget
from qcore.runtime.worker.session import Session
from qcore.settings import BrokerConfig, WorkerConfig
from tests.support.moves import (
    LEASE_MS,
    OTHER_OWNER,
    OWNER,
    PREFIX,
    QUEUE,
    ask,
    content,
    put,
    running,
)
from tests.support.proxy import Proxy
from tests.support.servers import Server
from tests.support.waiting import eventually

REQUEST = ClaimRequest([QUEUE, "other"], 10, LEASE_MS, PREFIX)
ROOM = ClaimBudget({"default": 10}, 10)


def claiming(broker: Broker) -> ClaimingWait:
    assert broker.wakeups.claiming is not None
    return broker.wakeups.claiming


@pytest.fixture
async def own(own_server: Server) -> AsyncIterator[Broker]:
    """A broker at a server where nobody else waits."""
    broker = Broker(BrokerConfig(url=own_server.url))
    yield broker
    await broker.close()


async def blocked(server: Server, count: int = 1) -> None:
    await eventually(lambda: server.ask("INFO", "clients")["blocked_clients"] == count)


async def waiting(server: Server, broker: Broker, block_s: float = 20) -> "asyncio.Task[Woken]":
    """Return a wait that the server has begun."""
    wait = asyncio.create_task(claiming(broker).wait(REQUEST, block_s))
    await blocked(server)
    return wait


async def test_wakeup_ends_the_wait_and_the_claim_takes_what_came(own_server: Server, own: Broker):
    wait = await waiting(own_server, own)
    await put(own, "a", "b")

    woken = await wait

    assert woken.called
    assert [lease.id for lease in woken.turn.leases] == ["a", "b"]
    found = await content(own)
    assert found["running"] == running("a", "b")
    assert "wakeup" not in found


async def test_wait_whose_time_is_over_claims_what_nobody_was_woken_for(own: Broker):
    await put(own, "a")
    await ask(own, b"DEL", own._keys_of(QUEUE).names["wakeup"])

    woken = await claiming(own).wait(REQUEST, 0.05)

    assert not woken.called
    assert [lease.id for lease in woken.turn.leases] == ["a"]


async def test_wait_that_brought_nothing_says_when_to_claim_again(own: Broker):
    woken = await claiming(own).wait(REQUEST, 0.0)  # which is a moment, and not for ever

    assert (woken.called, woken.turn.claimed, woken.turn.again_ms) == (False, True, None)


async def test_wait_that_is_ended_claims_at_once(own_server: Server, own: Broker):
    wait = await waiting(own_server, own)

    await claiming(own).end(REQUEST.queues, OWNER)
    woken = await asyncio.wait_for(wait, 5)

    assert (woken.called, woken.turn.claimed, woken.turn.leases) == (False, True, [])


async def test_wait_that_was_ended_before_it_began_is_over_at_once(own: Broker):
    await claiming(own).end(REQUEST.queues, OWNER)

    woken = await asyncio.wait_for(claiming(own).wait(REQUEST, 20), 5)

    assert (woken.called, woken.turn.claimed) == (False, True)
    assert await left(own) == []


async def left(broker: Broker) -> list[bytes]:
    """Return the wakeups of single workers."""
    return await ask(broker, b"KEYS", b"*:wakeup:*")


async def test_wait_of_another_worker_goes_on(own_server: Server, own: Broker):
    wait = await waiting(own_server, own)

    await claiming(own).end(REQUEST.queues, OTHER_OWNER)
    await put(own, "a")

    assert (await asyncio.wait_for(wait, 5)).called


async def test_end_without_a_wait_leaves_nothing_for_long(own: Broker):
    await claiming(own).end(REQUEST.queues, OWNER)
    (key,) = await left(own)
    assert 0 < await ask(own, b"PTTL", key) <= 60_000


async def test_wait_that_is_cancelled_takes_its_claim_with_it(own_server: Server, own: Broker):
    wait = await waiting(own_server, own)

    wait.cancel()
    await asyncio.wait([wait])
    await blocked(own_server, 0)
    await put(own, "a")

    found = await content(own)
    assert (found["ready"], found.get("active"), "wakeup" in found) == (["a"], None, True)


async def test_server_that_forgot_the_script_meanwhile_claims_all_the_same(
    own_server: Server, own: Broker
):
    await claiming(own).wait(REQUEST, 0.0)  # the script went by its source
    wait = await waiting(own_server, own)
    own_server.ask("SCRIPT", "FLUSH")

    await put(own, "a")

    assert [lease.id for lease in (await wait).turn.leases] == ["a"]


async def test_queue_that_cannot_be_waited_for_is_claimed_from(own: Broker):
    await put(own, "a")
    await ask(own, b"DEL", own._keys_of("other").names["wakeup"])
    await ask(own, b"SET", own._keys_of("other").names["wakeup"], "rubbish")
    odd = ClaimRequest(["other", QUEUE], 10, LEASE_MS, PREFIX)

    woken = await claiming(own).wait(odd, 5)

    assert isinstance(woken.error, BrokerError)
    assert [lease.id for lease in woken.turn.leases] == ["a"]


def test_more_queues_than_a_claim_takes_are_waited_for_without_one(broker_config: BrokerConfig):
    wait = claiming(Broker(broker_config))
    assert wait.serves(["q"] * 250)
    assert not wait.serves(["q"] * 251)


# -- what a worker owes after a wait that failed ---------------------------------------------------


async def job_of(app: App) -> str:
    job = Job(new_id(), "default", b"")
    await app.broker.enqueue([job])
    return job.id


def session_of(app: App, **settings: float) -> Session:
    config = WorkerConfig(queues=app.queues, **settings)  # pyright: ignore[reportArgumentType]
    return Session(app.broker, config, new_owner(), wake=lambda: None)


async def test_wait_is_for_all_queues_at_once_while_nothing_runs(own_server: Server):
    async with App(own_server.url, queues=["default", "low"]) as app:
        session = session_of(app)
        assert session.can_wait(ClaimBudget({"default": 1, "low": 9}, 10))
        assert not session.can_wait(ClaimBudget({"low": 10}, 10))
        assert not session.can_wait(ClaimBudget({"default": 1, "low": 9}, 10, is_idle=False))


async def test_wait_takes_one_job_and_says_that_there_are_more(own_server: Server):
    async with App(own_server.url) as app:
        session = session_of(app)
        ids = [await job_of(app) for _ in range(3)]
        turn = (await session.wait(ROOM)).turn
        assert ([lease.id for lease in turn.leases], turn.again_ms) == (ids[:1], 0)
        (wakeup,) = await app.broker._ask(
            [(b"EXISTS", app.broker._keys_of("default").names["wakeup"])]
        )
        assert wakeup  # another worker may have them


async def test_leases_of_a_wait_are_trusted_from_its_beginning(own_server: Server):
    loop = asyncio.get_running_loop()
    async with App(own_server.url) as app:
        session = session_of(app)
        before = loop.time()
        wait = asyncio.create_task(session.wait(ROOM))
        await blocked(own_server)
        began = loop.time()
        await job_of(app)
        turn = (await wait).turn
        assert len(turn.leases) == 1
        assert before <= turn.sent_at <= began


async def test_what_a_wait_took_whose_reply_is_lost_is_found(own_server: Server, proxy: Proxy):
    async with App(proxy.url) as app, App(own_server.url) as producer:
        session = session_of(app)
        proxy.lose_reply(scripts.CLAIM.sha)
        wait = asyncio.create_task(session.wait(ROOM))
        id = await job_of(producer)
        with pytest.raises(BrokerUnavailable):
            await wait
        assert session.owes_only_waits
        assert not session.is_clear
        assert [lease.id for lease in (await session.take(ROOM)).leases] == [id]


async def test_claim_that_is_made_after_its_wait_was_given_up_is_found(own_server: Server):
    """The server does not see the connection end, and goes on waiting."""
    async with Proxy(own_server.port) as way, App(way.url) as far, App(own_server.url) as app:
        app.broker.wakeups.claiming = claiming(far.broker)
        session = session_of(app, block_s=1.0)
        wait = asyncio.create_task(session.wait(ROOM))
        await blocked(own_server)
        way.open.clear()
        wait.cancel()
        await asyncio.wait([wait])
        assert (await session.take(None)).leases == []  # the first look comes too soon

        id = await job_of(app)
        await blocked(own_server, 0)
        assert not session.is_clear
        await eventually(lambda: session.is_due)
        assert [lease.id for lease in (await session.take(ROOM)).leases] == [id]
        assert session.is_clear
        way.open.set()


async def test_server_that_pauses_writes_meanwhile_lives_and_ends_the_wait(
    own_server: Server, own: Broker
):
    """As in a failover; some versions of Redis do not survive CLIENT UNBLOCK then."""
    wait = await waiting(own_server, own)
    own_server.ask("CLIENT", "PAUSE", 300, "WRITE")

    for _ in range(2):
        await claiming(own).end(REQUEST.queues, OWNER)

    assert (await asyncio.wait_for(wait, 10)).turn.claimed
    assert own_server.ask("PING")
