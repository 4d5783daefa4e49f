"""A worker in the process of the test, where its tasks are closures of the test."""

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from qcore import App, JobHandle, JobStatus
from qcore.broker.identity import new_owner
from qcore.model.views import JobRecord
from qcore.runtime.worker.worker import Worker
from qcore.settings import WorkerConfig
from qcore_cli.child import COMMAND
from qcore_cli.logs import LogStyle
from tests.support.waiting import eventually

LEASE_S = 1.5


@asynccontextmanager
async def working(
    app: App,
    *,
    owner: str | None = None,
    path: str = "tests.support.process_tasks:app",
    **settings: Any,
) -> AsyncIterator[Worker]:
    """Run a worker of an open app; at the end it drains, and must be done in time.

    Args:
        app: Its tasks may be closures of the test.
        owner: Of its leases.
        path: Where a process of its pool finds the app.
        settings: Of the WorkerConfig.
    """
    defaults: dict[str, Any] = {
        "queues": app.queues,
        "lease_s": LEASE_S,
        "extend_s": LEASE_S / 3,
        "sweep_s": LEASE_S / 4,
        "shutdown_timeout_s": 5.0,
    }
    config = WorkerConfig(**defaults | settings)
    pool_command = (*COMMAND, "pool", path, LogStyle().word(), "worker.1")
    worker = Worker(app, config, owner=owner or new_owner(), pool_command=pool_command)
    running = asyncio.create_task(worker.run())
    try:
        yield worker
    except BaseException:
        worker.drain(0.5)
        raise
    finally:
        worker.drain()
        await asyncio.wait_for(running, config.shutdown_timeout_s + 2)


@asynccontextmanager
async def working_with_a_busy_thread(
    app: App, **settings: Any
) -> AsyncIterator[tuple[Worker, threading.Event]]:
    """Run a worker whose only thread is taken until the event is set; it claims all the same."""
    go = threading.Event()

    @app.task
    def hold() -> None:
        go.wait(20)

    @app.task
    async def other() -> None: ...  # with it the queue is claimed beyond the free threads

    try:
        async with working(app, threads=1, **settings) as worker:
            await hold.enqueue()
            yield worker, go
    finally:
        go.set()


async def record_of(app: App, job: JobHandle[Any]) -> JobRecord:
    record = await app.inspector.job(job.queue, job.id)
    assert record is not None
    return record


async def reached(
    app: App, job: JobHandle[Any], status: JobStatus, timeout_s: float = 10
) -> JobRecord:
    """Wait until a job is in a state; return its record."""

    async def look() -> JobRecord | None:
        record = await app.inspector.job(job.queue, job.id)
        return record if record is not None and record.status is status else None

    record = await eventually(look, timeout_s)
    assert record is not None
    return record


async def dead(app: App, job: JobHandle[Any], timeout_s: float = 10) -> JobRecord:
    return await reached(app, job, JobStatus.DEAD, timeout_s)
