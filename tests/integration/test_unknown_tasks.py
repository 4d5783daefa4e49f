"""Jobs whose task nobody has are found, and an app without tasks says so."""

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from functools import partial

import pytest

from qcore import App, GiveUp, JobStatus
from qcore.broker.redis.unknown_tasks import check_declared, check_tasks
from tests.support.fleet import Fleet
from tests.support.workers import dead, reached, working


@pytest.fixture
async def app(redis_url: str, namespace: str) -> AsyncIterator[App]:
    async with App(redis_url, namespace=namespace) as app:
        yield app


async def known() -> None: ...


async def moved() -> None:
    raise GiveUp("it is dead")


async def test_waiting_jobs_that_the_app_has_no_task_for_are_counted_by_task(app: App):
    await app.task(name="known")(known).enqueue_many([()] * 2)
    gone = app.task(name="gone")(known)
    await gone.enqueue_many([()] * 150)
    await gone.options(delay=60).enqueue()
    async with working(app):
        await dead(app, await app.task(name="moved")(moved).enqueue())
    await gone.enqueue_many([()] * 3)
    await gone.options(delay=60).enqueue()
    await app.broker._ask(
        [(b"HSET", app.broker._keys_of("default").names["jobs"], b"odd", b"\xff")]
    )

    (finding,) = await check_tasks(app.broker, "default", {"known"})
    assert finding.said == "5 of its jobs name gone, which the app has not"
    assert "App(include=[...])" in finding.remedy
    assert await check_tasks(app.broker, "default", {"known", "gone"}) == []


async def test_jobs_that_a_worker_has_parked_are_found_without_the_app(
    app: App, redis_url: str, namespace: str
):
    async with App(redis_url, namespace=namespace) as producer:
        job = await producer.task(name="gone")(known).enqueue()
        assert await check_tasks(app.broker, "default", ()) == []  # a worker may have it
        async with working(app):
            await reached(app, job, JobStatus.SCHEDULED)
        (finding,) = await check_tasks(app.broker, "default", ())
        assert finding.said == "1 of its jobs name gone, which no worker had when it came"


def test_app_without_any_task_is_doubted():
    assert check_declared({"known": None}) == []
    (finding,) = check_declared({})
    assert "has no task" in finding.said


async def test_worker_without_any_task_says_so_and_doctor_too(fleet: Fleet):
    folder = fleet.write_tasks("bare", "").parent
    command = fleet.start(processes=1, app="bare:app")
    await command.ready(1)
    (event,) = command.events("tasks.none")
    assert (event["app"], event["level"]) == ("bare:app", "warning")
    words = (sys.executable, "-m", "qcore_cli", "doctor", "bare:app", "--url", fleet.url, "--json")
    run = partial(subprocess.run, words, cwd=folder, capture_output=True, check=False)
    said = await asyncio.to_thread(run)
    assert "tasks" in {f["check"] for f in json.loads(said.stdout) if f["level"] == "warning"}
