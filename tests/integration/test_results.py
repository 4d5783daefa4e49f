"""What is kept of a job that has ended."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest

from qcore import App, JobCancelled, JobFailed, JobNotFound, JobStatus, Retry
from tests.support.waiting import eventually
from tests.support.workers import dead, working


@pytest.fixture
async def app(redis_url: str, namespace: str) -> AsyncIterator[App]:
    async with App(redis_url, namespace=namespace) as app:
        yield app


async def kept(app: App) -> int:
    (count,) = await app.broker.ask([(b"HLEN", app.broker.keys("default").names["done"])])
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
    assert await app.inspector.clear("default") == 1
    with pytest.raises(JobCancelled, match=job.ref):
        await job.result(timeout=10)


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


async def test_result_above_the_limit_is_a_failure_of_the_job(app: App):
    @app.task(retry=Retry(max_attempts=1))
    async def large() -> bytes:
        return bytes(200_000)

    async with working(app):
        record = await dead(app, await large.enqueue())
    assert record.errors[0].kind == "PayloadTooLarge"
