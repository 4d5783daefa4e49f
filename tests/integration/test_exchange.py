"""What a worker and its broker owe each other, when replies are lost."""

import asyncio

import pytest

from qcore import App, BrokerUnavailable
from qcore.broker import scripts
from qcore.broker.identity import new_owner
from qcore.config import WorkerConfig
from qcore.model.job import Acked
from qcore.runtime.exchange import Exchange
from qcore.runtime.slots import Room
from tests.support.proxy import Proxy
from tests.support.servers import Server


async def test_found_lease_counts_from_when_it_was_asked_for(own_server: Server):
    """However long it takes until it is handed out: an exclusive job trusts it from then."""
    loop = asyncio.get_running_loop()
    async with Proxy(own_server.port) as proxy, App(proxy.url) as app:

        @app.task
        async def work() -> None: ...

        config = WorkerConfig(queues=app.queues)
        exchange = Exchange(app.broker, config, new_owner(), wake=lambda: None)
        for _ in range(2):
            await work.enqueue()
        turn = await exchange.take(Room({"default": 1}, 1))
        exchange.add(turn.leases[0], Acked())
        proxy.lose_reply(scripts.CLAIM.sha)
        with pytest.raises(BrokerUnavailable):
            await exchange.take(Room({"default": 1}, 1))

        before = loop.time()
        proxy.lose_reply(scripts.SETTLE.sha)
        with pytest.raises(BrokerUnavailable):
            await exchange.take(Room({"default": 1}, 1))
        found = exchange.leases()
        assert len(found) == 2  # that of the outcome is one of them
        after = loop.time()
        turn = await exchange.take(Room({"default": 1}, 1))
        assert len(turn.leases) == 1
        assert before <= turn.sent_at < after

        (job,) = turn.leases
        exchange.add(job, Acked())
        later = loop.time()
        assert (await exchange.take(Room({"default": 1}, 1))).sent_at >= later
