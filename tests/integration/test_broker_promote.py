"""promote: scheduled -> ready."""

from tests.support.moves import NOW, QUEUE, WAKEUP, content, put, stored, take_wakeup
from tests.support.servers import on_standalone_and_cluster

pytestmark = on_standalone_and_cluster


async def test_promote_moves_what_is_due_in_order_of_time(broker):
    for id, delay in (("late", 20), ("early", 10), ("edge", 30), ("future", 31)):
        await put(broker, id, when=f"+{delay}")
    await take_wakeup(broker)
    assert await broker.promote([QUEUE], now_ms=NOW + 30) == (3, 0)
    assert await content(broker) == {
        "ready": ["early", "late", "edge"],
        "scheduled": {"future": NOW + 31},
        "jobs": {id: stored(id) for id in ("late", "early", "edge", "future")},
        "wakeup": WAKEUP,
    }


async def test_promote_appends_behind_what_is_ready(broker):
    await put(broker, "due", when="+10")
    await put(broker, "ready")
    await broker.promote([QUEUE], now_ms=NOW + 10)
    assert (await content(broker))["ready"] == ["ready", "due"]


async def test_promote_of_nothing_changes_nothing_and_sets_no_wakeup(broker):
    await put(broker, "a", when="+10")
    await take_wakeup(broker)
    before = await content(broker)
    assert await broker.promote([QUEUE], now_ms=NOW + 9) == (0, 0)
    assert await content(broker) == before


async def test_promote_is_bounded(broker):
    ids = [f"{n:03}" for n in range(250)]
    await put(broker, *ids, when="+10")
    assert await broker.promote([QUEUE], now_ms=NOW + 10) == (200, 0)
    assert await broker.promote([QUEUE], limit=30, now_ms=NOW + 10) == (30, 0)
    assert await broker.promote([QUEUE], now_ms=NOW + 10) == (20, 0)
    assert (await content(broker))["ready"] == ids


async def test_promote_of_an_unknown_queue_creates_no_key(broker):
    assert await broker.promote([QUEUE], now_ms=NOW) == (0, 0)
    assert await content(broker) == {}
