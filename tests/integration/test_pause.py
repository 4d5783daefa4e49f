"""Paused and closed queues under workers and producers."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from qcore import App, Context, JobStatus, QueueClosed, Retry
from tests.support.fleet import fleet_on
from tests.support.waiting import eventually
from tests.support.workers import working

#: So long that nothing but a wakeup, or a known time, wakes an idle worker in these tests.
NEVER: dict[str, Any] = {"block_s": 60.0, "lease_s": 360.0}


@pytest.fixture
async def app(redis_url: str, namespace: str) -> AsyncIterator[App]:
    async with App(redis_url, namespace=namespace, queues=("urgent", "default", "low")) as app:
        yield app


async def test_pause_holds_ready_jobs_back_while_those_that_run_finish(app: App):
    going = asyncio.Event()
    ran: list[str] = []

    @app.task
    async def work(name: str) -> None:
        ran.append(name)
        if name == "first":
            await going.wait()

    async with working(app, **NEVER):
        first = await work.enqueue("first")
        await eventually(lambda: ran)
        await app.inspector.pause("default", reason="a look at it")
        waiting = [await work.enqueue(f"{n}") for n in range(3)]
        # each of these is taken by a claim that passes the paused queue
        for n in range(3):
            probe = work.options(queue="low")
            await (await probe.enqueue(f"low {n}")).result(timeout=10)
        assert ran == ["first", "low 0", "low 1", "low 2"]
        going.set()
        await first.result(timeout=10)
        assert {await job.status() for job in waiting} == {JobStatus.READY}
        await app.inspector.resume("default")
        for job in waiting:
            await job.result(timeout=10)
    assert ran[4:] == ["0", "1", "2"]


async def test_resume_wakes_an_idle_worker_also_for_what_is_scheduled(app: App):
    @app.task
    async def work() -> None: ...

    async with working(app, **NEVER):
        await app.inspector.pause("default")
        soon = await work.enqueue()
        later = await work.options(delay=0.5).enqueue()
        await (await work.options(queue="low").enqueue()).result(timeout=10)
        await app.inspector.resume("default")
        await soon.result(timeout=10)
        await later.result(timeout=10)


async def test_pause_with_a_time_ends_by_itself(app: App):
    @app.task
    async def work(ctx: Context) -> int:
        return round(ctx.claimed_at.timestamp() * 1000)

    async with working(app, **NEVER):
        pause = await app.inspector.pause("default", for_=0.7)
        claimed_ms = await (await work.enqueue()).result(timeout=10)
    assert pause.until_ms is not None
    assert claimed_ms >= pause.until_ms


async def test_other_queues_keep_their_order_and_slots(app: App):
    ran: list[str] = []

    @app.task
    async def work(name: str) -> None:
        ran.append(name)

    await app.inspector.pause("urgent")
    jobs = [
        await work.options(queue=queue).enqueue(f"{queue} {n}")
        for queue in ("low", "default", "urgent")
        for n in range(2)
    ]
    async with working(app, concurrency=1, **NEVER):
        for job in jobs[:4]:
            await job.result(timeout=10)
        assert ran == ["default 0", "default 1", "low 0", "low 1"]
        await app.inspector.resume("urgent")
        for job in jobs[4:]:
            await job.result(timeout=10)
    assert ran[4:] == ["urgent 0", "urgent 1"]


async def test_quarantined_job_of_a_paused_queue_gets_no_process_until_it_is_resumed(
    tmp_path: Path, redis_url: str, namespace: str
):
    with fleet_on(tmp_path, redis_url, namespace) as fleet:
        command = fleet.start(processes=1, lease=30)
        async with fleet.producer() as producer:
            number, inspector = fleet.history.number(), producer.app.inspector
            job = await producer.task("work").enqueue(number, 1.0)
            for run in range(2):
                found = await eventually(lambda n=run: fleet.runs().get(number, [])[n:], 30)
                if run:
                    await inspector.pause("default")
                fleet.kill_worker(found[0].pid)

            async def is_quarantined() -> bool:
                (stats,) = await inspector.queues(["default"])
                return stats.quarantined == 1

            await eventually(is_quarantined, 30)
            # as long as two beats of the worker, which tell its supervisor of quarantined jobs
            await producer.task("work").options(queue="low").enqueue(fleet.history.number(), 2.0)
            await eventually(lambda: len(fleet.done()) == 1, 30)
            spawned = [event["worker"] for event in command.events("worker.spawned")]
            assert not any("quarantine" in worker for worker in spawned)
            await inspector.resume("default")
            await job.result(timeout=30)
            spawned = [event["worker"] for event in command.events("worker.spawned")]
            assert any("quarantine" in worker for worker in spawned)


# -- closed ----------------------------------------------------------------------------------------


async def test_closed_queue_refuses_every_kind_of_enqueue_and_no_other_queue(app: App):
    @app.task
    async def work(n: int) -> None: ...

    await app.inspector.close_queue("default")
    with pytest.raises(QueueClosed, match=r"^queue default is closed since .* nothing was"):
        await work.enqueue(1)
    with pytest.raises(QueueClosed):
        await work.options(delay=60).enqueue(1)
    with pytest.raises(QueueClosed) as refused:
        await work.enqueue_many((n,) for n in range(700))
    assert refused.value.__notes__ == ["0 jobs were enqueued before"]
    with pytest.raises(QueueClosed):
        await asyncio.to_thread(work.enqueue_sync, 1)
    await work.options(queue="low").enqueue(1)
    assert [q.ready for q in await app.inspector.queues(["default", "low"])] == [0, 1]
    await app.inspector.resume("default")
    assert await work.enqueue_many((n,) for n in range(700)) == 700


async def test_jobs_of_a_closed_queue_run_and_are_tried_again(app: App):
    @app.task(retry=Retry(max_attempts=2, backoff=[0.05], jitter=0))
    async def work(ctx: Context) -> int:
        if ctx.attempt == 1:
            await app.inspector.close_queue("default")
            raise ValueError
        return ctx.attempt

    async with working(app):
        job = await work.enqueue()
        assert await job.result(timeout=10) == 2
    with pytest.raises(QueueClosed):
        await work.enqueue()
