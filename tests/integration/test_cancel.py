"""Cancelling jobs: before they run, and while they run, wherever they run."""

import asyncio
import time
from pathlib import Path

import pytest
import structlog.testing

from qcore import App, Context, JobCancelled, JobNotFound, JobStatus
from tests.support import process_tasks
from tests.support.process_tasks import ONCE
from tests.support.waiting import eventually
from tests.support.workers import dead, reached, record_of, working

#: A worker asks once per heartbeat which of its jobs nobody wants.
SOON_S = 0.1


async def test_cancel_of_a_scheduled_job_ends_it_without_a_worker(app: App):
    @app.task
    async def work() -> None: ...

    job = await work.options(delay=60).enqueue()
    assert await job.cancel()
    assert await job.status() is JobStatus.CANCELLED
    with pytest.raises(JobCancelled, match=f"job {job.ref} was cancelled: on request"):
        await job.result(timeout=1)
    assert not await job.cancel()


async def test_cancel_of_a_ready_job_shows_at_once_and_it_never_runs(app: App):
    ran: list[int] = []

    @app.task
    async def work(n: int) -> None:
        ran.append(n)

    jobs = [await work.enqueue(n) for n in range(3)]
    assert await jobs[1].cancel()
    assert await jobs[1].status() is JobStatus.CANCELLED
    async with working(app) as worker:
        await eventually(lambda: worker.beat().done == 3)
    assert ran == [0, 2]
    with pytest.raises(JobCancelled, match="on request"):
        await jobs[1].result(timeout=1)
    assert "cancels" not in await _keys(app)


async def test_cancel_of_a_ready_job_is_logged_with_its_task(app: App):
    @app.task(name="pay")
    async def work() -> None: ...

    job = await work.enqueue()
    await job.cancel()
    with structlog.testing.capture_logs() as lines:
        async with working(app) as worker:
            await eventually(lambda: worker.beat().done == 1)
    (line,) = [line for line in lines if line["event"] == "job.cancelled"]
    assert (line["task"], line["reason"]) == ("pay", "on request")


async def test_cancel_of_a_running_coroutine_raises_in_it(app: App):
    seen: list[str] = []

    @app.task
    async def work(ctx: Context) -> None:
        seen.append("began")
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            seen.append(f"cancelled, {ctx.cancel_requested}")
            raise

    async with working(app, heartbeat_s=SOON_S):
        job = await work.enqueue()
        await eventually(lambda: seen)
        assert await job.cancel()
        assert await job.status() in (JobStatus.ACTIVE, JobStatus.CANCELLED)
        with pytest.raises(JobCancelled, match="on request, while it ran"):
            await job.result(timeout=10)
    assert seen == ["began", "cancelled, True"]
    assert await _keys(app) <= {"done", "expiry", "meta", "producers", "wakeup"}


async def test_cancelled_coroutine_that_cleans_up_and_raises_is_cancelled(app: App):
    """What its cleanup raises is no failure of the job: it is not retried."""
    began = asyncio.Event()

    @app.task
    async def work() -> None:
        began.set()
        try:
            await asyncio.sleep(60)
        finally:
            raise ValueError("the cleanup failed")

    async with working(app, heartbeat_s=SOON_S):
        job = await work.enqueue()
        await began.wait()
        await job.cancel()
        assert (await reached(app, job, JobStatus.CANCELLED)).errors == ()


async def test_cancelled_coroutine_that_goes_on_ends_at_its_timeout(app: App):
    """And it is cancelled, whatever ended it: that came first."""
    seen: list[str] = []

    @app.task(timeout=2)
    async def work() -> None:
        for _ in range(2):
            try:
                seen.append("began")
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                seen.append("cancelled")
        raise asyncio.CancelledError

    async with working(app, heartbeat_s=SOON_S):
        job = await work.enqueue()
        await eventually(lambda: seen)
        assert await job.cancel()
        with pytest.raises(JobCancelled, match="on request, while it ran"):
            await job.result(timeout=10)
    assert seen == ["began", "cancelled"] * 2


async def test_cancelled_coroutine_that_completes_has_completed(app: App):
    began = asyncio.Event()

    @app.task
    async def work() -> str:
        began.set()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            return "done all the same"
        return "never told"

    async with working(app, heartbeat_s=SOON_S):
        job = await work.enqueue()
        await began.wait()
        assert await job.cancel()
        assert await job.result(timeout=10) == "done all the same"
    assert "cancels" not in await _keys(app)


async def test_cancel_of_a_thread_is_told_by_its_context(app: App):
    @app.task
    def work(ctx: Context, asks: bool) -> str:
        end = time.monotonic() + (30 if asks else 0.5)
        began.add(ctx.job_id)
        while time.monotonic() < end and not (asks and ctx.cancel_requested):
            time.sleep(0.01)
        return f"cancel_requested: {ctx.cancel_requested}"

    began: set[str] = set()
    async with working(app, heartbeat_s=SOON_S):
        job = await work.enqueue(asks=True)  # pyright: ignore[reportCallIssue]
        await eventually(lambda: job.id in began)
        assert await job.cancel()
        await eventually(lambda: _has_ended(job))
        assert await job.status() is JobStatus.CANCELLED


async def _has_ended(job) -> bool:
    return await job.status() in (JobStatus.CANCELLED, JobStatus.COMPLETED)


async def test_cancel_of_a_process_task_kills_its_process(
    redis_url: str, namespace: str, tmp_path: Path
):
    process_tasks.app.configure(url=redis_url, namespace=namespace)
    async with process_tasks.app as app, working(app, heartbeat_s=SOON_S):
        path = tmp_path / "pid"
        job = await process_tasks.run_on.enqueue(str(path))
        pid = int(await eventually(lambda: path.exists() and path.read_text(), 20))
        assert await job.cancel()
        with pytest.raises(JobCancelled, match="on request, while it ran"):
            await job.result(timeout=10)
        await eventually(lambda: not Path(f"/proc/{pid}").exists())
        # the pool starts another one for the next job
        assert await (await process_tasks.pid.enqueue()).result(timeout=20) != pid


async def test_cancel_while_a_retry_waits_ends_it(app: App):
    @app.task
    async def work() -> None:
        raise ValueError

    async with working(app):
        job = await work.enqueue()
        await reached(app, job, JobStatus.SCHEDULED)
        assert await job.cancel()
        assert await job.status() is JobStatus.CANCELLED


async def test_cancel_while_a_run_fails_stops_its_retries(app: App):
    """The cancel request comes too late for the run and in time for its settle."""
    go, began = asyncio.Event(), asyncio.Event()

    @app.task
    async def work() -> None:
        began.set()
        await go.wait()
        raise ValueError

    async with working(app, heartbeat_s=30):
        job = await work.enqueue()
        await began.wait()
        assert await job.cancel()
        go.set()
        assert (await reached(app, job, JobStatus.CANCELLED)).reason


async def test_cancel_of_what_has_ended_is_false(app: App):
    @app.task(retry=ONCE)
    async def work(fail: bool) -> int:
        if fail:
            raise ValueError
        return 1

    async with working(app):
        kept, died = await work.enqueue(fail=False), await work.enqueue(fail=True)
        assert await kept.result(timeout=10) == 1
        await dead(app, died)
    assert [await job.cancel() for job in (kept, died)] == [False, False]
    assert (await record_of(app, died)).status is JobStatus.DEAD


async def test_cancel_by_reference_of_an_unknown_job_says_so(app: App):
    with pytest.raises(JobNotFound, match="there is no job default/nobody"):
        await app.job("default/nobody").cancel()


async def _keys(app: App) -> set[str]:
    names = app.broker._keys_of("default").names
    found = await app.broker._ask([(b"EXISTS", name) for name in names.values()])
    return {name for name, exists in zip(names, found, strict=True) if exists}
