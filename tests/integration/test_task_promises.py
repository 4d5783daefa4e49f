"""What a task may ask of its runs: not too late, never twice, never overlapping, in order."""

import asyncio
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from qcore import (
    App,
    ArgumentError,
    ConfigError,
    Context,
    JobCancelled,
    JobStatus,
    Retry,
)
from qcore.broker.identity import new_owner
from tests.support import process_tasks
from tests.support.proxy import Proxy
from tests.support.servers import Server
from tests.support.waiting import eventually
from tests.support.workers import dead, record_of, working, working_with_a_busy_thread

SOON = Retry(max_attempts=3, backoff=0.01, jitter=0)


# -- expires ---------------------------------------------------------------------------------------


async def test_expired_job_does_not_run_and_says_so(app: App):
    ran: list[str] = []

    @app.task(expires=0.05)
    async def by_task(name: str) -> None:
        ran.append(name)

    expired = [await by_task.enqueue("task"), await by_task.options(expires=0.02).enqueue("option")]
    lasting = await by_task.options(expires=60).enqueue("lasting")
    await asyncio.sleep(0.06)  # longer than the first two last
    async with working(app):
        for job, limit in zip(expired, ("0.05", "0.02"), strict=True):
            with pytest.raises(JobCancelled, match=rf"it expired: .* within {limit} s"):
                await job.result(timeout=10)
        await eventually(lambda: ran)
    assert ran == ["lasting"]
    assert await lasting.status() is JobStatus.COMPLETED


async def test_job_expires_while_it_waits_for_its_retry(app: App):
    runs: list[int] = []

    @app.task(expires=0.5, retry=Retry(max_attempts=5, backoff=0.6, jitter=0))
    async def work(ctx: Context) -> None:
        runs.append(ctx.attempt)
        raise ValueError

    async with working(app):
        job = await work.enqueue()
        with pytest.raises(JobCancelled, match="it expired"):
            await job.result(timeout=20)
    assert runs in ([1], [])  # the first may come too late on a machine that is slow enough


async def test_job_that_began_in_time_may_end_later(app: App):
    @app.task(expires=1)
    async def work() -> str:
        await asyncio.sleep(1.1)  # longer than it had to begin
        return "done"

    async with working(app):
        assert await (await work.enqueue()).result(timeout=10) == "done"


async def test_job_that_expires_while_it_waits_for_a_thread_does_not_run(app: App):
    ran: list[str] = []

    @app.task(expires=1)
    def late() -> None:
        ran.append("late")

    async with working_with_a_busy_thread(app) as (worker, go):
        job = await late.enqueue()
        await eventually(lambda: worker._threads.waiting == 1)
        await asyncio.sleep(1)  # longer than it has to begin
        go.set()
        with pytest.raises(JobCancelled, match=r"it expired: .* within 1 s"):
            await job.result(timeout=10)
    assert ran == []


@pytest.mark.parametrize("expires", [0, -1])
def test_expires_of_a_task_is_more_than_nothing(app: App, expires: float):
    with pytest.raises(ConfigError, match=r"expires is .* allowed is more than 0"):

        @app.task(expires=expires)
        async def work() -> None: ...


@pytest.mark.parametrize("expires", [0, 0.0001])
def test_expires_of_a_job_is_more_than_nothing(app: App, expires: float):
    @app.task
    async def work() -> None: ...

    with pytest.raises(ArgumentError, match=r"expires is .* allowed is more than 0"):
        work.options(expires=expires)


def test_expires_before_the_delay_is_refused(app: App):
    @app.task
    async def work() -> None: ...

    @app.task(expires=60)
    async def soon() -> None: ...

    with pytest.raises(ArgumentError, match="so it could never start"):
        work.options(delay=10, expires=10)
    with pytest.raises(ArgumentError, match="so it could never start"):
        soon.options(delay=3600)
    soon.options(delay=59)
    soon.options(delay=3600, expires=3601)


async def test_expires_before_the_eta_is_refused_at_the_enqueue(app: App):
    @app.task(expires=60)
    async def soon() -> None: ...

    now = datetime.now(UTC)
    with pytest.raises(
        ArgumentError, match=r"ready 3\d\d\d.* s after its enqueue and expire after 60"
    ):
        await soon.options(eta=now + timedelta(hours=1)).enqueue()
    await soon.options(eta=now + timedelta(seconds=30)).enqueue()


async def test_job_that_was_revived_does_not_expire(app: App):
    ran: list[str] = []

    @app.task(expires=2, retry=Retry(max_attempts=1))
    async def work(ctx: Context) -> str:
        ran.append(ctx.job_id)
        if len(ran) == 1:
            raise ValueError
        return "done"

    async with working(app):
        job = await work.enqueue()
        await dead(app, job)
        await asyncio.sleep(2)  # longer than it had to begin
        assert await app.inspector.revive("default", [job.id]) == [job.id]
        assert await job.result(timeout=10) == "done"


# -- exclusive -------------------------------------------------------------------------------------


async def test_exclusive_job_is_stopped_before_its_lease_can_end(proxy: Proxy, own_server: Server):
    """Redis cannot be reached for longer than a lease: somebody else may take the job then."""
    lease_s = 4.5
    runs: list[str] = []
    stopped: list[float] = []
    async with App(proxy.url, queues=("default",)) as app:

        @app.task(exclusive=True)
        async def work(ctx: Context) -> None:
            runs.append(ctx.job_id)
            try:
                if len(runs) == 1:
                    await asyncio.sleep(60)
            except asyncio.CancelledError:
                stopped.append(time.time())
                raise

        job = await work.enqueue()
        settings: dict[str, Any] = {
            "lease_s": lease_s,
            "extend_s": lease_s / 3,
            "sweep_s": lease_s / 4,
        }
        async with working(app, **settings, shutdown_timeout_s=20):
            await eventually(lambda: runs)
            proxy.open.clear()
            await eventually(lambda: stopped, 15)
            # nobody moves it: the only one who renews or sweeps is cut off
            active = own_server.ask("ZRANGE", "{qcore:default}:active", 0, -1, "WITHSCORES")
            (_, deadline_ms) = active
            assert stopped[0] < float(deadline_ms) / 1000
            proxy.open.set()
            await job.result(timeout=20)
        record = await app.inspector.job("default", job.id)
    assert runs == [job.id] * 2
    assert record is None  # it completed, and kept nothing


async def test_exclusive_job_whose_lease_is_renewed_runs_on(app: App):
    @app.task(exclusive=True)
    async def work() -> str:
        await asyncio.sleep(3)  # two leases
        return "done"

    async with working(app):
        assert await (await work.enqueue()).result(timeout=20) == "done"


async def test_job_that_is_not_exclusive_runs_on_while_redis_is_away(proxy: Proxy):
    stopped: list[str] = []
    go, began = asyncio.Event(), asyncio.Event()
    async with App(proxy.url, queues=("default",)) as app:

        @app.task
        async def work() -> str:
            began.set()
            try:
                await go.wait()
            except asyncio.CancelledError:
                stopped.append("cancelled")
                raise
            return "done"

        async with working(app, shutdown_timeout_s=20):
            job = await work.enqueue()
            await began.wait()
            proxy.open.clear()
            await asyncio.sleep(2)  # more than its lease
            assert not stopped
            go.set()
            proxy.open.set()
            assert await job.result(timeout=20) == "done"


async def test_exclusive_job_that_outlasts_its_worker_is_nobody_elses_while_it_runs(app: App):
    began, end = asyncio.Event(), asyncio.Event()
    ended: list[str] = []

    @app.task(exclusive=True)
    async def work() -> None:
        began.set()
        while not end.is_set():
            try:
                await end.wait()
            except asyncio.CancelledError:
                continue
        ended.append("ended")

    owner = new_owner()
    try:
        async with working(app, owner=owner, shutdown_timeout_s=2) as worker:
            job = await work.enqueue()
            await began.wait()
            worker.stop_now()
            await eventually(lambda: worker.jobs.abandoned == 1)
        assert await job.status() is JobStatus.ACTIVE
        # as its supervisor does when the process is gone
        taken = await app.broker.reclaim_owner(["default"], owner, charge=False, crash_limit=10)
        assert [item.to for item in taken["default"]] == ["ready"]
        assert (await record_of(app, job)).crashes == 0
    finally:
        end.set()
    await eventually(lambda: ended)


def test_exclusive_thread_is_refused(app: App):
    with pytest.raises(ConfigError, match="exclusive=True needs a run that can be stopped"):

        @app.task(exclusive=True)
        def work() -> None: ...


# -- fencing tokens --------------------------------------------------------------------------------


async def test_fencing_token_grows_with_each_run_wherever_it_runs(app: App):
    tokens: list[int] = []

    @app.task(retry=SOON)
    async def on_loop(ctx: Context) -> None:
        tokens.append(ctx.fencing_token)
        if ctx.attempt < 3:
            raise ValueError

    @app.task
    def in_thread(ctx: Context) -> None:
        tokens.append(ctx.fencing_token)

    async with working(app):
        await (await on_loop.enqueue()).result(timeout=10)
        await (await in_thread.enqueue()).result(timeout=10)
    assert len(tokens) == 4
    assert tokens == sorted(set(tokens))


async def test_fencing_token_reaches_a_process(redis_url: str, namespace: str):
    process_tasks.app.configure(url=redis_url, namespace=namespace)
    async with process_tasks.app as app, working(app):
        first = await (await process_tasks.fence.enqueue()).result(timeout=20)
        second = await (await process_tasks.fence.enqueue()).result(timeout=20)
    assert 0 < first < second


async def test_fencing_token_of_the_successor_is_larger_than_that_of_the_zombie(app: App):
    tokens: list[int] = []
    began = asyncio.Event()

    @app.task
    async def work(ctx: Context) -> None:
        tokens.append(ctx.fencing_token)
        if len(tokens) == 1:
            began.set()
            await asyncio.sleep(60)

    owner = new_owner()
    async with working(app, owner=owner):
        job = await work.enqueue()
        await began.wait()
        await app.broker.reclaim_owner(["default"], owner, charge=False, crash_limit=10)
        await job.result(timeout=20)
    assert tokens[0] < tokens[1]
