"""Odd things that tasks and their surroundings do, none of which may cost a worker a slot."""

import asyncio
import math
import os
import signal
from collections.abc import Sequence
from typing import Any

import pytest
import structlog.testing

from qcore import App, ConfigError, Retry, RetryLater
from qcore.broker.redis.inspector import Inspector
from qcore.model.codec import decode_envelope
from qcore.model.job import Lease, Outcome
from qcore.runtime.host.signals import signal_name
from qcore.runtime.worker.running_job import Running
from tests.support import process_tasks as tasks
from tests.support.waiting import eventually
from tests.support.workers import dead, working

THREE = Retry(max_attempts=3, backoff=0.01, jitter=0)


@pytest.mark.parametrize("kind", [3, object()], ids=["a number", "an object"])
async def test_exception_with_a_kind_of_its_own_is_an_ordinary_failure(app: App, kind: object):
    class OddError(Exception): ...

    OddError.kind = kind  # pyright: ignore[reportAttributeAccessIssue]

    @app.task(retry=THREE)
    async def fail() -> None:
        raise OddError("odd")

    async with working(app) as worker:
        record = await dead(app, await fail.enqueue())
        assert [error.kind for error in record.errors] == ["OddError"] * 3
        await eventually(lambda: worker.beat().running == 0)


async def test_exception_whose_text_cannot_be_made_is_a_failure(app: App):
    class MuteError(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no words")

    @app.task(retry=THREE)
    async def fail() -> None:
        raise MuteError

    async with working(app) as worker:
        record = await dead(app, await fail.enqueue())
        assert record.attempts == 3
        await eventually(lambda: worker.beat().running == 0)


async def test_exception_whose_text_is_no_text_is_a_failure(app: App):
    @app.task(retry=THREE)
    async def fail() -> None:
        raise ValueError(os.fsdecode(b"no file a\xff"))

    async with working(app):
        record = await dead(app, await fail.enqueue())
        assert [error.reason for error in record.errors] == ["ValueError: no file a?"] * 3


async def test_retry_later_without_end_is_a_failure_of_the_task(app: App):
    @app.task(retry=THREE)
    async def fail() -> None:
        raise RetryLater(math.inf)

    async with working(app):
        record = await dead(app, await fail.enqueue())
    assert [error.kind for error in record.errors] == ["ValueError"] * 3


@pytest.mark.parametrize("option", ["timeout", "keep"])
def test_task_refuses_a_duration_without_end(option: str):
    app = App("redis://localhost")
    register = app.task(timeout=math.inf) if option == "timeout" else app.task(keep=math.inf)
    with pytest.raises(ConfigError, match=option):
        register(_nothing)


async def _nothing() -> None: ...


async def test_process_that_dies_while_idle_harms_no_job(redis_url: str, namespace: str):
    app = tasks.app
    app.configure(url=redis_url, namespace=namespace)
    async with app, working(app):
        pid = await (await tasks.pid.enqueue()).result(timeout=20)
        os.kill(pid, signal.SIGKILL)
        job = await tasks.pid.enqueue()
        assert await job.result(timeout=20) != pid


def test_signal_without_a_name_is_named_by_its_number():
    assert signal_name(9) == "SIGKILL"
    assert signal_name(40) == "signal 40"


# -- runs that end as no run should ---------------------------------------------------------------


@pytest.mark.parametrize("kind", [GeneratorExit, SystemExit, KeyboardInterrupt, StopIteration])
@pytest.mark.parametrize("place", ["loop", "thread"])
async def test_whatever_is_raised_is_the_outcome_of_its_run(
    app: App, kind: type[BaseException], place: str
):
    async def fail() -> None:
        raise kind

    def fail_in_thread() -> None:
        raise kind

    task = app.task(retry=THREE)(fail if place == "loop" else fail_in_thread)
    async with working(app, concurrency=1) as worker:
        record = await dead(app, await task.enqueue())
        assert record.attempts == 3
        assert record.crashes == 0
        await eventually(lambda: worker.beat().running == 0)


@pytest.mark.parametrize("kind", [ValueError, SystemExit, GeneratorExit])
async def test_exception_whose_text_raises_what_it_likes_ends_dead(
    app: App, kind: type[BaseException]
):
    class WordsError(RetryLater):
        def __str__(self) -> str:
            raise kind

    @app.task(retry=Retry(max_attempts=1))
    async def fail() -> None:
        raise WordsError(0)

    async with working(app, concurrency=1) as worker:
        await dead(app, await fail.enqueue())
        await eventually(lambda: worker.beat().running == 0)


async def test_job_whose_asyncio_task_is_cancelled_before_it_began_runs_all_the_same(app: App):
    """An app may cancel whatever runs on its loop."""
    ran = 0

    @app.task
    async def count() -> int:
        nonlocal ran
        ran += 1
        return ran

    async with working(app, concurrency=1, lease_s=30.0) as worker:
        start, begun = worker.jobs.start, 0

        def start_and_cancel(
            leases: Sequence[Lease], sent_at: float, claimed_at: float, *, unwanted: bool
        ) -> None:
            nonlocal begun
            start(leases, sent_at, claimed_at, unwanted=unwanted)
            begun += len(leases)
            if leases and begun == 1:
                task = worker.jobs.all()[0].task
                assert task is not None
                task.cancel()

        worker.jobs.start = start_and_cancel
        job = await count.enqueue()
        assert await job.result(timeout=10) == 1
        assert begun == 2
        record = await app.inspector.job(job.queue, job.id)
        assert record is not None
        assert (record.status, record.crashes) == ("completed", 0)


async def test_run_that_a_fault_of_the_worker_ends_frees_its_slot_and_runs_again(app: App):
    @app.task
    async def count() -> int:
        return 1

    async with working(app, concurrency=1) as worker:
        end, broken = worker.jobs.end, True

        def break_once(running: Running, outcome: Outcome | None) -> None:
            nonlocal broken
            if broken:
                broken = False
                raise MemoryError
            end(running, outcome)

        worker.jobs.end = break_once
        with structlog.testing.capture_logs() as lines:
            job, other = await count.enqueue(), await count.enqueue()
            assert await other.result(timeout=10) == 1
            assert await job.result(timeout=10) == 1
    (said,) = [line for line in lines if line["event"] == "job.unsettled"]
    assert said["job"] == job.id
    assert "MemoryError" in said["exception"]


async def test_worker_whose_slots_are_taken_by_nothing_is_not_ready(app: App):
    async with working(app, concurrency=1) as worker:
        await eventually(lambda: worker.beat().claim_age_s is not None)
        worker._capacity.take(Lease(b"", "default", "", None, None, 0, 0, 0))
        await eventually(lambda: (worker.beat().claim_age_s or 0.0) > 0.2)
        worker._capacity.give(Lease(b"", "default", "", None, None, 0, 0, 0))


async def test_services_that_fail_end_no_worker(app: App, monkeypatch: pytest.MonkeyPatch):
    """Whatever a reply holds: jobs go on, and what failed is begun again."""
    failed: list[str] = []

    def fails(owner: object, name: str, times: int) -> None:
        whole = getattr(owner, name)

        async def once_in_a_while(*args: Any, **options: Any) -> Any:
            if failed.count(name) < times:
                failed.append(name)
                raise UnicodeDecodeError("utf-8", b"\xff", 0, 1, "a byte that nobody knows")
            return await whole(*args, **options)

        monkeypatch.setattr(owner, name, once_in_a_while)

    @app.task
    async def echo(text: str) -> str:
        return text

    gate = asyncio.Event()

    @app.task
    async def hold() -> str:
        await gate.wait()
        return "held"

    names = ("turn", "extend", "cancel_requested", "reclaim")
    for name in names:
        fails(app.broker, name, 2)
    fails(app.broker.wakeups, "wait", 2)
    fails(app.broker.wakeups.claiming, "end", 2)
    async with working(app, block_s=0.2, heartbeat_s=0.1) as worker:
        assert await (await echo.enqueue("a")).result(timeout=20) == "a"
        held = await hold.enqueue()  # leases are renewed while there is one
        await eventually(lambda: sorted(failed) == sorted(2 * (*names, "wait")), 20)
        gate.set()
        assert await held.result(timeout=20) == "held"
        assert await (await echo.enqueue("b")).result(timeout=20) == "b"
        await eventually(lambda: worker.beat().running == 0)


async def test_job_whose_id_is_no_text_is_buried_with_its_bytes(app: App):
    """Another hand has made it; the jobs behind it run."""

    @app.task
    async def echo(text: str) -> str:
        return text

    job = await echo.enqueue("a")
    keys = app.broker._keys_of(job.queue).names
    (payload,) = await app.broker._ask([(b"HGET", keys["jobs"], job.id)])
    odd = b"\xff\xfe"
    await app.broker._ask([(b"HSET", keys["jobs"], odd, payload), (b"LPUSH", keys["ready"], odd)])
    inspector = Inspector(app.broker)
    async with working(app):
        assert await job.result(timeout=20) == "a"
        await eventually(lambda: inspector.dead(job.queue))
    (record,) = await inspector.dead(job.queue)
    assert record.id == r"\xff\xfe"
    assert "is no text" in (record.reason or "")
    assert record.payload == bytes(decode_envelope(payload[8:]).args)
    # and by that name an operator has it
    assert await inspector.job(job.queue, record.id) == record
    assert await inspector.purge(job.queue, ids=[record.id]) == 1
    assert await inspector.dead(job.queue) == []
