"""An idle worker, whose claim waits in Redis: orders, times and losses reach it all the same."""

import asyncio
import signal
from collections.abc import AsyncIterator
from typing import Any

import pytest

from qcore import App, Context, JobStatus, Retry
from qcore.broker.identity import new_owner
from qcore.broker.redis import scripts
from qcore.broker.redis.claiming_wait import ClaimingWait
from qcore.broker.redis.pipeline import Pipeline
from qcore.runtime.worker.worker import Worker
from qcore.settings import WorkerConfig
from tests.support.proxy import Proxy
from tests.support.servers import Server
from tests.support.waiting import eventually
from tests.support.workers import reached, working

#: Nothing but a wakeup, an order or a known time ends a wait in these tests.
NEVER: dict[str, Any] = {"block_s": 60.0, "lease_s": 360.0, "sweep_s": 90.0}


@pytest.fixture
async def app(own_server: Server) -> AsyncIterator[App]:
    async with App(own_server.url, queues=["default"]) as app:
        yield app


async def waits(server: Server, count: int = 1) -> None:
    await eventually(lambda: server.ask("INFO", "clients")["blocked_clients"] == count)


async def test_quiet_worker_takes_nothing_that_comes_until_it_resumes(app: App, own_server: Server):
    @app.task
    async def work() -> int:
        return 1

    async with working(app, **NEVER) as worker:
        await waits(own_server)
        worker.quiet()
        await waits(own_server, 0)
        job = await work.enqueue()
        assert await job.status() is JobStatus.READY
        worker.resume()
        assert await job.result(timeout=10) == 1


@pytest.mark.parametrize("concurrency", [1, 10])
async def test_job_that_is_tried_again_starts_when_due(app: App, concurrency: int):
    @app.task(retry=Retry(max_attempts=3, backoff=0.2))
    async def work(ctx: Context) -> int:
        if ctx.attempt < 3:
            raise ValueError
        return ctx.attempt

    async with working(app, concurrency=concurrency, **NEVER):
        assert await (await work.enqueue()).result(timeout=10) == 3


@pytest.mark.parametrize("concurrency", [1, 10])
async def test_scheduled_job_starts_when_due(app: App, own_server: Server, concurrency: int):
    @app.task
    async def work() -> int:
        return 1

    async with working(app, concurrency=concurrency, **NEVER):
        await waits(own_server)
        assert await (await work.options(delay=0.3).enqueue()).result(timeout=10) == 1


async def test_jobs_of_a_burst_fill_all_slots(app: App, own_server: Server):
    go = asyncio.Event()

    @app.task
    async def hold() -> None:
        await go.wait()

    async with working(app, concurrency=20, **NEVER) as worker:
        await waits(own_server)
        await hold.enqueue_many(() for _ in range(30))
        await eventually(lambda: worker.beat().running == 20)
        go.set()
        await eventually(lambda: worker.beat().done == 30)


async def test_lost_reply_of_a_wait_costs_no_job(app: App, own_server: Server, proxy: Proxy):
    ran: list[int] = []

    async with App(proxy.url) as far:

        @far.task(name="work")
        async def work(n: int) -> None:
            ran.append(n)

        enqueue = app.task(name="work")(work.function).enqueue
        async with working(far, **NEVER):
            for n in range(10):
                await waits(own_server)
                proxy.lose_reply(scripts.CLAIM.sha)
                await enqueue(n)
                await eventually(lambda n=n: len(ran) == n + 1)
    assert ran == list(range(10))


@pytest.mark.parametrize("fault", [signal.SIGSTOP, signal.SIGKILL])
async def test_idle_worker_leaves_soon_when_redis_is_away(
    own_server: Server, fault: signal.Signals
):
    async with App(own_server.url, queues=["default"]) as app:
        config = WorkerConfig(queues=app.queues, shutdown_timeout_s=60)
        worker = Worker(app, config, owner=new_owner())
        running = asyncio.create_task(worker.run())
        await waits(own_server)
        own_server.signal(fault)
        worker.drain()
        await asyncio.wait_for(running, 30)
        own_server.signal(signal.SIGCONT) if fault is signal.SIGSTOP else None


async def test_worker_that_holds_long_jobs_waits_for_others(app: App, own_server: Server):
    go = asyncio.Event()

    @app.task
    async def hold() -> None:
        await go.wait()

    @app.task
    async def quick() -> int:
        return 1

    async with working(app, concurrency=3, **NEVER):
        held = [await hold.enqueue() for _ in range(2)]
        for job in held:
            await reached(app, job, JobStatus.ACTIVE)
        await waits(own_server)
        for _ in range(3):
            assert await (await quick.enqueue()).result(timeout=10) == 1
        go.set()
        for job in held:
            await job.result(timeout=10)


async def test_worker_whose_wait_hangs_leaves_soon_and_starts_what_is_due(own_server: Server):
    """Its connection alone is dead; the others of the worker are sound."""
    async with Proxy(own_server.port) as way, App(way.url) as far, App(own_server.url) as app:

        @app.task
        async def work() -> int:
            return 1

        waits_by = far.broker.wakeups._one
        assert isinstance(waits_by, Pipeline)
        hanging = ClaimingWait(waits_by, app.broker._upkeep, app.broker._keys_of, 60.0)
        app.broker.wakeups.claiming = hanging
        async with working(app, **NEVER, shutdown_timeout_s=40):
            await waits(own_server)
            job = await work.options(delay=1.0).enqueue()
            await waits(own_server)
            way.open.clear()
            assert await job.result(timeout=10) == 1
            began = asyncio.get_running_loop().time()
        assert asyncio.get_running_loop().time() - began < 20  # and not when the wait is given up
        way.open.set()
