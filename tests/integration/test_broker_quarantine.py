"""Quarantined jobs: jobs that have lost two leases wait in a line of their own."""

import pytest

from qcore.broker.redis import scripts
from qcore.broker.redis.queue_checks import read_queues
from qcore.model.job import Released
from tests.support.moves import (
    LEASE_MS,
    NOW,
    OWNER,
    QUEUE,
    SECOND,
    WAKEUP,
    ask,
    claim,
    content,
    leased,
    put,
    settle,
    stored,
    take_wakeup,
)
from tests.support.reclaiming import reclaim, reclaim_owner, swept
from tests.support.servers import on_standalone_and_cluster

both = on_standalone_and_cluster


async def crashed(broker, queue: str = QUEUE, **counts: int) -> None:
    """Let these jobs have lost so many leases."""
    words = [word for id, count in counts.items() for word in (id, f"{count} {NOW}")]
    await ask(broker, b"HSET", broker._keys_of(queue).names["crashes"], *words)


async def quarantined(broker, *ids: str, queue: str = QUEUE) -> None:
    """Let these jobs wait as quarantined jobs."""
    await put(broker, *ids, queue=queue, when="+1")
    await crashed(broker, queue, **dict.fromkeys(ids, 2))
    await broker.promote([queue], now_ms=NOW + 1)
    await take_wakeup(broker, queue)


@both
async def test_second_loss_makes_a_job_a_quarantined_job_after_its_wait(broker):
    await leased(broker, "a")
    await crashed(broker, a=1)
    end = NOW + LEASE_MS
    await swept(broker, end - 1)
    await reclaim(broker, end)
    assert (await content(broker))["scheduled"] == {"a": end + SECOND}
    await take_wakeup(broker)
    assert await broker.promote([QUEUE], now_ms=end + SECOND) == (1, 1)
    assert await content(broker) == {
        "quarantine": ["a"],
        "jobs": {"a": stored("a")},
        "crashes": {"a": f"2 {end}"},
        "meta": {"last_sweep": f"{end}"},
        "wakeup": WAKEUP,
    }


@both
async def test_promote_puts_each_job_into_its_line(broker):
    for n, id in enumerate("abcde"):
        await put(broker, id, when=f"+{n + 1}")
    await crashed(broker, a=1, b=2, d=9)
    assert await broker.promote([QUEUE], now_ms=NOW + 9) == (5, 2)
    found = await content(broker)
    assert (found["ready"], found["quarantine"]) == (["a", "c", "e"], ["b", "d"])


@both
async def test_release_of_a_quarantined_job_goes_to_the_head_of_the_quarantined(broker):
    a, b, c, d = await leased(broker, *"abcd")
    await put(broker, "x")
    await quarantined(broker, "y")
    await crashed(broker, b=2, d=3)
    assert await settle(broker, *((lease, Released()) for lease in (a, b, c, d))) == set()
    found = await content(broker)
    assert (found["ready"], found["quarantine"]) == (["a", "c", "x"], ["b", "d", "y"])


@both
async def test_reclaim_owner_uncharged_returns_a_quarantined_job_to_the_quarantined(broker):
    await leased(broker, "a", "b", "c")
    await quarantined(broker, "y")
    await crashed(broker, a=2, c=5)
    assert {to for _, to in await reclaim_owner(broker, NOW, charge=False)} == {"ready"}
    found = await content(broker)
    assert (found["ready"], found["quarantine"]) == (["b"], ["a", "c", "y"])


@both
async def test_claim_takes_no_quarantined_and_tells_how_many_wait(broker):
    await put(broker, "a", "b")
    await quarantined(broker, "x", "y")
    turn = await claim(broker, 1)
    assert [lease.id for lease in turn.leases] == ["a"]
    assert turn.quarantined == 2
    turn = await claim(broker)
    assert [lease.id for lease in turn.leases] == ["b"]
    assert (turn.quarantined, turn.again_ms) == (2, None)


@both
async def test_claim_of_quarantined_takes_nothing_else(broker):
    await put(broker, "a")
    await quarantined(broker, "x", "y")
    await take_wakeup(broker)
    turn = await claim(broker, 1, quarantined=True)
    (x,) = turn.leases
    assert (x.id, x.crashes) == ("x", 2)
    assert (turn.quarantined, turn.again_ms) == (1, 0)
    turn = await claim(broker, quarantined=True, prefix=f"{OWNER}:2:")
    assert [lease.id for lease in turn.leases] == ["y"]
    assert (turn.quarantined, turn.again_ms) == (0, None)
    assert (await content(broker))["ready"] == ["a"]


@both
async def test_claim_of_quarantined_promotes_and_tells_when_the_next_is_due(broker):
    await put(broker, "x", when="+10")
    await put(broker, "y", when="+30")
    await crashed(broker, x=2, y=2)
    turn = await claim(broker, quarantined=True, now_ms=NOW + 10)
    assert [lease.id for lease in turn.leases] == ["x"]
    assert turn.again_ms == 20


@both
async def test_claim_that_finds_quarantined_alone_sets_no_wakeup(broker):
    """Else idle workers would wake each other as long as one waits."""
    await quarantined(broker, "x")
    turn = await claim(broker)
    assert (turn.leases, turn.quarantined, turn.again_ms) == ([], 1, None)
    assert not await take_wakeup(broker)


@both
async def test_quarantined_that_do_not_fit_go_back_to_their_own_head(broker):
    await put(broker, "a")
    body = bytes(700_000)
    await put(broker, "x", "y", body=body, when="+1")
    await crashed(broker, x=2, y=2)
    turn = await claim(broker, quarantined=True, now_ms=NOW + 1)
    assert [lease.id for lease in turn.leases] == ["x"]
    found = await content(broker)
    assert (found["ready"], found["quarantine"]) == (["a"], ["y"])


@both
async def test_quarantined_count_as_ready(broker, inspector):
    await quarantined(broker, "x", "y")
    (stats,) = await inspector.queues([QUEUE])
    assert (stats.ready, stats.quarantined) == (2, 2)
    assert stats.oldest_ready_s is not None
    assert (await inspector.job(QUEUE, "x")).status == "ready"
    assert await inspector.clear(QUEUE) == 2
    assert set(await content(broker)) == {"meta"}


@both
async def test_quarantined_that_wait_are_seen_behind_younger_ready_jobs(broker, inspector):
    now = int((await ask(broker, b"TIME"))[0]) * 1000
    await put(broker, "x", when="+1", now_ms=now - 600_000)
    await crashed(broker, x=2)
    await broker.promote([QUEUE], now_ms=now)
    await put(broker, "a", now_ms=now)
    (stats,) = await inspector.queues([QUEUE])
    assert (stats.ready, stats.quarantined) == (2, 1)
    assert stats.oldest_ready_s >= 600


@both
async def test_doctor_reads_since_when_no_quarantined_job_has_run(broker):
    await quarantined(broker, "x", "y", "z")
    await crashed(broker, before=1)
    await ask(broker, b"HSET", broker._keys_of(QUEUE).names["crashes"], "y", f"3 {NOW + SECOND}")
    (reading,) = await read_queues(broker, [QUEUE])
    assert (reading.ready, reading.quarantined, reading.quarantined_ms) == (3, 3, NOW + SECOND)
    await claim(broker, 1, quarantined=True)
    (reading,) = await read_queues(broker, [QUEUE])
    assert (reading.ready, reading.quarantined, reading.quarantined_ms) == (2, 2, None)


@both
@pytest.mark.parametrize("count", [0, 1])
async def test_job_that_lost_fewer_leases_is_no_quarantined_job(broker, count):
    (a,) = await leased(broker, "a")
    await crashed(broker, a=count)
    await settle(broker, (a, Released()))
    assert [lease.id for lease in (await claim(broker, prefix=f"{OWNER}:2:")).leases] == ["a"]


async def test_claim_counts_the_quarantined_of_all_its_queues(broker):
    await quarantined(broker, "x", queue="high")
    await quarantined(broker, "y", "z", queue="low")
    await put(broker, "a", queue="high")
    turn = await claim(broker, 1, queues=["high", "low"])
    assert [lease.id for lease in turn.leases] == ["a"]
    assert turn.quarantined == 3


async def begun(broker, line: dict[str, int], *, idle: bool = True) -> str:
    """Return what a quarantine process gets of a line with these counts."""
    await put(broker, *line, when="+1")
    await crashed(broker, QUEUE, **line)
    turn = await claim(broker, quarantined=True, idle=idle, now_ms=NOW + 1)
    return "".join(lease.id for lease in turn.leases)


@both
@pytest.mark.parametrize(
    ("line", "idle", "gets"),
    [
        ({"a": 2, "b": 2, "c": 2}, True, "abc"),
        ({"a": 2, "b": 2, "c": 2}, False, "abc"),
        ({"a": 3, "b": 2, "c": 3}, True, "a"),
        ({"a": 3, "b": 2}, False, ""),
        ({"a": 2, "b": 2, "c": 9, "d": 2}, True, "ab"),
        ({"a": 2, "b": 2, "c": 9, "d": 2}, False, "ab"),
    ],
)
async def test_quarantined_of_two_losses_begin_together_and_of_more_alone(broker, line, idle, gets):
    assert await begun(broker, line, idle=idle) == gets
    left = (await content(broker)).get("quarantine", [])
    assert "".join(left) == "".join(line)[len(gets) :]


async def test_quarantined_job_that_has_to_be_alone_is_so_among_all_queues(broker):
    await quarantined(broker, "x", queue="low")
    await put(broker, "a", queue="high", when="+1")
    await crashed(broker, queue="high", a=3)
    for idle, gets in ((False, []), (True, ["a"])):
        turn = await claim(
            broker, queues=["high", "low"], quarantined=True, idle=idle, now_ms=NOW + 1
        )
        assert [lease.id for lease in turn.leases] == gets


@both
async def test_acquittal_takes_back_the_third_loss_and_no_other(broker):
    for id, count in {"a": 1, "b": 2, "c": 3, "d": 4}.items():
        await put(broker, id, when="+9")
        await crashed(broker, QUEUE, **{id: count})
    before = (await content(broker))["crashes"]
    for acquitted in ([b"c"], []):
        call = scripts.ACQUIT.call(broker._keys_of(QUEUE), NOW, *"abcdx")
        assert await broker._ask([call]) == [acquitted]
        assert (await content(broker))["crashes"] == before | {"c": f"2 {NOW}"}
