"""Redis loses its data: what handles, workers and doctor say of it."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any, Literal, Optional

import pytest
from structlog.testing import capture_logs

from qcore import App, GiveUp, JobNotFound, JobStatus
from qcore.broker import identity
from qcore.broker.redis import results
from qcore.broker.redis.epoch import Epochs, check_losses
from qcore.broker.redis.pipeline import Pipeline
from qcore.handle import Accepted
from qcore.model.callee import returns_a_value
from tests.support.servers import Server
from tests.support.waiting import eventually
from tests.support.workers import working


@pytest.fixture
async def app(own_server: Server) -> AsyncIterator[App]:
    async with App(own_server.url) as app:
        yield app


async def _nothing() -> None: ...


async def _anything():
    return None


async def _text() -> str:
    return "done"


async def _fails() -> None:
    raise GiveUp("never")


async def _fails_unannotated():
    raise GiveUp("never")


TASKS = pytest.mark.parametrize("function", [_nothing, _anything, _text])


@TASKS
async def test_job_that_redis_lost_is_not_reported_as_completed(
    own_server: Server, app: App, function: Any
):
    job = await app.task(function).enqueue()
    own_server.ask("FLUSHALL")
    for ask in (job.result, job.status, job.cancel):
        with pytest.raises(JobNotFound, match="Redis has lost all that it held of queue default"):
            await ask()


@TASKS
async def test_loss_shows_when_the_queue_is_used_again(own_server: Server, app: App, function: Any):
    task = app.task(function)
    job = await task.enqueue()
    own_server.ask("FLUSHALL")
    await task.enqueue()
    now = time.monotonic()
    earlier = task.handle(job.queue, job.id, accepted=lambda: Accepted(60, now + 60, now - 10))
    with pytest.raises(JobNotFound, match="Redis has lost"):
        await earlier.result()


async def test_job_that_is_lost_while_it_is_awaited(
    own_server: Server, app: App, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(results, "LOOK_S", 0.1)
    job = await app.task(_nothing).enqueue()
    result = asyncio.create_task(app.job(job.ref).result(timeout=30))
    await eventually(lambda: own_server.ask("HEXISTS", "{qcore:default}:waiters", job.id))
    own_server.ask("FLUSHALL")
    with pytest.raises(JobNotFound, match="Redis has lost"):
        await result


async def test_job_without_a_trace_whose_result_would_be_kept_is_not_found(
    own_server: Server, app: App
):
    """As a failover leaves it, which loses the last writes and keeps the rest."""
    jobs = [await app.task(function).enqueue() for function in (_text, _nothing)]
    own_server.ask("DEL", "{qcore:default}:ready", "{qcore:default}:jobs")
    with pytest.raises(JobNotFound, match="its outcome would still be kept"):
        await jobs[0].result()
    assert await jobs[1].result() is None
    assert await jobs[1].status() is JobStatus.COMPLETED


async def test_worker_and_doctor_say_that_redis_was_emptied(own_server: Server, app: App):
    task = app.task(_nothing)
    await task.enqueue()
    with capture_logs() as logs:
        async with working(app, lease_s=0.4, extend_s=0.13, sweep_s=0.05) as worker:
            await eventually(lambda: worker.beat().done == 1)
            # it has looked before its first sweep
            await eventually(lambda: is_served(app))
            before = await check_losses(app.broker, ["default"])
            own_server.ask("FLUSHALL")
            await task.enqueue()
            (finding,) = await eventually(lambda: check_losses(app.broker, ["default"]))
    assert before == []
    assert finding.level == "fault"
    assert "Redis lost all that it held of this queue" in finding.said
    (event,) = [line for line in logs if line["event"] == "broker.emptied"]
    assert event["log_level"] == "error"
    assert event["queues"] == ["default"]


@pytest.mark.parametrize(
    ("annotation", "expected"),
    [
        (str, True),
        (list[int], True),
        (int | str, True),
        (Literal["a"], True),
        (None, False),
        (type(None), False),
        (str | None, False),
        (Optional[int], False),  # noqa: UP045
        (Literal["a", None], False),
        (Any, False),
        (object, False),
    ],
)
def test_annotation_tells_whether_something_is_always_kept(annotation: Any, expected: bool):
    assert returns_a_value(annotation) is expected


async def test_slow_answer_is_not_taken_for_a_loss(app: App, monkeypatch: pytest.MonkeyPatch):
    """The first job of a queue, whose end is heard of late: its process was busy for a moment."""
    send = Pipeline.send

    async def send_and_hear_late(line: Pipeline, *words: Any, **limit: Any) -> list[Any]:
        replies = await send(line, *words, **limit)
        await asyncio.sleep(0.3)  # the fault: more than two clocks may differ over such a span
        return replies

    async with working(app) as worker:
        job = await app.task(_nothing).enqueue()
        await eventually(lambda: worker.beat().done == 1)
        monkeypatch.setattr(Pipeline, "send", send_and_hear_late)
        assert await job.status() is JobStatus.COMPLETED
        assert await job.result() is None
        assert await job.cancel() is False
        monkeypatch.undo()


async def test_queue_of_a_version_that_wrote_no_epoch_is_not_taken_for_lost(
    own_server: Server, app: App
):
    go = asyncio.Event()

    @app.task
    async def wait() -> None:
        await go.wait()

    async with working(app):
        job = await wait.enqueue()
        own_server.ask("HDEL", "{qcore:default}:meta", "epoch")
        result = asyncio.create_task(app.job(job.ref).result(timeout=30))
        await eventually(lambda: own_server.ask("HEXISTS", "{qcore:default}:waiters", job.id))
        go.set()
        assert await result is None


async def test_first_enqueue_to_a_queue_of_such_a_version_does_not_make_it_seem_lost(
    own_server: Server, app: App, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(results, "LOOK_S", 0.1)
    go = asyncio.Event()

    @app.task
    async def wait() -> None:
        await go.wait()

    job = await wait.enqueue()
    own_server.ask("HDEL", "{qcore:default}:meta", "epoch")
    own_server.ask("HSET", "{qcore:default}:meta", "fence", "1")
    async with working(app, lease_s=0.4, extend_s=0.13, sweep_s=0.05) as worker:
        result = asyncio.create_task(app.job(job.ref).result(timeout=30))
        await eventually(lambda: own_server.ask("HEXISTS", "{qcore:default}:waiters", job.id))
        await asyncio.sleep(0.3)  # more than two clocks may differ over such a span
        later = await app.task(_nothing).enqueue()
        assert own_server.ask("HGET", "{qcore:default}:meta", "epoch") == "0"
        go.set()
        assert await result is None
        assert await job.status() is JobStatus.COMPLETED
        await eventually(lambda: worker.beat().done == 2)
        assert await later.result() is None
        await eventually(lambda: is_served(app))
        assert await check_losses(app.broker, ["default"]) == []


async def test_epoch_of_since_ever_is_missed_when_it_is_gone(own_server: Server, app: App):
    task, epochs = app.task(_nothing), Epochs(app.broker, ("default",))
    own_server.ask("HSET", "{qcore:default}:meta", "fence", "1")
    await task.enqueue()
    assert await epochs.look() == []
    assert await epochs.look() == []
    own_server.ask("FLUSHALL")
    await task.enqueue()
    assert await epochs.look() == ["default"]
    (finding,) = await check_losses(app.broker, ["default"])
    assert "Redis lost all that it held of this queue" in finding.said


async def test_job_that_was_cleared_has_not_completed_whatever_the_clock_of_its_maker(
    app: App, monkeypatch: pytest.MonkeyPatch
):
    ahead = time.time_ns() + 3600 * 10**9
    monkeypatch.setattr(identity, "time_ns", lambda: ahead)
    job = await app.task(_nothing).enqueue()
    await asyncio.sleep(0.01)  # Redis counts milliseconds
    await app.inspector.clear("default")
    for ask in (job.status, job.result, job.cancel):
        with pytest.raises(JobNotFound, match="its queue was cleared"):
            await ask()


async def test_job_that_was_enqueued_after_a_clear_has_completed_whatever_the_clock_of_its_maker(
    app: App, monkeypatch: pytest.MonkeyPatch
):
    task, behind = app.task(_nothing), time.time_ns() - 3600 * 10**9
    await task.enqueue()
    await app.inspector.clear("default")
    await asyncio.sleep(0.3)  # more than two clocks may differ over such a span
    monkeypatch.setattr(identity, "time_ns", lambda: behind)
    async with working(app) as worker:
        job = await task.enqueue()
        await eventually(lambda: worker.beat().done == 1)
    assert await job.status() is JobStatus.COMPLETED
    assert await job.result() is None


@pytest.mark.parametrize("hours", [-1, 0, 1])
@pytest.mark.parametrize("function", [_fails, _fails_unannotated])
async def test_job_that_was_purged_has_not_completed_whatever_the_clock_of_its_maker(
    app: App, monkeypatch: pytest.MonkeyPatch, function: Any, hours: int
):
    task, then = app.task(function), time.time_ns() + hours * 3600 * 10**9
    monkeypatch.setattr(identity, "time_ns", lambda: then)
    async with working(app):
        job = await task.enqueue()
        await eventually(lambda: app.inspector.dead("default"))
    assert await app.inspector.purge("default", older_than_s=0) == 1
    for ask in (job.status, job.result, job.cancel):
        with pytest.raises(JobNotFound, match="dead jobs of its queue were purged at"):
            await ask()


async def test_purge_is_no_matter_of_jobs_that_are_enqueued_after_it(app: App):
    async with working(app) as worker:
        await app.task(_fails).enqueue()
        await eventually(lambda: app.inspector.dead("default"))
        assert await app.inspector.purge("default", older_than_s=0) == 1
        await asyncio.sleep(0.01)  # Redis counts milliseconds
        job = await app.task(_nothing).enqueue()
        await eventually(lambda: worker.beat().done == 2)
    assert await job.status() is JobStatus.COMPLETED
    assert await job.result() is None


async def test_job_that_is_purged_while_it_is_awaited(
    own_server: Server, app: App, monkeypatch: pytest.MonkeyPatch
):
    """Word of its death may be lost, or it is purged before the waiter has looked."""
    monkeypatch.setattr(results, "LOOK_S", 1.0)
    job = await app.task(_nothing).enqueue()
    result = asyncio.create_task(app.job(job.ref).result(timeout=30))
    await eventually(lambda: own_server.ask("HEXISTS", "{qcore:default}:waiters", job.id))
    own_server.ask("DEL", "{qcore:default}:ready", "{qcore:default}:waiters")
    own_server.ask("ZADD", "{qcore:default}:dead", "1", job.id)
    assert await app.inspector.purge("default", ids=[job.id]) == 1
    with pytest.raises(JobNotFound, match="dead jobs of its queue were purged at"):
        await result


async def test_purge_of_others_before_the_last_look_says_nothing_of_an_awaited_job(
    own_server: Server, app: App, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(results, "LOOK_S", 0.1)
    go = asyncio.Event()

    @app.task
    async def wait() -> None:
        await go.wait()

    async with working(app):
        job = await wait.enqueue()
        result = asyncio.create_task(app.job(job.ref).result(timeout=30))
        await eventually(lambda: own_server.ask("HEXISTS", "{qcore:default}:waiters", job.id))
        await app.task(_fails).enqueue()
        await eventually(lambda: app.inspector.dead("default"))
        assert await app.inspector.purge("default", older_than_s=0) == 1
        # later by more than two clocks may differ over such a span
        late_at = time.monotonic() + 0.2
        (waiter,) = app.broker._waiting._all()
        await eventually(lambda: waiter.last_seen_at > late_at)
        go.set()
        assert await result is None


async def test_many_results_of_nothing_take_no_round_trip_each(
    app: App, monkeypatch: pytest.MonkeyPatch
):
    task = app.task(_nothing)
    async with working(app) as worker:
        jobs = [await task.enqueue() for _ in range(300)]
        await eventually(lambda: worker.beat().done == len(jobs))
    sends, send = list[int](), Pipeline.send

    async def send_counted(line: Pipeline, commands: Any, **limit: Any) -> list[Any]:
        sends.append(len(commands))
        return await send(line, commands, **limit)

    monkeypatch.setattr(Pipeline, "send", send_counted)
    assert await asyncio.gather(*(job.result() for job in jobs)) == [None] * len(jobs)
    assert len(sends) < 20


# -- who waits in vain -----------------------------------------------------------------------------


async def test_wait_in_vain_says_where_the_job_stands(own_server: Server, app: App):
    task = app.task(_nothing)
    ready, scheduled = await task.enqueue(), await task.options(delay=600).enqueue()
    with pytest.raises(TimeoutError) as told:
        await ready.result(timeout=0.05)
    assert str(told.value) == (
        f"job {ready.ref} has not ended within 0.05 s: it is ready, one of 1 in its queue; no "
        "worker has ever served queue default"
    )
    now = int(own_server.ask("TIME")[0]) * 1000
    own_server.ask("HSET", "{qcore:default}:meta", "last_sweep", now - 300_000)
    with pytest.raises(TimeoutError, match=r"it is due in 10 min; no worker has served queue"):
        await asyncio.to_thread(scheduled.result_sync, 0.05)
    own_server.ask("HSET", "{qcore:default}:meta", "last_sweep", now)
    await app.inspector.pause("default")
    with pytest.raises(TimeoutError, match=r"it is ready.*; queue default is paused"):
        await ready.result(timeout=0.05)


async def test_wait_in_vain_for_a_job_that_runs(app: App):
    go = asyncio.Event()

    @app.task
    async def wait() -> None:
        await go.wait()

    async with working(app) as worker:
        job = await wait.enqueue()
        await eventually(lambda: worker.beat().running == 1)
        await eventually(lambda: is_served(app))
        with pytest.raises(TimeoutError, match="it is running; workers serve queue default"):
            await job.result(timeout=0.05)
        go.set()


async def is_served(app: App) -> bool:
    meta = app.broker._keys_of("default").names["meta"]
    return (await app.broker._ask([(b"HEXISTS", meta, b"last_sweep")])) == [1]
