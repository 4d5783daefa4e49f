"""clear: ready, scheduled -> cancelled."""

import pytest

from qcore.broker.identity import made_ms, new_id
from qcore.errors import JobNotFound
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


async def test_clear_cancels_ready_and_scheduled_and_leaves_nothing_of_them(broker, inspector):
    await put(broker, "a", "b")
    await put(broker, "c", when="+1000")
    ms = int((await ask(broker, b"TIME"))[0]) * 1000
    assert await inspector.clear(QUEUE) == 3
    found = await content(broker)
    assert set(found) == {"wakeup", "meta"}
    assert 0 <= int(found["meta"]["cleared"]) - ms < 10_000


async def test_clear_keeps_word_for_a_day_for_those_who_wait_or_have_cancelled(broker, inspector):
    await put(broker, "a", "b", "x")
    await put(broker, "c", "y", when="+1000")
    for id in "ac":
        await ask(broker, b"HSET", broker._keys_of(QUEUE).names["waiters"], id, "channel")
    await inspector.cancel(QUEUE, ["b"])
    ms = int((await ask(broker, b"TIME"))[0]) * 1000
    assert await inspector.clear(QUEUE) == 5
    found = await content(broker)
    assert set(found) == {"done", "expiry", "wakeup", "meta"}
    assert set(found["done"]) == set("abc")
    for gone in found["expiry"].values():
        assert 0 <= gone - DAY_MS - ms < 10_000
    assert [await status_of(broker, id) for id in "abc"] == ["cancelled"] * 3


async def test_job_without_a_trace_may_have_been_cleared_if_it_is_older_than_that(
    broker, inspector
):
    before = new_id()
    await put(broker, before)
    await inspector.clear(QUEUE)
    with pytest.raises(JobNotFound, match=f"{QUEUE}/{before}: its queue was cleared at 20"):
        await inspector.job(QUEUE, before)
    made = made_ms(before)
    assert made is not None
    await ask(broker, b"HSET", broker._keys_of(QUEUE).names["meta"], b"cleared", made - 1)
    assert await inspector.job(QUEUE, before) is None


async def test_clear_forgets_records_of_what_it_cancels(broker, inspector):
    (a,) = await leased(broker, "a")
    await settle(broker, (a, Retried(1000, failed_state("no"))))
    await ask(broker, b"HSET", broker._keys_of(QUEUE).names["crashes"], "a", f"1 {NOW}")
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
