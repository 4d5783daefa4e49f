"""What a worker and its broker owe each other, when replies are lost."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from qcore import App, BrokerUnavailable
from qcore.broker.identity import new_owner
from qcore.broker.redis import scripts
from qcore.model.job import Acked
from qcore.runtime.worker.capacity import ClaimBudget
from qcore.runtime.worker.session import Session
from qcore.settings import WorkerConfig
from tests.support.proxy import Proxy
from tests.support.servers import Server


@pytest.fixture
async def app(proxy: Proxy) -> AsyncIterator[App]:
    async with App(proxy.url) as app:
        yield app


def session_of(app: App) -> Session:
    config = WorkerConfig(queues=app.queues)
    return Session(app.broker, config, new_owner(), wake=lambda: None)


async def put(app: App, count: int, size: int = 10) -> None:
    @app.task
    async def work(text: str) -> None: ...

    for _ in range(count):
        await work.enqueue("x" * size)


def room(jobs: int) -> ClaimBudget:
    return ClaimBudget({"default": jobs}, jobs)


async def test_found_lease_counts_from_when_it_was_asked_for(own_server: Server):
    """However long it takes until it is handed out: an exclusive job trusts it from then."""
    loop = asyncio.get_running_loop()
    async with Proxy(own_server.port) as proxy, App(proxy.url) as app:

        @app.task
        async def work() -> None: ...

        config = WorkerConfig(queues=app.queues)
        exchange = Session(app.broker, config, new_owner(), wake=lambda: None)
        for _ in range(2):
            await work.enqueue()
        turn = await exchange.take(ClaimBudget({"default": 1}, 1))
        exchange.add(turn.leases[0], Acked())
        proxy.lose_reply(scripts.CLAIM.sha)
        with pytest.raises(BrokerUnavailable):
            await exchange.take(ClaimBudget({"default": 1}, 1))

        before = loop.time()
        proxy.lose_reply(scripts.ACK.sha)
        with pytest.raises(BrokerUnavailable):
            await exchange.take(ClaimBudget({"default": 1}, 1))
        found = exchange.leases()
        assert len(found) == 2  # that of the outcome is one of them
        after = loop.time()
        turn = await exchange.take(ClaimBudget({"default": 1}, 1))
        assert len(turn.leases) == 1
        assert before <= turn.sent_at < after

        (job,) = turn.leases
        exchange.add(job, Acked())
        later = loop.time()
        assert (await exchange.take(ClaimBudget({"default": 1}, 1))).sent_at >= later


async def test_what_a_lost_claim_took_and_cannot_be_fetched_goes_back(app: App, proxy: Proxy):
    exchange = session_of(app)
    await put(app, 1)
    for script in (scripts.CLAIM, scripts.RECOVER):
        proxy.lose_reply(script.sha)
        with pytest.raises(BrokerUnavailable):
            await exchange.take(room(1))
    (job,) = (await exchange.take(room(1))).leases
    assert job.token.split(b":")[1] == b"000000000002"  # claimed anew
    assert job.crashes == 0


async def test_calls_begin_small_and_grow_while_they_are_fast(app: App):
    exchange = session_of(app)
    await put(app, 40, 10_000)
    first = len((await exchange.take(room(40))).leases)
    second = len((await exchange.take(room(40))).leases)
    assert 1 < first < second < 40 - first


async def test_claim_after_one_that_was_lost_is_half_as_large(app: App, proxy: Proxy):
    exchange = session_of(app)
    await put(app, 40, 10_000)
    proxy.lose_reply(scripts.CLAIM.sha)
    with pytest.raises(BrokerUnavailable):
        await exchange.take(room(40))
    found = len((await exchange.take(room(40))).leases)
    assert len((await exchange.take(room(40))).leases) == found // 2


async def test_large_outcomes_are_told_in_several_calls(app: App):
    exchange, other = session_of(app), session_of(app)
    await put(app, 20)
    for lease in (await other.take(room(20))).leases:
        exchange.add(lease, Acked(b"x" * 10_000, 1000))
    await exchange.take(None)
    assert 0 < exchange.owed < 20
    while exchange.is_due:
        await exchange.take(None)
    assert exchange.settled == 20
