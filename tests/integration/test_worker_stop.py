"""A worker that is told to stop while it has to make up for something."""

import asyncio

from qcore import App
from qcore.broker.contract import ClaimRequest
from qcore.broker.identity import new_owner
from qcore.broker.per_loop import Brokers
from qcore.broker.redis.broker import Broker
from qcore.broker.redis.inspector import Inspector
from qcore.runtime.worker import session
from qcore.settings import BrokerConfig
from tests.support.proxy import Proxy
from tests.support.waiting import eventually
from tests.support.workers import working


async def test_worker_that_drains_takes_the_second_look_for_a_lost_claim(own_server, monkeypatch):
    monkeypatch.setattr(session, "_SECOND_LOOK_S", 3.0)
    owner = new_owner()
    direct = Broker(BrokerConfig(url=own_server.url))
    async with Proxy(own_server.port) as proxy:
        app = App(proxy.url)
        app._made = Brokers(lambda: BrokerConfig(url=proxy.url, call_timeout_s=0.5))

        go = asyncio.Event()

        @app.task
        async def unwanted() -> None: ...

        @app.task
        async def hold() -> None:
            await go.wait()

        async with app:
            await app.broker._ask([(b"PING",)])
            async with working(app, owner=owner, shutdown_timeout_s=20.0) as worker:
                lost = worker._session._lost_claims
                await hold.enqueue()  # while a job runs it is turns that claim
                await eventually(lambda: worker.beat().running == 1)
                await eventually(lambda: worker._listener._asked.is_set())
                proxy.asks.clear()
                worker._look_again()
                await eventually(lambda: lost)  # a claim that did not arrive
                prefix = lost[0].prefix
                proxy.cut()
                proxy.asks.set()
                await eventually(lambda: lost and lost[0].found is not None)
                worker.drain()
                go.set()
                # it does arrive after all, after the first look
                await unwanted.enqueue()
                late = ClaimRequest(("default",), 1, 30_000, prefix, (1,))
                assert len((await direct.turn([], late)).leases) == 1
        (stats,) = await Inspector(direct).queues(["default"])
        assert (stats.ready, stats.active) == (1, 0)
    await direct.close()
