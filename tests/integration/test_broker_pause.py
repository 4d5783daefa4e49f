"""pause, close, resume: what the scripts leave, and what claim and enqueue make of it."""

import asyncio

import pytest

from qcore.broker.redis import scripts
from qcore.broker.redis.inspector import Inspector
from qcore.errors import ArgumentError, QueueClosed
from qcore.model.job import Buried, Job, Released, Retried
from qcore.model.views import Pause
from tests.support.content import keys_of
from tests.support.moves import (
    LEASE_MS,
    NOW,
    OTHER_OWNER,
    QUEUE,
    WAKEUP,
    ack,
    ask,
    claim,
    content,
    leased,
    put,
    settle,
    take_wakeup,
)
from tests.support.reclaiming import reclaim_owner
from tests.support.servers import on_standalone_and_cluster

both = on_standalone_and_cluster
OTHER_PREFIX = f"{OTHER_OWNER}:1:"


async def pause(broker, for_ms: int | str = "", *, queue: str = QUEUE, now_ms: int = NOW) -> bytes:
    return await run(broker, scripts.PAUSE, now_ms, for_ms, "a deploy", queue=queue)


async def resume(broker, *, queue: str = QUEUE, now_ms: int = NOW) -> list[int]:
    return await run(broker, scripts.RESUME, now_ms, queue=queue)


async def close(broker, *, now_ms: int = NOW) -> int:
    return await run(broker, scripts.CLOSE, now_ms)


async def run(broker, script, *args: object, queue: str = QUEUE):
    (reply,) = await broker._ask([script.call(broker._keys_of(queue), *args)])
    return reply


async def quarantined(broker, *ids: str) -> None:
    """Let these jobs wait for a process of their own."""
    await put(broker, *ids, when="+1")
    lost = [word for id in ids for word in (id, f"2 {NOW}")]
    await ask(broker, b"HSET", broker._keys_of(QUEUE).names["crashes"], *lost)
    await broker.promote([QUEUE], now_ms=NOW + 1)
    await take_wakeup(broker)


# -- pause -----------------------------------------------------------------------------------------


@both
async def test_paused_queue_gives_nothing_and_sets_no_wakeup(broker):
    await put(broker, "a", "b")
    await take_wakeup(broker)
    await pause(broker)
    before = await content(broker)
    turn = await claim(broker)
    assert (turn.leases, turn.again_ms, turn.quarantined) == ([], None, 0)
    assert await content(broker) == before
    assert before["meta"] == {"paused": f"0 {NOW} a deploy"}
    assert "wakeup" not in before


@both
async def test_timed_pause_tells_claims_when_it_ends_and_ends_then(broker):
    await put(broker, "a")
    await put(broker, "b", when="+10")
    assert await pause(broker, 1000) == f"{NOW + 1000} {NOW} a deploy".encode()
    early = await claim(broker, now_ms=NOW + 999)
    assert (early.leases, early.again_ms) == ([], 1)
    turn = await claim(broker, now_ms=NOW + 1000)
    assert [lease.id for lease in turn.leases] == ["a", "b"]


@both
async def test_pause_is_replaced_by_a_later_one(broker):
    await put(broker, "a")
    await pause(broker)
    await pause(broker, 5)
    assert (await claim(broker)).again_ms == 5
    await pause(broker)
    assert (await claim(broker, now_ms=NOW + 9)).leases == []


async def test_paused_queue_leaves_the_other_queues_their_order_limits_and_due_times(broker):
    for queue in ("first", "second", "third"):
        await put(broker, f"{queue} 1", f"{queue} 2", queue=queue)
    await put(broker, "later", queue="third", when="+700")
    await pause(broker, 900, queue="first")
    queues = ("first", "second", "third")
    turn = await claim(broker, 3, queues=queues)
    assert [lease.id for lease in turn.leases] == ["second 1", "second 2", "third 1"]
    assert turn.again_ms == 0
    turn = await claim(broker, 9, queues=queues, prefix=OTHER_PREFIX)
    assert [lease.id for lease in turn.leases] == ["third 2"]
    assert turn.again_ms == 700
    assert (await claim(broker, now_ms=NOW + 700, queues=queues)).again_ms == 200


@both
async def test_due_jobs_of_a_paused_queue_become_ready_in_order(broker):
    await put(broker, "a", when="+20")
    await put(broker, "b", when="+10")
    await pause(broker)
    await claim(broker, now_ms=NOW + 20)
    assert (await content(broker))["ready"] == ["b", "a"]
    await put(broker, "c", when="+30")
    assert await broker.promote([QUEUE], now_ms=NOW + 30) == (1, 0)


@both
async def test_quarantined_of_a_paused_queue_wait_and_ask_for_no_process(broker):
    await quarantined(broker, "a")
    await pause(broker)
    assert (await claim(broker)).quarantined == 0
    assert (await claim(broker, quarantined=True)).leases == []
    assert await broker.promote([QUEUE], now_ms=NOW) == (0, 0)
    assert await resume(broker) == [1, 0]
    assert (await claim(broker)).quarantined == 1
    (lease,) = (await claim(broker, quarantined=True)).leases
    assert lease.id == "a"


@both
async def test_claim_of_quarantined_wakes_nobody_for_a_paused_queue(broker):
    await put(broker, "a", when="+10")
    await take_wakeup(broker)
    await pause(broker)
    await claim(broker, quarantined=True, now_ms=NOW + 10)
    found = await content(broker)
    assert found["ready"] == ["a"]
    assert "wakeup" not in found


@both
async def test_jobs_that_run_end_and_come_back_while_their_queue_is_paused(broker):
    held = await leased(broker, "done", "again", "dead", "back", "lost")
    await pause(broker)
    *ended, lost = held
    assert await broker.extend(held, LEASE_MS, now_ms=NOW) == set()
    assert await ack(broker, ended[0]) == set()
    outcomes = (Retried(10, b"record"), Buried(b"record"), Released())
    assert await settle(broker, *zip(ended[1:], outcomes, strict=True)) == set()
    assert await reclaim_owner(broker, NOW) == [(lost.token.decode(), "ready")]
    found = await content(broker)
    assert (found["ready"], list(found["scheduled"])) == (["lost", "back"], ["again"])
    assert (await claim(broker)).leases == []


# -- resume ----------------------------------------------------------------------------------------


@both
@pytest.mark.parametrize("when", ["", "+1000"])
async def test_resume_wakes_a_worker_where_anything_waits(broker, when):
    await put(broker, "a", when=when)
    await take_wakeup(broker)
    await pause(broker)
    assert await resume(broker) == [1, 0]
    found = await content(broker)
    assert found["wakeup"] == WAKEUP
    assert "meta" not in found


async def test_resume_wakes_a_worker_for_quarantined(broker):
    await quarantined(broker, "a")
    await pause(broker)
    await resume(broker)
    assert (await content(broker))["wakeup"] == WAKEUP


@both
async def test_resume_of_a_queue_that_is_empty_or_was_not_paused_wakes_nobody(broker):
    await pause(broker)
    assert await resume(broker) == [1, 0]
    await put(broker, "a")
    await take_wakeup(broker)
    assert await resume(broker) == [0, 0]
    await pause(broker, 10)
    assert await resume(broker, now_ms=NOW + 10) == [0, 0]
    found = await content(broker)
    assert "wakeup" not in found
    assert "meta" not in found


# -- close -----------------------------------------------------------------------------------------


@both
async def test_closed_queue_refuses_jobs_with_nothing_written(broker):
    assert (await close(broker), await close(broker, now_ms=NOW + 5)) == (1, 0)
    before = await keys_of(broker, QUEUE)
    said = (
        "^queue orders is closed since 2027-01-15 08:00:00Z, nothing was enqueued: try again when "
        "it is open; `qcore resume orders` opens it$"
    )
    with pytest.raises(QueueClosed, match=said):
        await broker.enqueue([Job("a", QUEUE, b""), Job("b", QUEUE, b"", delay_ms=9)])
    assert await keys_of(broker, QUEUE) == before == {"meta": {"closed": f"{NOW}"}}
    assert await resume(broker) == [0, 1]
    assert await broker.enqueue([Job("a", QUEUE, b"")]) == []


@both
async def test_repeat_of_a_call_that_was_accepted_is_answered_as_accepted(broker):
    call = scripts.ENQUEUE.call(broker._keys_of(QUEUE), NOW, "nonce", 7, "a", "", b"body")
    late = scripts.ENQUEUE.call(broker._keys_of(QUEUE), NOW, "nonce", 8, "b", "", b"body")
    assert await broker._ask([call]) == [[]]
    await close(broker)
    assert await broker._ask([call]) == [[]]
    with pytest.raises(QueueClosed):
        await broker._ask([late])
    await resume(broker)
    assert await broker._ask([late]) == [[]]
    assert (await content(broker))["ready"] == ["a", "b"]


@both
async def test_closed_queue_is_worked_off_with_its_retries(broker):
    (a,) = await leased(broker, "a")
    await put(broker, "b")
    await close(broker)
    assert await settle(broker, (a, Retried(0, b"record"))) == set()
    assert sorted(lease.id for lease in (await claim(broker)).leases) == ["a", "b"]


async def test_only_callers_of_the_closed_queue_hear_that_it_is_closed(broker):
    await close(broker)
    queues = ("free", QUEUE) * 20
    calls = [broker.enqueue([Job(f"{n}", q, b"")]) for n, q in enumerate(queues)]
    ends = await asyncio.gather(*calls, return_exceptions=True)
    assert ends[::2] == [[]] * 20
    refused = ends[1::2]
    assert all(isinstance(end, QueueClosed) for end in refused)
    assert len(set(map(id, refused))) == 20
    assert len((await content(broker, "free"))["ready"]) == 20


# -- for operators ---------------------------------------------------------------------------------


@both
async def test_inspector_pauses_shows_and_resumes(broker, inspector):
    await broker.register([QUEUE])
    seconds = int((await ask(broker, b"TIME"))[0])
    pause = await inspector.pause(QUEUE, for_=60, reason="deploy\n 42 ")
    assert pause.reason == "deploy 42"
    assert 0 <= pause.since_ms - seconds * 1000 < 10_000
    assert pause.until_ms == pause.since_ms + 60_000
    assert await inspector.close_queue(QUEUE)
    assert not await inspector.close_queue(QUEUE)
    (stats,) = await inspector.queues()
    assert stats.paused == pause
    assert stats.closed_ms is not None
    assert 0 <= stats.closed_ms - pause.since_ms < 10_000
    await inspector.open_queue(QUEUE)
    assert await inspector.pause(QUEUE) == (await inspector.queues())[0].paused
    assert await inspector.resume(QUEUE)
    assert not await inspector.resume(QUEUE)
    (stats,) = await inspector.queues()
    assert (stats.paused, stats.closed_ms) == (None, None)


async def test_depth_shows_a_pause_for_as_long_as_it_lasts(broker):
    await pause(broker, 1000)
    for now, shown in ((NOW + 999, f"{NOW + 1000} {NOW} a deploy".encode()), (NOW + 1000, None)):
        (reply,) = await broker._ask([scripts.DEPTH.call(broker._keys_of(QUEUE), now)])
        assert reply[8:] == [shown, None, None]


async def test_pause_without_an_end_or_a_reason(broker, inspector: Inspector):
    pause = await inspector.pause(QUEUE)
    assert pause == Pause(since_ms=pause.since_ms, until_ms=None, reason="")


@pytest.mark.parametrize("for_", [0, -1, 4e8, float("inf"), float("nan")])
async def test_pause_for_no_time_or_for_ages_is_a_mistake(inspector, for_):
    with pytest.raises(ArgumentError, match="queue orders: for_ is"):
        await inspector.pause(QUEUE, for_=for_)


async def test_reason_that_is_too_long_is_a_mistake(inspector):
    with pytest.raises(ArgumentError, match="the reason has 201 characters, allowed are 200"):
        await inspector.pause(QUEUE, reason="x" * 201)
