"""How jobs that failed are told of: to operators, and to those who await them."""

import asyncio
import pickle

import pytest

from qcore import App, GiveUp, JobFailed, JobStatus, Retry, RetryLater
from tests.support.waiting import eventually
from tests.support.workers import dead, working

ONCE = Retry(max_attempts=1)


async def test_failure_of_a_job_says_why_and_shows_no_path_of_the_server(app: App):
    @app.task(retry=Retry(max_attempts=2, backoff=0, jitter=0))
    async def pay() -> None:
        try:
            raise ConnectionError("refused")
        except ConnectionError as e:
            raise RuntimeError("no payment\nfor order 7") from e

    async with working(app):
        job = await pay.enqueue()
        with pytest.raises(JobFailed) as told:
            await job.result(timeout=20)
    error = told.value
    reason = "RuntimeError: no payment: for order 7; caused by ConnectionError: refused"
    assert str(error) == f"job {job.ref} is dead: {reason}"
    assert (error.reason, error.kind, error.attempts) == (reason, "RuntimeError", 2)
    assert __file__ in error.trace
    assert "raise RuntimeError" in error.trace
    same = pickle.loads(pickle.dumps(error))
    assert (str(same), vars(same)) == (str(error), vars(error))


async def test_cancel_request_that_a_task_group_raises_is_obeyed(app: App):
    async def refuse() -> None:
        raise GiveUp("no such customer")

    async def postpone() -> None:
        raise RetryLater(3600, charge=False)

    @app.task
    async def give_up() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(refuse())
            group.create_task(asyncio.sleep(60))

    @app.task
    async def later() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(postpone())

    async with working(app):
        record = await dead(app, await give_up.enqueue())
        assert (record.reason, record.attempts) == ("no such customer", 1)
        job = await later.enqueue()
        await eventually(lambda: is_scheduled(job))
        record = await app.inspector.job(job.queue, job.id)
    assert record is not None
    assert record.attempts == 0


async def is_scheduled(job) -> bool:
    return await job.status() is JobStatus.SCHEDULED


async def test_death_of_a_group_of_errors_is_told_by_the_first(app: App):
    @app.task(retry=ONCE)
    async def both() -> None:
        raise ExceptionGroup("two", [ValueError("bad"), KeyError("x")])

    async with working(app):
        record = await dead(app, await both.enqueue())
    assert record.reason == "ValueError: bad (and 1 more in an ExceptionGroup)"
    assert record.errors[-1].kind == "ExceptionGroup"
    assert "KeyError" in record.errors[-1].text
