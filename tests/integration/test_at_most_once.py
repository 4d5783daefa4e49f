"""A task that asks for it never runs twice: `at_most_once=True`."""

import asyncio

import pytest

from qcore import (
    App,
    ConfigError,
    Context,
    JobStatus,
    Retry,
    RetryLater,
)
from qcore.broker.contract import ClaimRequest
from qcore.broker.identity import new_owner
from qcore.broker.redis import scripts
from qcore.errors import NewerVersion
from tests.support.proxy import Proxy
from tests.support.waiting import eventually
from tests.support.workers import dead, reached, working, working_with_a_busy_thread


async def test_at_most_once_runs_once_and_keeps_its_result(app: App):
    runs: list[str] = []

    @app.task(at_most_once=True)
    async def pay(ctx: Context) -> str:
        runs.append(ctx.job_id)
        return "paid"

    async with working(app):
        job = await pay.enqueue()
        assert await job.result(timeout=10) == "paid"
    assert runs == [job.id]


async def test_at_most_once_that_fails_is_dead(app: App):
    @app.task(at_most_once=True)
    async def pay() -> None:
        raise ValueError("no money")

    async with working(app):
        record = await dead(app, await pay.enqueue())
    assert (record.attempts, record.reason) == (1, "ValueError: no money")


@pytest.mark.parametrize("charge", [True, False])
async def test_at_most_once_that_asks_to_run_again_is_dead(app: App, charge: bool):
    runs: list[str] = []

    @app.task(at_most_once=True)
    async def pay(ctx: Context) -> None:
        runs.append(ctx.job_id)
        raise RetryLater(0.01, charge=charge)

    async with working(app):
        job = await pay.enqueue()
        record = await dead(app, job)
    assert runs == [job.id]
    assert (
        record.reason
        == "at most once: it raised RetryLater (retry in 0.01 s), and must not run again"
    )


async def test_at_most_once_that_cannot_read_what_it_reads_is_not_parked(app: App):
    @app.task(at_most_once=True)
    async def pay() -> None:
        raise NewerVersion("the result of another job is newer")

    async with working(app):
        record = await dead(app, await pay.enqueue())
    assert record.attempts == 1


async def test_at_most_once_whose_worker_died_after_the_beginning_is_dead(app: App):
    runs: list[str] = []
    began = asyncio.Event()

    @app.task(at_most_once=True)
    async def pay(ctx: Context) -> None:
        runs.append(ctx.job_id)
        began.set()
        await asyncio.sleep(60)

    first = new_owner()
    async with working(app, owner=first, shutdown_timeout_s=2):
        job = await pay.enqueue()
        await began.wait()
        # as its supervisor does when the process is gone
        taken = await app.broker.reclaim_owner(["default"], first, charge=True, crash_limit=10)
        assert [item.to for item in taken["default"]] == ["ready"]
        record = await dead(app, job)
    assert runs == [job.id]
    assert record.reason is not None
    assert record.reason.startswith("at most once: its run of 20")
    assert record.reason.endswith("was cut off")


async def test_at_most_once_whose_worker_died_before_the_beginning_runs(app: App):
    runs: list[str] = []

    @app.task(at_most_once=True)
    async def pay(ctx: Context) -> None:
        runs.append(ctx.job_id)

    job = await pay.enqueue()
    gone = new_owner()
    (lease,) = (
        await app.broker.turn([], ClaimRequest(["default"], 1, 30_000, f"{gone}:1:"))
    ).leases
    assert lease.id == job.id
    await app.broker.reclaim_owner(["default"], gone, charge=True, crash_limit=10)
    async with working(app):
        assert await job.result(timeout=10) is None
    assert runs == [job.id]


async def test_at_most_once_runs_once_though_the_reply_to_its_note_is_lost(proxy: Proxy):
    runs: list[str] = []
    async with App(proxy.url, queues=("default",)) as app:

        @app.task(at_most_once=True)
        async def pay(ctx: Context) -> str:
            runs.append(ctx.job_id)
            return "paid"

        proxy.lose_reply(scripts.UPDATE_RECORD.sha, times=2)
        async with working(app, lease_s=30, extend_s=10, sweep_s=5):
            job = await pay.enqueue()
            assert await job.result(timeout=20) == "paid"
        assert proxy.lost_all
    assert runs == [job.id]


async def test_at_most_once_that_a_shutdown_cut_off_is_dead_at_its_next_claim(app: App):
    began = asyncio.Event()
    runs: list[str] = []

    @app.task(at_most_once=True)
    async def pay(ctx: Context) -> None:
        runs.append(ctx.job_id)
        began.set()
        await asyncio.sleep(60)

    async with working(app) as worker:
        job = await pay.enqueue()
        await began.wait()
        worker.stop_now()
    assert await job.status() is JobStatus.READY
    async with working(app):
        record = await dead(app, job)
    assert runs == [job.id]
    assert "was cut off" in (record.reason or "")
    assert record.crashes == 0


async def test_at_most_once_that_is_stopped_while_it_waits_for_a_thread_has_not_begun(app: App):
    runs: list[str] = []

    @app.task(at_most_once=True)
    def pay(ctx: Context) -> str:
        runs.append(ctx.job_id)
        return "paid"

    async with working_with_a_busy_thread(app, shutdown_timeout_s=3) as (worker, go):
        job = await pay.enqueue()
        await eventually(lambda: worker._threads.waiting == 1)
        worker.stop_now()
        await reached(app, job, JobStatus.READY)
        go.set()
    async with working(app):
        assert await job.result(timeout=10) == "paid"
    assert runs == [job.id]


def test_at_most_once_with_retries_is_refused(app: App):
    with pytest.raises(ConfigError, match="at_most_once=True leaves no attempt to retry"):

        @app.task(at_most_once=True, retry=Retry(max_attempts=3))
        async def pay() -> None: ...
