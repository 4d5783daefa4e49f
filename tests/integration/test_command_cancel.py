"""`qcore jobs cancel`: what it says about each job."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from qcore import App, JobStatus
from tests.support.commands import Command, one_line
from tests.support.waiting import eventually
from tests.support.workers import reached, working


@pytest.fixture
async def app(redis_url: str, namespace: str) -> AsyncIterator[App]:
    async with App(redis_url, namespace=namespace, queues=("default", "other")) as app:
        yield app


async def test_jobs_cancel_says_what_became_of_each(app: App, qcore: Command):
    began = asyncio.Event()

    @app.task
    async def work(wait: bool) -> int:
        began.set()
        await asyncio.sleep(60 * wait)
        return 1

    async with working(app, concurrency=1, heartbeat_s=0.1, shutdown_timeout_s=2) as worker:
        ended = await work.enqueue(wait=False)
        await ended.result(timeout=10)
        began.clear()
        runs = await work.enqueue(wait=True)
        await began.wait()
        waits = await work.enqueue(wait=False)
        later = await work.options(delay=60, queue="other").enqueue(wait=False)
        refs = [job.ref for job in (waits, later, runs, ended)]
        said = (await qcore("jobs", "cancel", *refs, "--json")).json
        assert said == {
            "cancelled": [waits.ref, later.ref],
            "asked": [runs.ref],
            "ended": [ended.ref],
            "unknown": [],
        }
        for job in (waits, later, runs):
            await reached(app, job, JobStatus.CANCELLED)
        await eventually(lambda: worker.beat().done == 3)
    assert await ended.result(timeout=1) == 1


async def test_jobs_cancel_in_words(app: App, qcore: Command):
    @app.task
    async def work() -> int:
        return 1

    ended = await work.enqueue()
    async with working(app):
        await ended.result(timeout=10)
    jobs = [await work.enqueue() for _ in range(2)]
    said = await qcore("jobs", "cancel", *(job.ref for job in (*jobs, ended)))
    assert (said.code, said.err) == (0, "")
    assert said.out.splitlines() == ["Cancelled 2.", f"Ended before: {ended.ref}"]
    assert [await job.status() for job in jobs] == [JobStatus.CANCELLED] * 2
    shown = (await qcore("jobs", "show", jobs[0].ref)).out
    assert "cancelled" in shown
    assert "on request" in shown


async def test_jobs_cancel_of_some_unknown_cancels_the_others(app: App, qcore: Command):
    @app.task
    async def work() -> None: ...

    job = await work.enqueue()
    said = await qcore("jobs", "cancel", job.ref, "default/nobody")
    assert said.code == 1
    assert said.out == "Cancelled 1.\n"
    assert one_line(said) == (
        f"qcore: there is no trace in {app.inspector.where} of default/nobody"
    )
    assert await job.status() is JobStatus.CANCELLED
