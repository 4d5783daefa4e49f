"""clear: ready, scheduled -> cancelled."""

from qcore.model.job import Buried, Retried
from tests.support.moves import (
    NOW,
    QUEUE,
    ack,
    ask,
    content,
    failed_state,
    leased,
    put,
    running,
    settle,
    status_of,
)
from tests.support.servers import on_standalone_and_cluster

pytestmark = on_standalone_and_cluster

DAY_MS = 24 * 3600 * 1000


async def test_clear_cancels_ready_and_scheduled_and_keeps_the_trace_for_a_day(broker, inspector):
    await put(broker, "a", "b")
    await put(broker, "c", when="+1000")
    seconds = int((await ask(broker, b"TIME"))[0])
    assert await inspector.clear(QUEUE) == 3
    found = await content(broker)
    assert set(found) == {"done", "expiry", "wake"}
    assert set(found["done"]) == set("abc")
    for gone in found["expiry"].values():
        assert 0 <= gone - DAY_MS - seconds * 1000 < 10_000
    assert [await status_of(broker, id) for id in "abc"] == ["cancelled"] * 3


async def test_clear_forgets_records_of_what_it_cancels(broker, inspector):
    (a,) = await leased(broker, "a")
    await settle(broker, (a, Retried(1000, failed_state("no"))))
    await ask(broker, b"HSET", broker.keys(QUEUE).names["crashes"], "a", f"1 {NOW}")
    assert await inspector.clear(QUEUE) == 1
    assert not {"jobs", "state", "crashes"} & set(await content(broker))


async def test_clear_leaves_active_and_dead_alone(broker, inspector):
    dead, active = await leased(broker, "dead", "active")
    await settle(broker, (dead, Buried(b"")))
    await put(broker, "waiting")
    assert await inspector.clear(QUEUE) == 1
    found = await content(broker)
    assert found["running"] == running("active")
    assert found["dead"] == {"dead": NOW}
    assert set(found["jobs"]) == {"active", "dead"}
    assert await ack(broker, active) == set()


async def test_clear_of_more_than_one_call_clears_all(broker, inspector):
    for part in range(3):
        await put(broker, *(f"{part}{n:03}" for n in range(400)), when="+9" * (part % 2))
    assert await inspector.clear(QUEUE) == 1200
    assert await inspector.clear(QUEUE) == 0
    assert not {"ready", "scheduled", "jobs"} & set(await content(broker))


async def test_clear_of_an_empty_queue_clears_nothing(broker, inspector):
    assert await inspector.clear(QUEUE) == 0
    assert await content(broker) == {}
