"""purge: dead -> -."""

import pytest

from qcore.broker.identity import made_ms, new_id
from qcore.broker.redis import scripts
from qcore.errors import JobNotFound
from qcore.model.job import Buried
from tests.support.moves import (
    NOW,
    QUEUE,
    SECOND,
    ask,
    content,
    failed_state,
    leased,
    put,
    settle,
)
from tests.support.servers import on_standalone_and_cluster

pytestmark = on_standalone_and_cluster


async def bury(broker, *ids: str, at_ms: int = NOW) -> None:
    leases = await leased(broker, *ids)
    ended = [(lease, Buried(failed_state("no"))) for lease in leases]
    await settle(broker, *ended, now_ms=at_ms)


async def purge_older(broker, age_ms: int, now_ms: int, limit: int = 500) -> int:
    call = scripts.PURGE.call(broker._keys_of(QUEUE), now_ms, age_ms, limit)
    return (await broker._ask([call]))[0]


async def test_purge_by_id_leaves_nothing_of_the_job(broker, inspector):
    await bury(broker, "a")
    await ask(broker, b"HSET", broker._keys_of(QUEUE).names["crashes"], "a", f"1 {NOW}")
    ms = int((await ask(broker, b"TIME"))[0]) * 1000
    assert await inspector.purge(QUEUE, ids=["a"]) == 1
    found = await content(broker)
    assert set(found) == {"meta"}
    assert 0 <= int(found["meta"]["purged"]) - ms < 10_000


async def test_purge_of_what_is_not_dead_does_nothing(broker, inspector):
    await leased(broker, "active")
    await put(broker, "ready")
    before = await content(broker)
    assert await inspector.purge(QUEUE, ids=["active", "ready", "unknown"]) == 0
    assert await content(broker) == before


async def test_purge_counts_each_job_once(broker, inspector):
    await bury(broker, "a", "b")
    assert await inspector.purge(QUEUE, ids=["a", "a"]) == 1
    assert (await content(broker))["dead"] == {"b": NOW}


async def test_purge_by_age_takes_those_that_died_at_or_before(broker):
    await bury(broker, "old", at_ms=NOW)
    await bury(broker, "edge", at_ms=NOW + SECOND)
    await bury(broker, "young", at_ms=NOW + SECOND + 1)
    assert await purge_older(broker, 9 * SECOND, NOW + 10 * SECOND) == 2
    found = await content(broker)
    assert set(found["dead"]) == set(found["jobs"]) == set(found["state"]) == {"young"}


async def test_purge_by_age_is_bounded_and_takes_the_oldest(broker):
    for n in range(3):
        await bury(broker, f"{n}", at_ms=NOW + n)
    assert await purge_older(broker, 0, NOW + 10, limit=2) == 2
    assert set((await content(broker))["dead"]) == {"2"}


@pytest.mark.parametrize("by_age", [True, False])
async def test_purge_of_more_than_one_call_purges_all(broker, inspector, by_age):
    ids = [f"{n:03}" for n in range(700)]
    await bury(broker, *ids[:400], at_ms=NOW - 1)
    await bury(broker, *ids[400:], at_ms=NOW - 1)
    # dead since a time that lies before the clock of Redis, whatever it says
    await ask(
        broker,
        b"ZADD",
        broker._keys_of(QUEUE).names["dead"],
        *(word for id in ids for word in (1, id)),
    )
    purged = await inspector.purge(QUEUE, **({"older_than_s": 5.0} if by_age else {"ids": ids}))
    assert purged == 700
    assert set(await content(broker)) == {"meta"}


async def test_purge_of_nothing_named_purges_nothing(broker, inspector):
    await bury(broker, "a")
    assert await inspector.purge(QUEUE) == 0
    assert (await content(broker))["dead"] == {"a": NOW}


async def test_job_without_a_trace_may_have_been_purged_if_it_is_older_than_that(broker, inspector):
    before = new_id()
    await bury(broker, before)
    await inspector.purge(QUEUE, ids=[before])
    said = f"{QUEUE}/{before}: dead jobs of its queue were purged at 20.*; it was one of them"
    with pytest.raises(JobNotFound, match=said):
        await inspector.job(QUEUE, before)
    made = made_ms(before)
    assert made is not None
    await ask(broker, b"HSET", broker._keys_of(QUEUE).names["meta"], b"purged", made - 1)
    assert await inspector.job(QUEUE, before) is None
