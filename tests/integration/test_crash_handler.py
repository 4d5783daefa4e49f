"""What a supervisor does with the jobs of a worker process that is gone."""

import asyncio
import signal
from collections.abc import AsyncIterator, Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest

from qcore import App, BrokerUnavailable, JobHandle
from qcore.broker.contract import ClaimRequest
from qcore.broker.identity import new_owner
from qcore.runtime.supervisor.crash_handler import CrashHandler
from qcore.runtime.supervisor.worker_process import WorkerProcess
from qcore.settings import WorkerConfig
from tests.support.workers import record_of

LEASE_MS = 30_000


async def _nothing() -> None: ...


@pytest.fixture
async def app(redis_url: str, namespace: str) -> AsyncIterator[App]:
    async with App(redis_url, namespace=namespace) as app:
        yield app


def failing(app: App, call: str, times: int, monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """Let the next calls of this kind fail; return what tells how many are left."""
    left, real = times, getattr(app.broker, call)

    async def fail(*args: Any, **named: Any) -> Any:
        nonlocal left
        if not left:
            return await real(*args, **named)
        left -= 1
        raise BrokerUnavailable("it is away")

    monkeypatch.setattr(app.broker, call, fail)
    return lambda: left


def gone(**how: Any) -> WorkerProcess:
    """Return what a supervisor knows of a child that is gone."""
    known: dict[str, Any] = {
        "name": "worker.1",
        "owner": new_owner(),
        "process": SimpleNamespace(pid=4711),
        "beat": None,
        "left_well": False,
        "is_quarantine": False,
        "killed_for": "",
        "blames_jobs": False,
        "lacked_memory": False,
        "culprits": frozenset(),
        "peak_rss_bytes": 30_000_000,
    }
    return cast("WorkerProcess", SimpleNamespace(**known | how))


async def claim(app: App, child: WorkerProcess, call: int = 1) -> int:
    """Claim what is ready, as the child would have; return how many jobs it got."""
    request = ClaimRequest(["default"], 500, LEASE_MS, f"{child.owner}:{call}:")
    return len((await app.broker.turn([], request)).leases)


async def enqueued(app: App) -> JobHandle[Any]:
    (job,) = await enqueued_many(app, 1)
    return job


async def enqueued_many(app: App, count: int) -> list[JobHandle[Any]]:
    task = app.task(_nothing)
    return [await task.enqueue() for _ in range(count)]


async def taken_back(app: App, child: WorkerProcess, code: int) -> None:
    crash_handler = CrashHandler(app.broker, WorkerConfig(queues=("default",)))
    await crash_handler.take_back(child, code, excused=False, stopping=asyncio.Event())


@pytest.mark.parametrize("is_quarantine", [False, True])
async def test_what_a_call_claims_for_a_process_that_is_gone_is_not_charged(
    app: App, is_quarantine: bool, monkeypatch: pytest.MonkeyPatch
):
    """It never ran, and a quarantine process that ends by itself condemns only what did."""
    child = gone(is_quarantine=is_quarantine)
    has_looked, real = asyncio.Event(), app.broker.reclaim_owner

    async def look(*args: Any, **named: Any) -> Any:
        found = await real(*args, **named)
        has_looked.set()
        return found

    monkeypatch.setattr(app.broker, "reclaim_owner", look)
    taking = asyncio.create_task(taken_back(app, child, 3))
    await has_looked.wait()
    job = await enqueued(app)
    assert await claim(app, child) == 1
    await taking
    record = await record_of(app, job)
    assert (record.status, record.crashes, record.deaths) == ("ready", 0, ())


async def test_end_of_a_process_names_all_its_jobs_also_when_redis_was_away(
    app: App, monkeypatch: pytest.MonkeyPatch
):
    jobs = await enqueued_many(app, 3)
    child = gone()
    assert await claim(app, child) == 3
    goes_on = failing(app, "recover", 2, monkeypatch)
    await taken_back(app, child, -signal.SIGSEGV)
    assert not goes_on()
    for job in jobs:
        record = await record_of(app, job)
        assert record.crashes == 1
        (death,) = record.deaths
        assert (death.how, death.jobs) == ("SIGSEGV", 3)
        assert {job.id, *death.beside} == {one.id for one in jobs}


async def test_end_of_a_process_is_written_down_once(app: App, monkeypatch: pytest.MonkeyPatch):
    """When Redis goes away between the record and the return of the job."""
    job, child = await enqueued(app), gone()
    assert await claim(app, child) == 1
    goes_on = failing(app, "reclaim_owner", 3, monkeypatch)
    await taken_back(app, child, -signal.SIGSEGV)
    assert not goes_on()
    record = await record_of(app, job)
    assert (record.crashes, len(record.deaths)) == (1, 1)


@pytest.mark.parametrize(
    ("facts", "how"),
    [
        ({}, "SIGKILL"),
        (
            {"lacked_memory": True},
            "SIGKILL, likely by the kernel: this group of processes ran out of memory",
        ),
        (
            {"lacked_memory": True, "killed_for": "stalled for 3 s"},
            "SIGKILL by its supervisor: stalled for 3 s",
        ),
    ],
)
async def test_record_says_who_killed_the_process(app: App, facts: dict[str, Any], how: str):
    job, child = await enqueued(app), gone(**facts)
    assert await claim(app, child) == 1
    await taken_back(app, child, -signal.SIGKILL)
    (death,) = (await record_of(app, job)).deaths
    assert death.how == how
