"""The registry of supervisors: records, their end, and orders with a generation."""

import math

import msgspec
import pytest

from qcore.broker.contract import Order
from qcore.broker.redis import scripts
from qcore.broker.redis.broker import Broker
from qcore.broker.redis.fleet import FORGET_MS, OLD_ORDER_MS, Fleet
from qcore.broker.redis.keys import namespace_keys
from qcore.model.fleet import SupervisorState, SupervisorView, WorkerState, WorkerView
from tests.support.servers import on_standalone_and_cluster

pytestmark = on_standalone_and_cluster

VIEW = SupervisorView(
    host="web1",
    name="worker",
    pid=4711,
    state=SupervisorState.RUNNING,
    queues=("default", "low"),
    age_s=60.0,
    workers=(WorkerView(name="worker.1", pid=4712, state=WorkerState.RUNNING, done=3),),
)


@pytest.fixture
def fleet(broker: Broker) -> Fleet:
    return Fleet(broker)


async def fields(broker: Broker, key: str) -> dict[bytes, bytes]:
    name = namespace_keys(broker.config.namespace).names[key]
    (flat,) = await broker._ask([(b"HGETALL", name)])
    return dict(zip(flat[::2], flat[1::2], strict=True))


async def beat_at(broker: Broker, id: str, now_ms: int, cursor: int = 0) -> int:
    """Send a heartbeat of another time; return the cursor."""
    keys = namespace_keys(broker.config.namespace)
    # as long as one is: Redis gives a hash of short values in one piece, whatever it is asked
    call = scripts.HEARTBEAT.call(keys, now_ms, id, b"record" * 20, FORGET_MS, cursor)
    ((_, cursor, _),) = await broker._ask([call])
    return int(cursor)


async def heard(broker: Broker, id: str, at_ms: int) -> None:
    """Write a record of another time, which drops none."""
    key = namespace_keys(broker.config.namespace).names["fleet"]
    await broker._ask([(b"HSET", key, id, at_ms.to_bytes(8) + b"record" * 20)])


async def restart_at(broker: Broker, field: str, now_ms: int) -> int:
    keys = namespace_keys(broker.config.namespace)
    call = scripts.RESTART.call(keys, now_ms, field, 0, OLD_ORDER_MS)
    return int((await broker._ask([call]))[0])


async def test_supervisor_that_beats_is_a_member_with_all_that_it_said(fleet: Fleet):
    contact = await fleet.beat("a", VIEW)
    (member,) = await fleet.members()
    assert (member.id, member.view) == ("a", VIEW)
    assert 0 <= member.silent_s < 5
    assert not member.is_silent
    assert abs(member.started_ms - (contact.now_ms - 60_000)) <= 1
    assert contact.orders == ()


async def test_members_come_by_host_and_name_and_one_that_left_is_gone(fleet: Fleet):
    for id, host, name in (("x", "web2", "a"), ("y", "web1", "b"), ("z", "web1", "a")):
        await fleet.beat(id, msgspec.structs.replace(VIEW, host=host, name=name))
    assert [member.id for member in await fleet.members()] == ["z", "y", "x"]
    await fleet.forget(["y", "nobody"])
    assert [member.id for member in await fleet.members()] == ["z", "x"]


async def test_record_that_cannot_be_read_is_left_out(fleet: Fleet, broker: Broker):
    await fleet.beat("a", VIEW)
    await heard(broker, "b", 5)
    await broker._ask(
        [(b"HSET", namespace_keys(broker.config.namespace).names["fleet"], b"c", b"")]
    )
    assert [member.id for member in await fleet.members()] == ["a"]
    for _ in range(10):  # each looks at two or so, and has to get past them
        await fleet.beat("a", VIEW)
    assert set(await fields(broker, "fleet")) == {b"a"}


async def test_record_of_a_newer_version_is_read(fleet: Fleet, broker: Broker):
    known = msgspec.to_builtins(VIEW)
    keys = namespace_keys(broker.config.namespace)
    record = msgspec.msgpack.encode(known | {"color": "blue"})
    await broker._ask([scripts.HEARTBEAT.call(keys, b"", "a", record, FORGET_MS, 0)])
    assert [member.view for member in await fleet.members()] == [VIEW]


async def test_records_of_the_silent_are_dropped_after_an_hour_by_the_beats_of_others(
    broker: Broker,
):
    now = 1_700_000_000_000
    for n in range(50):
        await beat_at(broker, f"old{n}", now)
    await beat_at(broker, "young", now + 10_000)
    cursor = await beat_at(broker, "me", now + FORGET_MS)
    assert len(await fields(broker, "fleet")) == 52
    for _ in range(60):
        cursor = await beat_at(broker, "me", now + FORGET_MS + 1000, cursor)
    assert set(await fields(broker, "fleet")) == {b"young", b"me"}


async def test_heartbeats_of_one_supervisor_see_all_records_one_after_the_other(
    fleet: Fleet, broker: Broker
):
    now = (await fleet.beat("me", VIEW)).now_ms
    for n in range(30):
        await heard(broker, f"young{n}", now)
        await heard(broker, f"old{n}", 1)
    beats = 0
    while any(id.startswith(b"old") for id in await fields(broker, "fleet")):
        await fleet.beat("me", VIEW)
        beats += 1
        assert beats < 200
    assert len(await fields(broker, "fleet")) == 31
    assert beats > 5, "no beat has to look at many"


async def test_record_of_a_far_future_is_dropped(fleet: Fleet, broker: Broker):
    """It would be shown as one that lives, for as long."""
    now = (await fleet.beat("a", VIEW)).now_ms
    await heard(broker, "b", now + FORGET_MS + 60_000)
    for _ in range(10):
        await fleet.beat("a", VIEW)
    assert set(await fields(broker, "fleet")) == {b"a"}


@pytest.mark.parametrize(
    "odd", [{"age_s": math.inf}, {"age_s": math.nan}, {"age_s": -1.0}, {"pid": 2**40}, {"pid": 0}]
)
async def test_record_with_an_odd_number_is_left_out(fleet: Fleet, broker: Broker, odd):
    await fleet.beat("a", VIEW)
    await fleet.beat("b", msgspec.structs.replace(VIEW, **odd))
    assert [member.id for member in await fleet.members()] == ["a"]


async def test_orders_that_cannot_be_read_are_passed_over(fleet: Fleet, broker: Broker):
    key = namespace_keys(broker.config.namespace).names["control"]
    odd = [(b"\xff\xfe", b"1 0"), (b"restart:\xff:", b"x 0"), (b"restart::", b"9" * 400 + b" 1")]
    odd += [(b"restart:a:b:c", b"5 0"), (b"restart:a:", b"5"), (b"restart:b:", b"inf 1")]
    await broker._ask([(b"HSET", key, *(word for pair in odd for word in pair))])
    assert (await fleet.beat("a", VIEW)).orders == ()
    generation = await fleet.restart(host="web1")
    (order,) = (await fleet.beat("a", VIEW)).orders
    assert (order.host, order.generation) == ("web1", generation)
    assert generation < 10**13


async def test_supervisor_that_was_silent_for_long_does_not_drop_its_own_record(broker: Broker):
    now = 1_700_000_000_000
    await beat_at(broker, "me", now)
    await beat_at(broker, "me", now + 2 * FORGET_MS)
    assert set(await fields(broker, "fleet")) == {b"me"}


async def test_order_reaches_every_heartbeat_with_a_generation_of_its_time(fleet: Fleet):
    before = await fleet.beat("a", VIEW)
    first = await fleet.restart()
    second = await fleet.restart(host="web1", queue="low", leave=True)
    contact = await fleet.beat("b", VIEW)
    assert before.now_ms <= first < second <= contact.now_ms + 1
    orders = {order.generation: order for order in contact.orders}
    assert orders == {
        first: Order("", "", first, leave=False),
        second: Order("web1", "low", second, leave=True),
    }


async def test_generations_grow_also_when_the_clock_goes_back(broker: Broker):
    now = 1_700_000_000_000
    first = await restart_at(broker, "restart::", now)
    second = await restart_at(broker, "restart:web1:", now - 5000)
    third = await restart_at(broker, "restart::", now - 5000)
    assert (first, second, third) == (now, now + 1, now + 2)


async def test_old_orders_are_dropped_when_a_new_one_is_given(broker: Broker):
    now = 1_700_000_000_000
    await restart_at(broker, "restart:gone:", now)
    await restart_at(broker, "restart:web1:", now + 1000)
    last = await restart_at(broker, "restart::", now + OLD_ORDER_MS + 1)
    assert set(await fields(broker, "control")) == {b"restart:web1:", b"restart::"}
    assert last == now + OLD_ORDER_MS + 1


@pytest.mark.parametrize("ahead_ms", [OLD_ORDER_MS + 1, 2**53 - 1_700_000_000_000])
async def test_order_that_lies_far_ahead_is_dropped_and_does_not_count(broker: Broker, ahead_ms):
    """Above 2**53 Lua does not count on: every later order would have the same generation."""
    now = 1_700_000_000_000
    key = namespace_keys(broker.config.namespace).names["control"]
    await broker._ask([(b"HSET", key, b"restart:nowhere:", b"%d 0" % (now + ahead_ms))])
    given = [await restart_at(broker, "restart::", now) for _ in range(2)]
    assert given == [now, now + 1]
    assert await fields(broker, "control") == {b"restart::": b"%d 0" % (now + 1)}


async def test_generations_grow_also_when_the_clock_went_back_by_days(broker: Broker):
    now = 1_700_000_000_000
    await restart_at(broker, "restart::", now + OLD_ORDER_MS)
    assert await restart_at(broker, "restart:web1:", now) == now + OLD_ORDER_MS + 1
    assert set(await fields(broker, "control")) == {b"restart::", b"restart:web1:"}


async def test_control_of_another_version_is_passed_over(fleet: Fleet, broker: Broker):
    name = namespace_keys(broker.config.namespace).names["control"]
    await broker._ask([(b"HSET", name, b"paused", b"default", b"restart:a:b:c", b"1 0 0")])
    assert (await fleet.beat("a", VIEW)).orders == ()
