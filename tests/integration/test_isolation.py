"""What one job leaves to the next one of its process, and to the children of its process."""

import os
import random
import signal
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from qcore import App, JobStatus
from qcore.runtime.host.machine import stat_of
from qcore.runtime.pool.isolation import Isolation
from tests.support import process_tasks as tasks
from tests.support.fleet import Fleet, fleet_on
from tests.support.waiting import eventually
from tests.support.workers import dead, reached, working

on_linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


@pytest.fixture
async def app(redis_url: str, namespace: str) -> AsyncIterator[App]:
    tasks.app.configure(url=redis_url, namespace=namespace)
    async with tasks.app as app:
        yield app


async def result_of(task: Any, *args: Any) -> Any:
    return await (await task.enqueue(*args)).result(timeout=20)


async def pid_in(path: Path) -> int:
    return int(await eventually(lambda: path.exists() and path.read_text(), 20))


def is_gone(pid: int) -> bool:
    return stat_of(pid)[:1] in ([], [b"Z"])


async def test_socket_timeout_that_the_app_has_set_is_none_of_the_pool(app: App):
    """It is the default of every socket, also of those between a worker and its processes."""
    socket.setdefaulttimeout(0.2)
    try:
        async with working(app):
            assert await result_of(tasks.pid) != os.getpid()
    finally:
        socket.setdefaulttimeout(None)


# -- from job to job ---------------------------------------------------------------------------


async def test_job_of_a_process_finds_nothing_of_the_one_before(app: App):
    async with working(app):
        before = await result_of(tasks.look_around)
        assert await result_of(tasks.change_everything) == before["pid"]
        assert await result_of(tasks.draw) != random.Random(7).random()
        assert await result_of(tasks.look_around) == before


def test_stream_of_an_app_need_not_be_a_file(monkeypatch: pytest.MonkeyPatch):
    """As what sends lines elsewhere: it has `write`, and nothing else."""
    monkeypatch.setattr(sys, "stdout", SimpleNamespace(write=print))
    assert Isolation().restore() == ""


@pytest.mark.parametrize("task", [tasks.close_output, tasks.point_output_elsewhere])
async def test_process_whose_output_a_job_has_taken_away_is_not_used_again(app: App, task: Any):
    async with working(app):
        assert await result_of(task) != await result_of(tasks.pid)


async def test_process_with_a_thread_that_a_job_has_left_is_not_used_again(app: App):
    async with working(app):
        first = await result_of(tasks.leave_a_thread, False)
        second = await result_of(tasks.pid)
        assert second != first
        await eventually(lambda: is_gone(first))


async def test_process_with_a_thread_in_the_background_is_used_again(app: App):
    """As clients of other servers start them, to keep them."""
    async with working(app):
        first = await result_of(tasks.leave_a_thread, True)
        assert await result_of(tasks.pid) == first


CHANGES = """
import asyncio, contextvars, decimal
from qcore import Retry

VARIABLE = contextvars.ContextVar("VARIABLE")
VARIABLE.set("of the app")
decimal.getcontext().prec = 12

def change():
    found = [VARIABLE.get(), decimal.getcontext().prec]
    VARIABLE.set("changed")
    decimal.getcontext().prec = 3
    return found

@app.task
async def on_loop() -> list: return change()
@app.task
def in_thread() -> list: return change()
@app.task(run_in="process")
def in_process() -> list: return change()
"""


@pytest.mark.parametrize("place", ["on_loop", "in_thread", "in_process"])
async def test_each_job_has_the_context_that_the_app_has_set_and_no_other(fleet: Fleet, place: str):
    fleet.write_tasks("shop", CHANGES)
    fleet.start(processes=1, app="shop:app")

    async def ask() -> list[Any]: ...

    async with fleet.producer() as producer:
        task = producer.app.task(name=f"shop.{place}", queue="default")(ask)
        for _ in range(3):
            assert await result_of(task) == ["of the app", 12]


# -- from a process to its children ------------------------------------------------------------


async def test_child_of_a_process_task_reads_no_requests(app: App):
    async with working(app):
        assert await result_of(tasks.read_standard_input_in_a_child) == ""


async def test_children_of_a_process_task_can_be_terminated(app: App):
    async with working(app):
        assert await result_of(tasks.terminate_a_program) == -signal.SIGTERM
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
            assert await result_of(tasks.terminate_a_fork, number) == -number
        assert await result_of(tasks.use_a_forking_pool) == [1, 2]


@on_linux
async def test_children_of_a_process_task_have_none_of_its_descriptors(app: App):
    async with working(app):
        assert not [to for to in await result_of(tasks.descriptors_of_a_program) if ":[" in to]
        assert not [to for to in await result_of(tasks.descriptors_of_a_fork) if ":[" in to]


WORKER_TASKS = """
import multiprocessing, os
from tests.support.process_tasks import descriptors_of_children, terminate_a_fork

@app.task
def use_a_forking_pool() -> list[int]:
    with multiprocessing.get_context("fork").Pool(2) as pool:
        return pool.map(abs, [-1, -2])

@app.task
async def terminate_one() -> int:
    return terminate_a_fork.function(15)

@app.task
async def descriptors() -> list[str]:
    return descriptors_of_children(forks=False)
"""


@on_linux
async def test_children_of_a_worker_have_neither_its_signals_nor_its_descriptors(fleet: Fleet):
    fleet.write_tasks("shop", WORKER_TASKS)
    command = fleet.start(processes=1, app="shop:app")
    (pid,) = await command.ready(1)

    async def ask() -> Any: ...

    async with fleet.producer() as producer:

        async def told(name: str) -> Any:
            task = producer.app.task(name=f"shop.{name}", queue="default")(ask)
            return await result_of(task)

        assert await told("use_a_forking_pool") == [1, 2]
        assert await told("terminate_one") == -signal.SIGTERM
        assert not [to for to in await told("descriptors") if ":[" in to]
    # a signal to a fork was none to the worker
    assert command.workers() == [pid]
    assert not command.events("worker.draining")


# -- when a process ends -----------------------------------------------------------------------


@on_linux
async def test_timeout_ends_what_a_process_task_has_started(app: App, tmp_path: Path):
    async with working(app):
        await result_of(tasks.pid)  # the process is there
        job = await tasks.start_a_child_and_hang.enqueue(str(tmp_path / "pid"))
        assert (await dead(app, job, 20)).errors[0].kind == "JobTimedOut"
        child = await pid_in(tmp_path / "pid")
        await eventually(lambda: is_gone(child))


@on_linux
async def test_cancel_ends_what_a_process_task_has_started(app: App, tmp_path: Path):
    async with working(app):
        job = await tasks.start_a_child_and_wait.enqueue(str(tmp_path / "pid"))
        child = await pid_in(tmp_path / "pid")
        await job.cancel()
        await reached(app, job, JobStatus.CANCELLED, 20)
        await eventually(lambda: is_gone(child))


@on_linux
async def test_process_that_dies_takes_along_what_its_task_has_started(app: App, tmp_path: Path):
    async with working(app):
        job = await tasks.start_a_child_and_die.enqueue(str(tmp_path / "pid"))
        assert (await dead(app, job, 20)).errors[0].kind == "ProcessDied"
        child = await pid_in(tmp_path / "pid")
        await eventually(lambda: is_gone(child))


@on_linux
async def test_worker_that_leaves_ends_what_its_processes_have_started(app: App, tmp_path: Path):
    async with working(app):
        await result_of(tasks.start_a_child, str(tmp_path / "pid"))
        child = await pid_in(tmp_path / "pid")
        assert not is_gone(child)
    await eventually(lambda: is_gone(child))


HOLDS = """
import re
from tests.support.process_tasks import started_a_child

@app.task(run_in="process")
def hold(path: str) -> None:
    started_a_child(path)
    re.match(r"(a+)+$", "a" * 64 + "b")  # which takes longer than the universe has stood
"""


@on_linux
@pytest.mark.parametrize("dies", ["worker", "both"])
async def test_killed_worker_takes_along_a_process_that_hears_nothing(
    tmp_path: Path, redis_url: str, namespace: str, dies: str
):
    """Not even a thread of it runs while its task holds the interpreter."""
    with fleet_on(tmp_path, redis_url, namespace) as fleet:
        fleet.write_tasks("shop", HOLDS)
        command = fleet.start(processes=1, app="shop:app")
        (worker,) = await command.ready(1)

        async def hold(path: str) -> None: ...

        async with fleet.producer() as producer:
            task = producer.app.task(name="shop.hold", queue="default")(hold)
            await task.enqueue(str(tmp_path / "pid"))
            child = await pid_in(tmp_path / "pid")
            pool = int(stat_of(child)[1])
            assert not is_gone(pool)
            if dies == "both":
                os.kill(command.pid, signal.SIGKILL)
            fleet.kill_worker(worker)
            await eventually(lambda: is_gone(pool) and is_gone(child))
