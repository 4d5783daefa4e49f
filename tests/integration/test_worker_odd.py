"""Odd things that tasks and their surroundings do, none of which may cost a worker a slot."""

import math
import os
import signal

import pytest

from qcore import App, ConfigError, Retry, RetryLater
from qcore.runtime.processes import signal_name
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
