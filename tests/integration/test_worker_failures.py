"""How a run that did not complete ends, in a worker within this process."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest

from qcore import App, Context, GiveUp, JobStatus, Retry, RetryLater
from qcore.broker.identity import new_id
from qcore.model.job import ERROR_TEXT_LIMIT, Job
from qcore.runtime.worker import execution
from tests.support.waiting import eventually
from tests.support.workers import dead, reached, working, working_with_a_busy_thread

SOON = Retry(max_attempts=3, backoff=[0.05, 0.2], jitter=0)


@pytest.fixture
async def app(redis_url: str, namespace: str) -> AsyncIterator[App]:
    async with App(redis_url, namespace=namespace, queues=("urgent", "default", "low")) as app:
        yield app


# -- failures --------------------------------------------------------------------------------------


async def test_retries_follow_the_backoff_list_until_the_job_is_dead(app: App):
    starts: list[float] = []

    @app.task(retry=SOON)
    async def fail(ctx: Context) -> None:
        starts.append(time.monotonic())
        raise ValueError(f"no luck at attempt {ctx.attempt}")

    async with working(app):
        record = await dead(app, await fail.enqueue())
    assert len(starts) == 3
    assert 0.05 <= starts[1] - starts[0] < 0.5
    assert 0.2 <= starts[2] - starts[1] < 0.7
    assert record.attempts == 3
    assert record.crashes == 0
    assert record.reason == "ValueError: no luck at attempt 3"
    assert [error.attempt for error in record.errors] == [1, 2, 3]
    assert all(error.kind == "ValueError" for error in record.errors)
    assert "in fail" in record.errors[0].text
    assert "qcore/runtime" not in record.errors[0].text
    assert record.errors[0].ended_ms >= record.errors[0].started_ms


async def test_errors_of_the_last_five_attempts_are_kept(app: App):
    @app.task(retry=Retry(max_attempts=7, backoff=0))
    def fail(ctx: Context) -> None:
        raise ValueError(f"{ctx.attempt}" * 3000)

    async with working(app):
        record = await dead(app, await fail.enqueue())
    assert [error.attempt for error in record.errors] == [3, 4, 5, 6, 7]
    assert all(len(error.text.encode()) <= ERROR_TEXT_LIMIT for error in record.errors)


async def test_job_that_fails_once_completes_at_its_second_attempt(app: App):
    @app.task(retry=SOON)
    async def fail_once(ctx: Context) -> int:
        if ctx.attempt == 1:
            raise ValueError
        return ctx.attempt

    async with working(app):
        assert await (await fail_once.enqueue()).result(timeout=10) == 2


async def test_give_up_buries_at_once_with_its_reason(app: App):
    @app.task(retry=SOON)
    async def give_up() -> None:
        raise GiveUp("no such customer")

    async with working(app):
        record = await dead(app, await give_up.enqueue())
    assert record.attempts == 1
    assert record.reason == "no such customer"


async def test_retry_later_that_is_charged_ends_with_the_last_attempt(app: App):
    attempts: list[int] = []

    @app.task(retry=SOON)
    async def later(ctx: Context) -> None:
        attempts.append(ctx.attempt)
        raise RetryLater(0.01)

    async with working(app):
        record = await dead(app, await later.enqueue())
    assert attempts == [1, 2, 3]
    assert record.attempts == 3


async def test_retry_later_that_is_not_charged_comes_back_without_end(app: App):
    attempts: list[int] = []

    @app.task(retry=SOON)
    def later(ctx: Context) -> str:
        attempts.append(ctx.attempt)
        if len(attempts) <= 8:
            raise RetryLater(timedelta(milliseconds=10), charge=False)
        return "at last"

    async with working(app):
        assert await (await later.enqueue()).result(timeout=10) == "at last"
    assert attempts == [1] * 9


async def test_timeout_cancels_a_coroutine_and_is_charged(app: App):
    cancelled: list[float] = []

    @app.task(timeout=0.3, retry=Retry(max_attempts=2, backoff=0))
    async def hang() -> None:
        began = time.monotonic()
        try:
            await asyncio.sleep(60)
        finally:
            cancelled.append(time.monotonic() - began)

    async with working(app):
        record = await dead(app, await hang.enqueue())
    assert len(cancelled) == 2
    assert all(0.3 <= after_s < 30 for after_s in cancelled)
    assert [error.kind for error in record.errors] == ["JobTimedOut"] * 2
    assert "longer than its timeout of 0.3 s" in str(record.reason)


async def test_timeout_gives_up_a_thread_and_frees_its_slot(app: App):
    end = threading.Event()

    @app.task(timeout=0.3, retry=Retry(max_attempts=1))
    def hang() -> None:
        end.wait(60)

    @app.task
    async def quick() -> bool:
        return not end.is_set()

    try:
        async with working(app, concurrency=1, threads=1):
            job = await hang.enqueue()
            assert await (await quick.enqueue()).result(timeout=30)
            record = await dead(app, job)
            assert record.errors[0].kind == "JobTimedOut"
            end.set()
    finally:
        end.set()


async def test_thread_that_hangs_after_its_timeout_keeps_its_place(app: App):
    end = threading.Event()
    inside: list[str] = []
    most = 0

    @app.task(timeout=0.2, retry=Retry(max_attempts=1))
    def hang(ctx: Context) -> None:
        nonlocal most
        inside.append(ctx.job_id)
        most = max(most, len(inside))
        end.wait(60)
        inside.remove(ctx.job_id)

    @app.task(queue="low")
    async def on_loop() -> None: ...

    try:
        async with working(app, threads=1) as worker:
            first = await hang.enqueue()
            await dead(app, first)
            others = [await hang.enqueue() for _ in range(3)]
            # this worker goes on with other queues, and leaves those of threads to others
            await (await on_loop.enqueue()).result(timeout=10)
            assert worker._claimable() == {"urgent", "low"}
            assert [await job.status() for job in others] == [JobStatus.READY] * 3
            end.set()
            for job in others:
                await job.result(timeout=10)
    finally:
        end.set()
    assert most == 1


async def test_timeout_counts_from_the_start_and_not_from_the_claim(app: App):
    @app.task(timeout=0.5, retry=Retry(max_attempts=1))
    def quick() -> bool:
        return True

    async with working_with_a_busy_thread(app) as (worker, go):
        job = await quick.enqueue()
        await eventually(lambda: worker._threads.waiting == 1)
        await asyncio.sleep(0.6)  # longer than its timeout
        go.set()
        assert await job.result(timeout=10)


async def test_cancellation_that_nobody_ordered_is_a_failure(app: App):
    @app.task(retry=SOON)
    async def cancels_itself(ctx: Context) -> int:
        if ctx.attempt == 1:
            raise asyncio.CancelledError
        return ctx.attempt

    async with working(app):
        assert await (await cancels_itself.enqueue()).result(timeout=10) == 2


# -- what no worker can run ------------------------------------------------------------------------


async def test_unknown_task_is_parked_until_a_worker_has_its_code(
    app: App, redis_url: str, namespace: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(execution, "_PARK_FIRST_S", 0.5)

    @app.task(name="new.task")
    async def new(n: int) -> int:
        return n + 1

    async with App(redis_url, namespace=namespace, queues=app.queues) as old_code:
        job = await new.enqueue(1)
        async with working(old_code):
            record = await reached(app, job, JobStatus.SCHEDULED)
    assert (record.attempts, record.crashes) == (0, 0)
    assert "no worker that took it knows task new.task" in record.errors[0].text
    assert record.errors[0].kind == "Parked"
    assert str(record.reason).startswith("parked: no worker that took it knows task new.task: dep")
    async with working(app):
        assert await job.result(timeout=10) == 2


async def test_arguments_of_another_version_are_parked_until_a_worker_fits(
    app: App, redis_url: str, namespace: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(execution, "_PARK_FIRST_S", 0.5)

    @app.task(name="grown")
    async def grown(n: int, unit: str) -> str:
        return f"{n} {unit}"

    async with App(redis_url, namespace=namespace, queues=app.queues) as old_code:

        @old_code.task(name="grown")
        async def before(n: int) -> str:
            return f"{n}"

        job = await grown.enqueue(1, "s")
        async with working(old_code):
            record = await reached(app, job, JobStatus.SCHEDULED)
    assert record.attempts == 0
    assert "for another version of the task" in record.errors[0].text
    async with working(app):
        assert await job.result(timeout=10) == "1 s"


async def test_undecodable_bytes_are_dead_at_once_and_kept_as_they_are(app: App):
    raw = bytes(range(256))
    job = app.job(f"default/{new_id()}")
    await app.broker.enqueue([Job(job.id, job.queue, raw)])
    async with working(app):
        record = await dead(app, job)
    assert record.payload == raw
    assert record.errors[0].kind == "CodecError"
    assert "is not a qcore envelope" in str(record.reason)


async def test_job_without_payload_is_dead_and_says_so(app: App):
    @app.task
    async def nothing() -> None: ...

    job = await nothing.enqueue()
    await app.broker._ask([(b"HDEL", app.broker._keys_of("default").names["jobs"], job.id)])
    async with working(app):
        record = await dead(app, job)
    assert "payload missing" in str(record.reason)
