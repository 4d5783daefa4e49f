"""What is kept of a job that has ended."""

import asyncio
import contextlib
import time
from dataclasses import dataclass
from typing import Any

import pytest

from qcore import (
    App,
    JobCancelled,
    JobFailed,
    JobHandle,
    JobNotFound,
    JobStatus,
    ResultExpired,
    Retry,
    Task,
)
from qcore.handle import Accepted
from tests.support.waiting import eventually
from tests.support.workers import dead, working


async def kept(app: App) -> int:
    (count,) = await app.broker._ask([(b"HLEN", app.broker._keys_of("default").names["done"])])
    return int(count)


@dataclass
class Point:
    x: int
    y: int


async def test_result_comes_back_as_the_annotated_type(app: App):
    @app.task
    async def move(point: Point, by: int) -> Point:
        return Point(point.x + by, point.y + by)

    async with working(app):
        job = await move.enqueue(Point(1, 2), 10)
        assert await job.result(timeout=10) == Point(11, 12)
        assert await app.job(job.ref).result() == {"x": 11, "y": 12}  # no type is known here


async def test_result_that_is_none_is_not_kept(app: App):
    @app.task
    async def nothing() -> None: ...

    async with working(app) as worker:
        job = await nothing.enqueue()
        assert await job.result(timeout=10) is None
        await eventually(lambda: worker.beat().done == 1)
        assert await job.status() is JobStatus.COMPLETED
        assert await kept(app) == 0
        with pytest.raises(JobNotFound, match=job.ref):
            await app.job(job.ref).status()


async def test_keep_zero_keeps_nothing(app: App):
    @app.task(keep=0)
    async def one() -> int:
        return 1

    @app.task
    def two() -> int:
        return 2

    async with working(app) as worker:
        await one.enqueue()
        await two.options(keep=0).enqueue()
        await eventually(lambda: worker.beat().done == 2)
    assert await kept(app) == 0


async def test_keep_asked_for_keeps_none_too(app: App):
    @app.task(keep=60)
    async def nothing() -> None: ...

    async with working(app):
        job = await nothing.enqueue()
        await job.result(timeout=10)
        assert await app.job(job.ref).status() is JobStatus.COMPLETED
        assert await app.job(job.ref).result() is None


async def test_result_is_forgotten_when_its_time_is_over(app: App):
    @app.task
    async def one() -> int:
        return 1

    async with working(app, lease_s=0.4, extend_s=0.13, sweep_s=0.05):
        job = await one.options(keep=0.5).enqueue()
        assert await job.result(timeout=10) == 1
        await eventually(lambda: is_forgotten(app), 10)


async def is_forgotten(app: App) -> bool:
    return await kept(app) == 0


async def test_result_of_a_dead_job_is_its_last_error(app: App):
    @app.task(retry=Retry(max_attempts=1))
    async def fail() -> None:
        raise ValueError("out of paper")

    async with working(app):
        with pytest.raises(JobFailed, match="out of paper"):
            await (await fail.enqueue()).result(timeout=10)


async def test_result_of_a_cleared_job_is_its_cancellation(app: App):
    @app.task
    async def one() -> int:
        return 1

    job = await one.enqueue()
    awaiting = asyncio.create_task(job.result(timeout=10))
    await eventually(lambda: is_awaited(app), 10)
    assert await app.inspector.clear("default") == 1
    with pytest.raises(JobCancelled, match=job.ref):
        await awaiting
    assert await job.status() is JobStatus.CANCELLED


async def is_awaited(app: App) -> bool:
    (found,) = await app.broker._ask([(b"EXISTS", app.broker._keys_of("default").names["waiters"])])
    return bool(found)


async def test_result_that_does_not_come_in_time_leaves_the_job_alone(app: App):
    go = asyncio.Event()

    @app.task
    async def wait() -> int:
        await go.wait()
        return 1

    async with working(app):
        job = await wait.enqueue()
        with pytest.raises(TimeoutError, match=job.ref):
            await job.result(timeout=0.3)
        go.set()
        assert await job.result(timeout=10) == 1


async def test_result_that_cannot_be_encoded_is_a_failure_of_the_job(app: App):
    once = Retry(max_attempts=1)

    @app.task(retry=once)
    async def on_loop() -> Any:
        return object()

    @app.task(retry=once)
    def in_thread() -> Any:
        return object()

    async with working(app):
        for task in (on_loop, in_thread):
            record = await dead(app, await task.enqueue())
            assert "a object cannot be an argument or a result" in str(record.reason)


async def test_result_that_cannot_be_stored_is_dead_at_once_for_the_work_is_done(app: App):
    class OddModel:
        def model_dump(self, **options: Any) -> Any:
            raise RuntimeError("no dump of this")

    runs: list[str] = []

    @app.task
    async def returns(what: str) -> Any:
        runs.append(what)
        deep: list[Any] = []
        for _ in range(100_000):
            deep = [deep]
        results = {
            "large": bytes(200_000),
            "object": object(),
            "huge number": 2**70,
            "surrogate": "\ud800",
            "deep": deep,
            "odd model": OddModel(),
        }
        return results[what]

    kinds = ["large", "object", "huge number", "surrogate", "deep", "odd model"]
    async with working(app):
        for what in kinds:
            record = await dead(app, await returns.enqueue(what))
            assert (record.attempts, record.errors[0].kind) == (1, "ResultError"), what
            assert "return" in str(record.reason), what
    assert runs == kinds


async def test_result_that_cannot_be_stored_ends_the_job_although_its_worker_stops(app: App):
    """Given back, the work would be done again."""
    started, runs = asyncio.Event(), list[int]()

    @app.task
    async def task() -> Any:
        runs.append(1)
        started.set()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(60)
        return object()

    async with working(app) as worker:
        job = await task.enqueue()
        await started.wait()
        worker.stop_now()
    async with working(app):
        record = await dead(app, job)
    assert (record.errors[0].kind, len(runs)) == ("ResultError", 1)


# -- what is no longer kept ------------------------------------------------------------------------


@pytest.fixture
def one(app: App) -> Task[[], int]:
    @app.task(name="one")
    async def one() -> int:
        return 1

    return one


async def test_handle_of_a_cancelled_job_says_so_when_the_reason_is_gone(
    app: App, one: Task[[], int]
):
    job = await one.options(delay=60).enqueue()
    assert await job.cancel()
    await app.broker._ask([(b"ZADD", app.broker._keys_of("default").names["expiry"], 1, job.id)])
    assert await app.broker.prune("default") == (1, 0, False)
    for handle in (job, app.job(job.ref)):
        assert await handle.status() is JobStatus.CANCELLED
        with pytest.raises(JobCancelled, match=f"{job.ref} was cancelled: .* no longer kept"):
            await handle.result()


async def test_handle_of_a_job_without_trace_knows_what_that_means(app: App, one):
    await one.enqueue()  # so that Redis holds the queue since before
    now = time.monotonic()

    def handle(accepted: Accepted | None) -> JobHandle[Any]:
        return one.handle("default", "gone", accepted=accepted and (lambda: accepted))

    assert await handle(Accepted(60, now + 60, now)).result() is None
    lost = handle(Accepted(60, now + 60, now, keeps_all=True))
    for ask in (lost.result, lost.status):
        with pytest.raises(JobNotFound, match="it was lost, or it was purged"):
            await ask()
    assert (await one.options(keep=60).enqueue())._accepted.keeps_all
    assert not (await one.options(keep=0).enqueue())._accepted.keeps_all
    assert (await one.enqueue())._accepted.keeps_all  # it returns an int
    with pytest.raises(ResultExpired, match="kept for 60 s"):
        await handle(Accepted(60, now - 1, now)).result()
    with pytest.raises(ResultExpired, match="keep=0"):
        await handle(Accepted(0, now + 60, now)).result()
    for stranger in (handle(None), app.job("default/gone")):
        with pytest.raises(JobNotFound, match="there is no job default/gone"):
            await stranger.result()


@pytest.mark.parametrize(
    ("options", "keep_s", "wait_s"),
    [({}, 86400, 0), ({"keep": 60}, 60, 0), ({"keep": 0}, 0, 0), ({"delay": 100}, 86400, 100)],
)
async def test_producer_knows_until_when_a_result_is_kept(one, options, keep_s, wait_s):
    before = time.monotonic()
    accepted = (await one.options(**options).enqueue())._accepted
    assert accepted.keep_s == keep_s
    assert before <= accepted.until - keep_s - wait_s <= time.monotonic()
