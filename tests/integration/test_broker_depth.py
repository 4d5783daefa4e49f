"""depth: how many jobs a queue holds, and since when its next one waits."""

import msgspec
import pytest

from qcore.broker.redis import scripts
from qcore.broker.redis.broker import Broker
from qcore.model.job import Buried, Job
from qcore.settings import DepthLimit
from tests.support.moves import NOW, QUEUE, ack, ask, content, leased, put, settle
from tests.support.servers import on_standalone_and_cluster

pytestmark = on_standalone_and_cluster


async def test_depth_counts_jobs_by_where_they_are(broker, inspector):
    dead, _, _, done = await leased(broker, "dead", "active 1", "active 2", "done")
    await settle(broker, (dead, Buried(b"")))
    await ack(broker, done)
    await put(broker, *"abc")
    await put(broker, *"defgh", when="+9999")
    before = await content(broker)
    (stats,) = await inspector.queues([QUEUE])
    assert stats.name == QUEUE
    assert (stats.ready, stats.scheduled, stats.active, stats.dead) == (3, 5, 2, 1)
    assert await content(broker) == before


async def test_depth_tells_how_long_the_next_job_waits(broker):
    await put(broker, "first", now_ms=NOW - 2500)
    await put(broker, "second", now_ms=NOW - 10)
    call = scripts.DEPTH.call(broker._keys_of(QUEUE), NOW)
    (reply,) = await broker._ask([call])
    assert int(reply[0]) == NOW
    assert int.from_bytes(reply[6]) == NOW - 2500
    assert reply[7] is None


async def test_depth_of_a_queue_without_ready_jobs_has_no_age(broker, inspector):
    await put(broker, "a", when="+9999")
    (stats,) = await inspector.queues([QUEUE])
    assert stats.oldest_ready_s is None


async def test_depth_age_is_never_negative(broker, inspector):
    """A clock that went back."""
    await put(broker, "a", now_ms=NOW + 10**12)
    (stats,) = await inspector.queues([QUEUE])
    assert stats.oldest_ready_s == 0


async def test_depth_of_a_ready_job_without_payload_has_no_age(broker, inspector):
    await put(broker, "a")
    await ask(broker, b"HDEL", broker._keys_of(QUEUE).names["jobs"], "a")
    (stats,) = await inspector.queues([QUEUE])
    assert (stats.ready, stats.oldest_ready_s) == (1, None)


async def test_queues_lists_all_ever_used_sorted(broker, inspector):
    for queue in ("b", "a"):
        await broker.enqueue([Job("x", queue, b"")])
    await broker.register(["c", "a"])
    assert await inspector.names() == ["a", "b", "c"]
    assert [(stats.name, stats.ready) for stats in await inspector.queues()] == [
        ("a", 1),
        ("b", 1),
        ("c", 0),
    ]


async def test_queues_of_a_fresh_namespace_is_empty(inspector):
    assert await inspector.queues() == []


@pytest.mark.parametrize("after_s", [5])
async def test_depth_age_is_in_seconds_of_the_redis_clock(broker, inspector, after_s):
    seconds = int((await ask(broker, b"TIME"))[0])
    await put(broker, "a", now_ms=(seconds - after_s) * 1000)
    (stats,) = await inspector.queues([QUEUE])
    assert after_s <= stats.oldest_ready_s < after_s + 10


# -- limits ----------------------------------------------------------------------------------------


async def limit_of(inspector, queue=QUEUE):
    (stats,) = await inspector.queues([queue])
    return stats.max_jobs


async def test_depth_tells_the_limit_that_workers_and_producers_have_told(broker, inspector):
    assert await limit_of(inspector) is None
    most = {QUEUE: DepthLimit(7, False), "unused": DepthLimit(3, True)}
    limited = Broker(msgspec.structs.replace(broker.config, depth_limits=most))
    try:
        await limited.enqueue([Job("x", QUEUE, b"")])
        assert await limit_of(inspector) == 7
        await limited.register([QUEUE, "unused", "free"])
        queues = {stats.name: stats.max_jobs for stats in await inspector.queues()}
        assert queues == {QUEUE: 7, "unused": 3, "free": None}
        await broker.register([QUEUE])
        assert await limit_of(inspector) is None
        assert await limit_of(inspector, "unused") == 3
    finally:
        await limited.close()


async def test_limit_that_is_none_counts_as_absent(broker, inspector):
    await ask(broker, b"HSET", broker._keys_of(QUEUE).names["meta"], "max_jobs", b"\xff")
    assert await limit_of(inspector) is None


async def test_queue_with_a_meta_of_another_type_is_registered(broker, inspector):
    await ask(broker, b"SET", broker._keys_of("odd").names["meta"], b"of somebody else")
    await broker.register(["odd", QUEUE])
    assert await inspector.names() == ["odd", QUEUE]
