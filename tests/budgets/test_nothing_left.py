"""When every job has ended, and what they kept is over, their queue is as if it had been empty."""

import asyncio

import pytest

from qcore import App, Context, GiveUp, JobCancelled, JobFailed, JobStatus, Retry
from qcore.broker.redis.broker import PRODUCER_SILENT_MS, TRACE_MS
from tests.support.content import keys_of, names_in
from tests.support.moves import OWNER, SECOND, claim
from tests.support.workers import dead, reached, working

#: What is left of a queue: the wakeup, and some numbers.
LEFT = {"wakeup", "meta"}
NUMBERS = {"last_sweep", "guard_until", "fence", "epoch", "purged"}
SOON = Retry(max_attempts=2, backoff=0.01, jitter=0)


async def returns(n: int) -> int:
    return n


def returns_from_a_thread() -> int:
    return 1


async def fails_once(ctx: Context) -> None:
    if ctx.attempt == 1:
        raise ValueError("not yet")


async def fails() -> None:
    raise ValueError("never")


async def gives_up() -> None:
    raise GiveUp("no such customer")


async def hangs() -> None:
    await asyncio.sleep(60)


async def test_every_kind_of_end_leaves_nothing_in_the_end(app: App, namespace: str):
    task = app.task(returns)
    done = [await task.enqueue(n) for n in range(2)]
    await lose_leases(app, 1)  # of the first
    await lose_leases(app, 2)
    done += [await task.enqueue(n) for n in range(3)]
    done += [await app.task(retry=SOON)(fails_once).enqueue()]
    done += [await app.task(returns_from_a_thread).enqueue()]
    await app.task(name="not kept", keep=0)(returns).enqueue(1)
    done += [await app.task(name="once", at_most_once=True)(returns).enqueue(1)]
    cancelled = [await task.options(delay=60).enqueue(0), await task.enqueue(0)]
    for job in cancelled:
        await job.cancel()
    cancelled += [await task.options(expires=0.001).enqueue(0)]
    await asyncio.sleep(0.002)  # longer than it has to begin
    buried = [await app.task(retry=SOON)(fails).enqueue(), await app.task(gives_up).enqueue()]
    hanging = await app.task(hangs).enqueue()

    async with working(app, heartbeat_s=0.1), working(app, quarantined=True):
        await reached(app, hanging, JobStatus.ACTIVE)
        await hanging.cancel()
        await asyncio.gather(*(job.result(timeout=20) for job in done))
        for job in (*cancelled, hanging):
            with pytest.raises(JobCancelled):
                await job.result(timeout=20)
        for job in buried:
            with pytest.raises(JobFailed):
                await job.result(timeout=20)
            await dead(app, job)
    assert set(await keys_of(app.broker, "default")) >= {"dead", "done", "expiry", "producers"}

    assert await app.inspector.purge("default", ids=[job.id for job in buried]) == 2
    await let_pass(app)
    left = await keys_of(app.broker, "default")
    assert set(left) <= LEFT, left
    assert set(left["meta"]) <= NUMBERS
    names = {app.broker._keys_of("default").names[name].decode() for name in LEFT}
    assert await names_in(app.broker, namespace) <= {*names, f"{namespace}:queues"}


async def lose_leases(app: App, count: int) -> None:
    """Let the first jobs of the queue each lose a lease, with the worker that claimed them."""
    turn = await claim(app.broker, count, queues=["default"], now_ms=None)
    assert len(turn.leases) == count
    await app.broker.reclaim_owner(["default"], OWNER, charge=True, crash_limit=10)


async def let_pass(app: App) -> None:
    """Prune when what was kept is over, when its traces are, and when producers are forgotten."""
    ((seconds, _),) = await app.broker._ask([(b"TIME",)])
    for later_ms in (TRACE_MS, 2 * TRACE_MS, 2 * TRACE_MS + PRODUCER_SILENT_MS):
        await app.broker.prune("default", now_ms=(int(seconds) + 60) * SECOND + later_ms)
