"""When a supervisor obeys an order that comes with the reply to its heartbeat."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from qcore.broker.contract import Contact, Order
from qcore.broker.redis.broker import Broker
from qcore.broker.redis.fleet import OLD_ORDER_MS, Fleet
from qcore.broker.redis.keys import namespace_keys
from qcore.model.fleet import SupervisorState, SupervisorView
from qcore.runtime.supervisor.heartbeat import Heartbeat
from qcore.settings import BrokerConfig, WorkerConfig
from tests.support.proxy import Proxy
from tests.support.servers import Server
from tests.support.waiting import eventually


async def test_order_that_comes_while_the_first_heartbeat_is_on_its_way_is_obeyed(
    own_server: Server,
):
    """The workers were started before it, and perhaps with the old code."""
    direct, orders = Broker(BrokerConfig(url=own_server.url)), list[Order]()
    async with Proxy(own_server.port) as proxy:
        broker = Broker(BrokerConfig(url=proxy.url))
        await broker._ask([(b"PING",)])
        asked = asyncio.Event()

        def view() -> SupervisorView:
            asked.set()
            state = SupervisorState.RUNNING
            return SupervisorView(
                host="web1", name="worker", pid=1, state=state, queues=("any",), age_s=0.05
            )

        def now_ms() -> int:
            seconds, micros = own_server.ask("TIME")
            return seconds * 1000 + micros // 1000

        registration = Heartbeat(
            broker, WorkerConfig(queues=("any",)), view=view, obey=orders.append
        )
        proxy.asks.clear()
        async with asyncio.TaskGroup() as group:
            group.create_task(registration.run())
            await asked.wait()
            generation = await Fleet(direct).restart()
            # the fault: it is on its way for longer than the supervisor was there when it began
            await eventually(lambda: now_ms() > generation + 100)
            proxy.asks.set()
            await eventually(lambda: orders, 10)
            registration.end()
        assert [order.generation for order in orders] == [generation]
        await broker.close()
    await direct.close()


async def test_newest_of_two_orders_is_obeyed(broker: Broker):
    """As by one that was cut off meanwhile: the older one has nothing to say any more."""
    fleet, orders = Fleet(broker), list[Order]()
    await fleet.restart()
    newest = await fleet.restart(host="web1", leave=True)
    view = SupervisorView(
        host="web1", name="worker", pid=1, state=SupervisorState.RUNNING, queues=("any",), age_s=60
    )
    registration = Heartbeat(
        broker, WorkerConfig(queues=("any",)), view=lambda: view, obey=orders.append
    )
    async with asyncio.TaskGroup() as group:
        group.create_task(registration.run())
        await eventually(lambda: orders)
        registration.end()
    assert orders == [Order("web1", "", newest, leave=True)]


async def test_supervisors_that_hear_of_an_order_at_once_obey_one_after_the_other(broker: Broker):
    """Or every machine would boot new workers at the same moment."""
    loop, obeyed_at = asyncio.get_running_loop(), list[float]()
    view = SupervisorView(
        host="web1", name="worker", pid=1, state=SupervisorState.RUNNING, queues=("any",), age_s=9.0
    )
    registrations = [
        Heartbeat(
            broker,
            WorkerConfig(queues=("any",), heartbeat_s=0.1),
            view=lambda: view,
            obey=lambda order: obeyed_at.append(loop.time()),
        )
        for _ in range(8)
    ]
    async with asyncio.TaskGroup() as group:
        for registration in registrations:
            group.create_task(registration.run())
        await eventually(lambda: members_of(broker, 8))
        await Fleet(broker).restart()
        await eventually(lambda: len(obeyed_at) == 8)
        for registration in registrations:
            registration.end()
    # all within a heartbeat if they did not wait
    assert max(obeyed_at) - min(obeyed_at) > 0.3


async def members_of(broker: Broker, count: int) -> bool:
    return len(await Fleet(broker).members()) == count


async def test_order_of_the_future_is_not_for_those_who_find_it_at_their_start(broker: Broker):
    """The Redis clock was set back: each new supervisor would leave at once, for an hour."""
    fleet, orders = Fleet(broker), list[Order]()
    key = namespace_keys(broker.config.namespace).names["control"]
    (now,) = await broker._ask([(b"TIME",)])
    future = int(now[0]) * 1000 + 3600_000
    await broker._ask([(b"HSET", key, b"restart::", f"{future} 1")])
    view = SupervisorView(
        host="web1", name="worker", pid=1, state=SupervisorState.RUNNING, queues=("any",), age_s=60
    )
    registration = Heartbeat(
        broker,
        WorkerConfig(queues=("any",), heartbeat_s=0.05),
        view=lambda: view,
        obey=orders.append,
    )

    async def knows() -> bool:
        return any(member.view.given_before == future for member in await fleet.members())

    async with asyncio.TaskGroup() as group:
        group.create_task(registration.run())
        await eventually(knows)
        # whoever is there obeys the next one, whatever the clock says
        generation = await fleet.restart()
        await eventually(lambda: orders)
        registration.end()
    assert generation == future + 1
    assert [order.generation for order in orders] == [generation]


async def test_order_that_lies_far_ahead_does_not_hide_the_next_ones(broker: Broker):
    fleet, orders = Fleet(broker), list[Order]()
    key = namespace_keys(broker.config.namespace).names["control"]
    await broker._ask([(b"HSET", key, b"restart:nowhere:", f"{2**53} 0")])
    async with registered(broker, orders) as registration:
        await eventually(lambda: registration._given_before is not None)
        assert registration._given_before == 0
        for count in (1, 2):
            generation = await fleet.restart()
            await eventually(lambda count=count: len(orders) == count)
            assert orders[-1].generation == generation


async def test_order_that_lay_far_ahead_is_not_obeyed_when_its_time_comes(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
):
    fleet, orders = Fleet(broker), list[Order]()
    key = namespace_keys(broker.config.namespace).names["control"]
    async with registered(broker, orders) as registration:
        await eventually(lambda: registration._given_before is not None)
        (now,) = await broker._ask([(b"TIME",)])
        ahead = int(now[0]) * 1000 + OLD_ORDER_MS + 60_000
        await broker._ask([(b"HSET", key, b"restart:web1:", f"{ahead} 1")])
        await eventually(lambda: registration._void)
        valid, replies = registration._valid, list[Contact]()

        def seen(contact: Contact) -> list[Order]:
            replies.append(contact)
            return valid(contact)

        monkeypatch.setattr(registration, "_valid", seen)
        monkeypatch.setattr(
            "qcore.runtime.supervisor.heartbeat.OLD_ORDER_MS", OLD_ORDER_MS + 120_000
        )
        await eventually(lambda: len(replies) == 3)
        assert (registration._seen, orders) == (0, [])
        generation = await fleet.restart()
        await eventually(lambda: orders)
    assert [order.generation for order in orders] == [generation]


async def test_supervisor_that_saw_an_order_before_the_clock_went_far_back_obeys_the_next(
    broker: Broker,
):
    fleet, orders = Fleet(broker), list[Order]()
    async with registered(broker, orders) as registration:
        await eventually(lambda: registration._given_before is not None)
        (now,) = await broker._ask([(b"TIME",)])
        registration._seen = int(now[0]) * 1000 + 2 * OLD_ORDER_MS
        await eventually(lambda: registration._seen == 0)
        generation = await fleet.restart()
        await eventually(lambda: orders)
    assert [order.generation for order in orders] == [generation]


@contextlib.asynccontextmanager
async def registered(broker: Broker, orders: list[Order]) -> AsyncIterator[Heartbeat]:
    view = SupervisorView(
        host="web1", name="worker", pid=1, state=SupervisorState.RUNNING, queues=("any",), age_s=0
    )
    worker = WorkerConfig(queues=("any",), heartbeat_s=0.05)
    registration = Heartbeat(broker, worker, view=lambda: view, obey=orders.append)
    async with asyncio.TaskGroup() as group:
        group.create_task(registration.run())
        yield registration
        registration.end()
