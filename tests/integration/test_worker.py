"""One worker process: from a lease to an outcome, and what holds a lease meanwhile."""

import asyncio
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from qcore import App, Context, JobStatus, Retry
from qcore.broker.identity import new_owner
from tests.support.servers import Server
from tests.support.waiting import eventually
from tests.support.workers import LEASE_S, reached, record_of, working

SOON = Retry(max_attempts=3, backoff=[0.05, 0.2], jitter=0)


@pytest.fixture
async def app(redis_url: str, namespace: str) -> AsyncIterator[App]:
    async with App(redis_url, namespace=namespace, queues=("urgent", "default", "low")) as app:
        yield app


# -- where tasks run -------------------------------------------------------------------------------


async def test_async_task_runs_on_the_loop_of_the_worker(app: App):
    @app.task
    async def add(a: int, b: int) -> tuple[int, bool]:
        return a + b, threading.current_thread() is threading.main_thread()

    async with working(app):
        job = await add.enqueue(2, b=3)
        assert await job.result(timeout=10) == (5, True)
        assert await job.status() is JobStatus.COMPLETED


async def test_def_task_runs_in_a_thread(app: App):
    @app.task
    def add(a: int, b: int) -> tuple[int, bool]:
        return a + b, threading.current_thread() is threading.main_thread()

    async with working(app):
        assert await (await add.enqueue(2, b=3)).result(timeout=10) == (5, False)


async def test_context_tells_a_task_about_its_run(app: App):
    seen: list[Context] = []

    @app.task(queue="low", timeout=7, retry=SOON)
    async def look(ctx: Context, fail: bool) -> None:
        seen.append(ctx)
        if ctx.attempt == 1 and fail:
            raise ValueError

    before = datetime.now(UTC)
    async with working(app):
        job = await look.enqueue(fail=True)
        await job.result(timeout=10)
    first, second = seen
    after = datetime.now(UTC)
    assert {c.job_id for c in seen} == {job.id}
    assert (first.task, first.queue, first.attempt) == (look.name, "low", 1)
    assert second.attempt == 2
    assert first.enqueued_at == second.enqueued_at
    slack = timedelta(milliseconds=2)  # Redis counts whole ones
    assert before - slack <= first.enqueued_at <= first.claimed_at < second.claimed_at <= after
    assert first.deadline is not None
    assert timedelta(seconds=7) <= first.deadline - before < timedelta(seconds=17)
    assert not first.state


async def test_context_may_stand_anywhere_among_the_parameters(app: App):
    @app.task
    def look(a: int, ctx: Context, b: int = 5) -> list[Any]:
        return [a, ctx.job_id, b]

    async with working(app):
        job = await look.enqueue(1)  # pyright: ignore[reportCallIssue]
        assert await job.result(timeout=10) == [1, job.id, 5]


async def test_lifespan_surrounds_all_jobs_and_its_value_is_their_state(app: App):
    said: list[str] = []

    @app.lifespan
    async def life() -> AsyncIterator[dict[str, int]]:
        said.append("in")
        yield {"answer": 42}
        said.append("out")

    @app.task
    async def ask(ctx: Context) -> int:
        said.append("job")
        return ctx.state["answer"]

    async with working(app):
        assert await (await ask.enqueue()).result(timeout=10) == 42
        assert said == ["in", "job"]
    assert said == ["in", "job", "out"]


async def test_task_can_enqueue_other_jobs(app: App):
    @app.task
    async def child(n: int) -> int:
        return n * 2

    @app.task
    async def parent() -> list[str]:
        return [(await child.enqueue(n)).ref for n in range(3)]

    async with working(app):
        refs = await (await parent.enqueue()).result(timeout=10)
        assert [await app.job(ref).result(timeout=10) for ref in refs] == [0, 2, 4]


async def test_slots_and_threads_bound_what_runs_at_a_time(app: App):
    running, most = {"loop": 0, "thread": 0}, {"loop": 0, "thread": 0}
    lock = threading.Lock()
    # none goes on before as many run as may
    five, two = asyncio.Barrier(5), threading.Barrier(2)

    def count(where: str, change: int) -> None:
        with lock:
            running[where] += change
            most[where] = max(most[where], running[where])

    @app.task
    async def on_loop() -> None:
        count("loop", 1)
        await five.wait()
        await asyncio.sleep(0.05)  # time for one too many
        count("loop", -1)

    @app.task
    def in_thread() -> None:
        count("thread", 1)
        two.wait(10)
        time.sleep(0.05)  # time for one too many
        count("thread", -1)

    await on_loop.enqueue_many(() for _ in range(20))
    jobs = [await in_thread.enqueue() for _ in range(10)]
    async with working(app, concurrency=5, threads=2):
        for job in jobs:
            await job.result(timeout=10)
    assert most["loop"] == 5
    assert most["thread"] == 2


# -- order and time --------------------------------------------------------------------------------


async def test_queues_are_served_in_strict_order(app: App):
    order: list[str] = []

    @app.task
    async def note(name: str) -> None:
        order.append(name)
        await asyncio.sleep(0.01)

    for queue in ("low", "default", "urgent"):
        for i in range(3):
            await note.options(queue=queue).enqueue(f"{queue} {i}")
    async with working(app, concurrency=1):
        await eventually(lambda: len(order) == 9)
    assert order == [f"{queue} {i}" for queue in ("urgent", "default", "low") for i in range(3)]


async def test_scheduled_job_starts_when_due_however_long_a_worker_blocks(app: App):
    @app.task
    async def when(ctx: Context) -> float:
        return (ctx.claimed_at - ctx.enqueued_at).total_seconds()

    async with working(app, block_s=30, lease_s=180) as worker:
        # in this order each one is the next, or is not
        jobs = {s: await when.options(delay=s).enqueue() for s in (0.9, 0.3, 0.6)}
        for delay_s, job in jobs.items():
            assert await job.result(timeout=20) >= delay_s
        assert worker.beat().done == 3


async def test_eta_is_a_time_on_the_clock(app: App):
    @app.task
    async def when(ctx: Context) -> float:
        return ctx.claimed_at.timestamp()

    eta = datetime.now(UTC) + timedelta(seconds=0.5)
    async with working(app, block_s=30, lease_s=180):
        job = await when.options(eta=eta).enqueue()
        # Redis counts whole milliseconds
        assert -0.001 <= await job.result(timeout=10) - eta.timestamp() < 0.5


# -- leases ----------------------------------------------------------------------------------------


async def test_job_longer_than_its_lease_runs_once(app: App):
    runs: list[str] = []

    @app.task
    async def long(ctx: Context) -> None:
        runs.append(ctx.job_id)
        await asyncio.sleep(2.5 * LEASE_S)

    async with working(app), working(app):
        jobs = [await long.enqueue() for _ in range(5)]
        for job in jobs:
            await job.result(timeout=10)
    assert sorted(runs) == sorted(job.id for job in jobs)


async def test_lease_that_was_taken_away_cancels_the_job(app: App):
    said: list[str] = []

    @app.task
    async def slow(ctx: Context) -> str:
        said.append("start")
        try:
            await asyncio.sleep(60 if said == ["start"] else 0)
        except asyncio.CancelledError:
            said.append("cancelled")
            raise
        said.append("end")
        return "done"

    owner = new_owner()
    async with working(app, owner=owner) as worker:
        job = await slow.enqueue()
        await eventually(lambda: said == ["start"])
        back = await app.broker.reclaim_owner(["default"], owner, charge=False, crash_limit=9)
        (taken,) = back["default"]
        assert (taken.id, taken.to) == (job.id, "ready")
        assert await job.result(timeout=10) == "done"
        await eventually(lambda: worker.beat().running == 0)
    assert said.count("start") == 2
    assert said.count("cancelled") == 1
    assert said.count("end") == 1


async def test_outcome_that_comes_after_the_lease_was_lost_changes_nothing(app: App):
    go = asyncio.Event()

    @app.task
    async def wait(ctx: Context) -> int:
        await go.wait()
        return ctx.attempt

    owner = new_owner()
    async with working(app, owner=owner, lease_s=30, extend_s=10, sweep_s=5):
        job = await wait.enqueue()
        await reached(app, job, JobStatus.ACTIVE)
        token = (await record_of(app, job)).token
        await app.broker.reclaim_owner(["default"], owner, charge=False, crash_limit=9)
        await eventually(lambda: is_leased_anew(app, job, token))
        go.set()  # both runs end; the first one has no lease
        assert await job.result(timeout=10) == 1
    (stats,) = await app.inspector.queues(["default"])
    assert (stats.ready, stats.scheduled, stats.active, stats.dead) == (0, 0, 0, 0)


async def is_leased_anew(app: App, job, token: str | None) -> bool:
    record = await app.inspector.job(job.queue, job.id)
    return record is not None and record.token not in (None, token)


# -- the end ---------------------------------------------------------------------------------------


async def test_drain_finishes_what_runs_and_claims_nothing_more(app: App):
    told: list[bool] = []
    go = asyncio.Event()

    @app.task
    async def slow(ctx: Context) -> str:
        told.append(ctx.shutdown_requested)
        await go.wait()
        told.append(ctx.shutdown_requested)
        return "done"

    async with working(app) as worker:
        job = await slow.enqueue()
        await eventually(lambda: told)
        worker.drain()
        late = await slow.enqueue()
        await eventually(lambda: has_wakeup(app, "default"))  # it was woken, and hands it back
        go.set()
        assert await job.result(timeout=10) == "done"
    assert told == [False, True]
    assert await late.status() is JobStatus.READY


async def test_stop_now_releases_what_runs_to_the_head_uncharged(app: App):
    started: list[str] = []

    @app.task
    async def slow(ctx: Context) -> None:
        started.append(ctx.job_id)
        await asyncio.sleep(60)

    jobs = [await slow.enqueue() for _ in range(4)]
    async with working(app, concurrency=2) as worker:
        await eventually(lambda: len(started) == 2)
        worker.stop_now()
    keys = app.broker._keys_of("default").names
    (ids,) = await app.broker._ask([(b"LRANGE", keys["ready"], 0, -1)])
    assert [id.decode() for id in ids] == [job.id for job in jobs]
    record = await record_of(app, jobs[0])
    assert (record.attempts, record.crashes, record.errors) == (0, 0, ())


async def test_worker_that_stops_leaves_a_wakeup_for_the_next_one(app: App):
    @app.task
    async def quick() -> None: ...

    async with working(app) as worker:
        await (await quick.enqueue()).result(timeout=10)
        await eventually(lambda: worker.beat().done == 1)
    assert all([await has_wakeup(app, queue) for queue in app.queues])


async def has_wakeup(app: App, queue: str) -> bool:
    (count,) = await app.broker._ask([(b"ZCARD", app.broker._keys_of(queue).names["wakeup"])])
    return count == 1


async def test_draining_worker_takes_no_job_that_another_one_waits_for(own_server: Server):
    go, began = asyncio.Event(), asyncio.Event()
    # neither the end of a block nor a sweep helps
    rare: dict[str, Any] = {"block_s": 60, "lease_s": 360, "extend_s": 40, "sweep_s": 30}

    def blocked() -> int:
        return own_server.ask("INFO", "clients")["blocked_clients"]

    async with App(own_server.url) as app, App(own_server.url) as second:

        @app.task
        async def slow() -> None:
            await go.wait()

        @app.task
        async def quick() -> None:
            began.set()

        second.tasks.update(app.tasks)
        async with working(app, **rare, shutdown_timeout_s=20) as leaving:
            job = await slow.enqueue()
            await reached(app, job, JobStatus.ACTIVE)
            await eventually(lambda: blocked() == 1)
            leaving.drain()  # it has free slots, and has been blocking for longer than any other
            await eventually(lambda: blocked() == 0)
            async with working(second, **rare):
                await eventually(lambda: blocked() == 1)
                await quick.enqueue()
                await asyncio.wait_for(began.wait(), 10)  # while the first one is still there
                go.set()
                await job.result(timeout=10)


async def test_queues_with_weights_share_the_slots_and_strict_ones_do_not(
    server_url: str, namespace: str
):
    async with App(server_url, namespace=namespace, queues=("a", "b")) as app:
        began: list[str] = []

        @app.task(queue="a")
        async def work(queue: str) -> None:
            began.append(queue)

        async def first(count: int, **settings: Any) -> Counter[str]:
            began.clear()
            for queue in app.queues:
                await work.options(queue=queue).enqueue_many((queue,) for _ in range(3_000))
            async with working(app, concurrency=20, **settings):
                await eventually(lambda: len(began) == 6_000, 60)
            return Counter(began[:count])

        shared = await first(3_000, weights=(5, 1))
        assert shared["a"] / shared["b"] == pytest.approx(5, rel=0.1)
        assert await first(3_000) == {"a": 3_000}
