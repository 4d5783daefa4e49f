"""Tasks that run in a process of their own."""

import os
import re
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from qcore import App, JobStatus, ResultExpired
from qcore.runtime.worker import process_pool
from tests.support import process_tasks as tasks
from tests.support.fleet import fleet_on
from tests.support.process_tasks import Page
from tests.support.waiting import eventually
from tests.support.workers import dead, reached, working


@pytest.fixture
async def app(redis_url: str, namespace: str) -> AsyncIterator[App]:
    tasks.app.configure(url=redis_url, namespace=namespace)
    async with tasks.app as app:
        yield app


def len_of(text: str) -> int:
    return len(text)


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def test_process_task_takes_and_returns_annotated_types(app: App):
    async with working(app):
        job = await tasks.number_of.enqueue(Page(1, ["a", "b"]))
        assert await job.result(timeout=20) == Page(2, ["a", "b", "the end"])


async def test_process_task_keeps_what_other_tasks_keep(app: App):
    async with working(app) as worker:
        jobs = [await task.enqueue() for task in (tasks.nothing, tasks.not_kept, tasks.pid)]
        await eventually(lambda: worker.beat().done == 3, 20)
        assert await jobs[0].result(timeout=10) is None
        with pytest.raises(ResultExpired, match="keep=0"):
            await jobs[1].result(timeout=10)
        assert await jobs[2].result(timeout=10)
    (kept,) = await app.broker._ask([(b"HLEN", app.broker._keys_of("default").names["done"])])
    assert kept == 1


async def test_exception_of_a_process_whose_text_is_no_text_is_its_own(app: App):
    async with working(app):
        record = await dead(app, await tasks.fail_with_no_text.enqueue())
        assert record.errors[-1].reason == "ValueError: no file a?"


async def test_process_task_knows_the_facts_of_its_run(app: App):
    async with working(app):
        job = await tasks.facts.enqueue()
        assert await job.result(timeout=20) == [job.id, "default", 1, None, False]


async def test_process_is_used_again_and_ends_with_its_worker(app: App):
    async with working(app):
        jobs = [await tasks.pid.enqueue() for _ in range(5)]
        pids = {await job.result(timeout=20) for job in jobs}
        assert len(pids) == 1
        assert is_alive(*pids)
        assert os.getpid() not in pids
    assert not is_alive(*pids)


async def test_pool_runs_as_many_at_a_time_as_it_has_processes(app: App):
    async with working(app, pool_size=2):
        jobs = [await tasks.span.enqueue(0.3) for _ in range(6)]
        spans = [await job.result(timeout=30) for job in jobs]
    together = [sum(a <= began < b for a, b in spans) for began, _ in spans]
    assert max(together) == 2


async def test_workers_share_a_queue_of_process_tasks_by_what_their_pools_can_run(
    tmp_path: Path, redis_url: str, namespace: str
):
    """A worker claims from such a queue only what its pool can start."""
    with fleet_on(tmp_path, redis_url, namespace) as fleet:
        async with fleet.producer() as producer:
            for _ in range(2):
                await producer.send("work_in_process_only", 4.0)
            fleet.start(processes=2)
            await fleet.emptied(60)
            first, second = (found[0] for found in fleet.runs().values())
            assert first.ended_at is not None
            assert second.started_at < first.ended_at, "one worker had both, the other none"


async def test_worker_that_refused_a_queue_hears_of_its_next_job_soon(
    tmp_path: Path, redis_url: str, namespace: str
):
    with fleet_on(tmp_path, redis_url, namespace) as fleet:
        command = fleet.start_with(processes=1, block_s=60.0)
        await command.ready(1)
        async with fleet.producer() as producer:
            for _ in range(2):  # the wakeup of the second comes while the pool is full
                await producer.send("work_in_process_only", 0.5)
                await eventually(lambda: fleet.runs(), 10)
            await fleet.emptied(10)
            await producer.send("work_in_process_only")
            await fleet.emptied(20)


async def test_process_that_runs_too_long_is_killed(app: App, tmp_path: Path):
    async with working(app):
        await (await tasks.pid.enqueue()).result(timeout=20)  # the process is there
        record = await dead(app, await tasks.hang.enqueue(str(tmp_path / "pid")))
        assert record.errors[0].kind == "JobTimedOut"
        took_ms = record.errors[0].ended_ms - record.errors[0].started_ms
        assert 500 <= took_ms < 30_000
        assert not is_alive(int((tmp_path / "pid").read_text()))
        assert await (await tasks.pid.enqueue()).result(timeout=20)


async def test_process_that_runs_too_long_is_gone_although_a_child_of_it_lives(
    app: App, tmp_path: Path
):
    async with working(app):
        await (await tasks.pid.enqueue()).result(timeout=20)  # the process is there
        record = await dead(app, await tasks.hang_with_a_child.enqueue(str(tmp_path / "pid")), 20)
        child = int((tmp_path / "pid").read_text())
        assert is_alive(child)
        os.kill(child, signal.SIGKILL)
    assert record.errors[0].kind == "JobTimedOut"


async def test_exception_in_a_process_keeps_its_kind_and_trace(app: App):
    async with working(app):
        record = await dead(app, await tasks.fail.enqueue(), 20)
    assert [error.kind for error in record.errors] == ["ValueError"] * 2
    assert [error.attempt for error in record.errors] == [1, 2]
    text = record.errors[0].text
    assert "process_tasks.py" in text
    assert "in fail" in text
    assert "qcore/runtime" not in text
    assert record.reason == "ValueError: out of paper at attempt 2"


async def test_give_up_and_retry_later_cross_the_pipe(app: App):
    async with working(app):
        gone = await tasks.give_up.enqueue()
        charged = await tasks.later.enqueue(charge=True)
        uncharged = await tasks.later.enqueue(charge=False)
        assert (await dead(app, gone, 20)).reason == "no such customer"
        grouped = await dead(app, await tasks.give_up_in_a_group.enqueue())
        assert (grouped.reason, grouped.attempts) == ("no such customer", 1)
        several = await dead(app, await tasks.fail_in_several_lines.enqueue())
        assert several.reason == "ValueError: bad: in two lines"
        assert (await dead(app, charged)).attempts == 2
        record = await reached(app, uncharged, JobStatus.SCHEDULED)
        assert record.attempts == 0


@pytest.mark.parametrize("how", ["SIGKILL", "_exit"])
async def test_process_that_dies_is_a_failed_attempt_and_is_replaced(app: App, how: str):
    async with working(app):
        job = await tasks.die_once.enqueue(how)
        assert is_alive(await job.result(timeout=20))


@pytest.mark.parametrize(
    ("how", "end"), [("SIGKILL", "was ended by SIGKILL"), ("_exit", "exited with 7")]
)
async def test_record_says_how_the_process_of_a_task_ended(app: App, how: str, end: str):
    async with working(app):
        record = await dead(app, await tasks.die.enqueue(how), 20)
    said = rf"the process of the task \(pid \d+, at most \d+ MB of memory\) {end}"
    assert re.fullmatch(f"ProcessDied: {said}", str(record.reason))


async def test_what_a_process_task_prints_does_not_disturb_its_reply(app: App):
    async with working(app):
        assert await (await tasks.chatty.enqueue()).result(timeout=20) == "done"


@pytest.mark.parametrize(("how", "code"), [("returns", 0), ("exits", 3), ("raises", 1)])
async def test_child_that_a_process_task_forks_and_that_comes_back_ends_as_programs_do(
    app: App, tmp_path: Path, how: str, code: int
):
    """It has no caller, and its reply must not end up in a file that it has opened."""
    async with working(app):
        job = await tasks.fork.enqueue(str(tmp_path / "file"), how)
        assert await job.result(timeout=20) == code
    assert (tmp_path / "file").read_bytes() == b"grandchild child"


async def test_large_results_cross_the_pipe_up_to_the_limit(app: App):
    async with working(app):
        assert len(await (await tasks.large.enqueue(100_000)).result(timeout=20)) == 100_000
        record = await dead(app, await tasks.large_retried.enqueue(1_000_000), 20)
        assert (record.errors[0].kind, record.attempts) == ("ResultError", 1)


async def test_result_that_is_too_large_does_not_cross_the_pipe(
    app: App, monkeypatch: pytest.MonkeyPatch
):
    """Nor does one that is not kept: the worker would hold what nobody wants."""
    replies: list[int] = []
    unpack = process_pool._unpack

    def record(reply: process_pool.Reply) -> bytes:
        replies.append(len(process_pool.encode(reply)))
        return unpack(reply)

    monkeypatch.setattr(process_pool, "_unpack", record)
    async with working(app):
        await dead(app, await tasks.large.enqueue(50_000_000), 20)
        job = await tasks.large.options(keep=0).enqueue(50_000_000)
        with pytest.raises(ResultExpired):
            await job.result(timeout=20)
    assert len(replies) == 3  # the first one says that the process has loaded its app
    assert max(replies) < 1000


async def test_process_task_is_found_by_its_name_whatever_it_was_registered_from(app: App):
    async with working(app):
        for task in (tasks.renamed, tasks.decorated, tasks.plain, tasks.partial, tasks.method):
            assert await (await task.enqueue(2)).result(timeout=20) == 4, task.name


@pytest.mark.parametrize("once", [False, True])
async def test_process_task_that_only_its_worker_knows_is_parked_and_not_charged(
    app: App, once: bool
):
    """As after a deploy: a process that starts now imports other code than its worker did."""
    late = app.task(name="late", run_in="process", at_most_once=once)(len_of)
    async with working(app):
        job = await late.enqueue("abc")
        record = await reached(app, job, JobStatus.SCHEDULED, 20)
    assert (record.attempts, record.errors[0].kind) == (0, "Parked")
    assert "the process of the task does not know late" in record.errors[0].text
    del app.tasks["late"]


async def test_process_task_that_returns_work_nobody_did_is_dead(app: App):
    async with working(app):
        record = await dead(app, await tasks.lazy.enqueue(), 20)
    assert (record.errors[0].kind, record.attempts) == ("ResultError", 1)
    assert "returned a coroutine, which is yet to be run" in str(record.reason)


async def test_stop_now_kills_a_busy_process_and_releases_its_job(app: App, tmp_path: Path):
    async with working(app) as worker:
        job = await tasks.run_on.enqueue(str(tmp_path / "pid"))
        await eventually((tmp_path / "pid").exists, 20)
        pid = int((tmp_path / "pid").read_text())
        worker.stop_now()
        record = await reached(app, job, JobStatus.READY)
    assert (record.attempts, record.crashes) == (0, 0)
    assert not is_alive(pid)
