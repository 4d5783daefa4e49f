"""From a task to Redis, and what a handle tells while no worker runs."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest

from qcore import (
    App,
    BrokerUnavailable,
    JobFailed,
    JobNotFound,
    JobStatus,
    PayloadTooLarge,
)
from qcore.model.codec import decode_envelope
from qcore.model.job import Acked, Buried
from tests.support.content import keys_of
from tests.support.moves import claim as claim_at
from tests.support.moves import failed_state, settle
from tests.support.servers import free_port, on_standalone_and_cluster

pytestmark = on_standalone_and_cluster


@pytest.fixture
async def app(server_url: str, namespace: str) -> AsyncIterator[App]:
    async with App(server_url, namespace=namespace, queues=["high", "default"]) as app:
        yield app


@pytest.fixture
def add(app: App):
    @app.task(name="add")
    async def add(a: int, b: int = 0) -> int | None:
        return a + b

    return add


async def claim(app: App, queue: str = "default") -> list:
    return (await claim_at(app.broker, queues=[queue])).leases


async def test_enqueued_job_is_ready_with_its_arguments(app, add):
    job = await add.enqueue(1, b=2)
    assert await job.status() is JobStatus.READY
    record = await app.inspector.job(job.queue, job.id)
    assert record.task == "add"
    assert add.arguments.decode(record.payload) == {"a": 1, "b": 2}


async def test_enqueued_job_is_found_again_by_its_reference(app, add):
    job = await add.enqueue(1)
    assert await app.job(job.ref).status() is JobStatus.READY


async def test_enqueue_with_delay_or_eta_is_scheduled(app, add):
    delayed = await add.options(delay=timedelta(minutes=5)).enqueue(1)
    planned = await add.options(eta=datetime.now(UTC) + timedelta(hours=1)).enqueue(1)
    past = await add.options(eta=datetime(2020, 1, 1, tzinfo=UTC)).enqueue(1)
    assert await delayed.status() is JobStatus.SCHEDULED
    assert await planned.status() is JobStatus.SCHEDULED
    assert await past.status() is JobStatus.READY


async def test_enqueue_to_another_queue_goes_there(app, add):
    job = await add.options(queue="high").enqueue(1)
    assert job.ref == f"high/{job.id}"
    assert (await keys_of(app.broker, "high"))["ready"] == [job.id]
    assert await keys_of(app.broker, "default") == {}


async def test_enqueues_in_a_row_keep_their_order(app, add):
    jobs = [await add.enqueue(n) for n in range(10)]
    assert [lease.id for lease in await claim(app)] == [job.id for job in jobs]


async def test_enqueue_many_keeps_order_over_its_chunks(app, add):
    assert await add.enqueue_many({"a": n} for n in range(1200)) == 1200
    found = []
    while leases := await claim(app):
        found += [
            add.arguments.decode(decode_envelope(lease.envelope).args)["a"] for lease in leases
        ]
        await settle(app.broker, *((lease, Acked()) for lease in leases))
    assert found == list(range(1200))


async def test_enqueue_many_that_fails_says_how_many_were_enqueued(app: App):
    @app.task
    async def keep(body: bytes) -> None: ...

    items = [(b"x",), (b"y",), (bytes(200_000),)]
    with pytest.raises(PayloadTooLarge, match="the limit is 131072") as e:
        await keep.enqueue_many(items, chunk=2)
    assert e.value.__notes__ == ["2 jobs were enqueued before"]
    assert len((await keys_of(app.broker, "default"))["ready"]) == 2


async def test_enqueue_of_too_much_enqueues_nothing(app: App):
    @app.task
    async def keep(body: bytes) -> None: ...

    with pytest.raises(PayloadTooLarge, match="store the data elsewhere"):
        await keep.enqueue(bytes(200_000))
    assert await keys_of(app.broker, "default") == {}


async def test_queues_are_seen_by_operators_from_the_first_enqueue_on(app, add):
    await add.enqueue(1)
    await add.options(queue="high").enqueue(1)
    found = {queue.name: queue.ready for queue in await app.inspector.queues()}
    assert found == {"default": 1, "high": 1}


# -- what a handle tells ---------------------------------------------------------------------------


async def test_handle_follows_a_job_through_its_life(app, add):
    job = await add.enqueue(1)
    (lease,) = await claim(app)
    assert await job.status() is JobStatus.ACTIVE
    await settle(app.broker, (lease, Acked()))
    assert await job.status() is JobStatus.COMPLETED  # it kept nothing: its producer knows
    assert await job.result(timeout=1) is None


async def test_handle_of_a_dead_job_tells_its_last_error(app, add):
    job = await add.enqueue(1)
    (lease,) = await claim(app)
    await settle(app.broker, (lease, Buried(failed_state("first", "ValueError: no"))))
    assert await job.status() is JobStatus.DEAD
    with pytest.raises(JobFailed, match=rf"job {job.ref} is dead: ValueError: no"):
        await job.result()


async def test_handle_of_a_cleared_job_that_nobody_awaited_says_that_it_may_be_cancelled(app, add):
    job = await add.enqueue(1)
    await app.inspector.clear("default")
    for ask in (job.status, job.result, job.cancel):
        with pytest.raises(JobNotFound, match=f"{job.ref}: its queue was cleared at"):
            await ask()


async def test_handle_of_an_unknown_job_says_so(app):
    with pytest.raises(JobNotFound, match="there is no job default/unknown"):
        await app.job("default/unknown").status()
    with pytest.raises(JobNotFound):
        await app.job("default/unknown").result(timeout=1)


@pytest.mark.parametrize("timeout", [0.05, timedelta(milliseconds=50)])
async def test_result_that_does_not_come_in_time_leaves_the_job_alone(app, add, timeout):
    job = await add.enqueue(1)
    with pytest.raises(TimeoutError, match=f"job {job.ref} has not ended within"):
        await job.result(timeout=timeout)
    assert await job.status() is JobStatus.READY


async def test_result_arrives_while_it_is_waited_for(app, add):
    job = await add.enqueue(1)
    waiting = asyncio.ensure_future(job.result(timeout=10))
    (lease,) = await claim(app)
    await settle(app.broker, (lease, Acked()))
    assert await waiting is None


async def test_many_waits_that_are_cancelled_leave_the_app_well(app, add):
    jobs = [await add.enqueue(n) for n in range(5)]
    waits = [asyncio.ensure_future(job.result()) for job in jobs for _ in range(4)]
    await asyncio.sleep(0)
    for wait in waits:
        wait.cancel()
    await asyncio.gather(*waits, return_exceptions=True)
    assert {await job.status() for job in jobs} == {JobStatus.READY}


# -- open and close --------------------------------------------------------------------------------


async def test_close_delivers_what_is_on_its_way(server_url, namespace):
    app = App(server_url, namespace=namespace)

    @app.task
    async def nothing() -> None: ...

    await app.open()
    calls = [asyncio.ensure_future(nothing.enqueue()) for _ in range(5)]
    await asyncio.sleep(0)
    await app.close()
    jobs = await asyncio.gather(*calls)
    async with app:
        assert len((await keys_of(app.broker, "default"))["ready"]) == len(jobs) == 5


async def test_app_opened_again_enqueues_again(app, add):
    await add.enqueue(1)
    await app.close()
    async with app:
        await add.enqueue(2)
        assert len((await keys_of(app.broker, "default"))["ready"]) == 2


async def test_apps_of_two_namespaces_do_not_see_each_other(server_url, namespace, app, add):
    other = App(server_url, namespace=f"{namespace}-other")
    async with other:
        job = await add.enqueue(1)
        assert await other.inspector.queues() == []
        with pytest.raises(JobNotFound):
            await other.job(job.ref).status()


async def test_apps_of_several_loops_and_threads_are_apart(server_url, namespace):
    """One app per loop: a web server with threads opens one in each."""

    def run(n: int) -> str:
        async def enqueue() -> str:
            async with App(server_url, namespace=namespace) as app:

                @app.task
                async def nothing(n: int) -> None: ...

                return (await nothing.enqueue(n)).ref

        return asyncio.run(enqueue())

    refs = await asyncio.gather(*(asyncio.to_thread(run, n) for n in range(4)))
    async with App(server_url, namespace=namespace) as app:
        assert {await app.job(ref).status() for ref in refs} == {JobStatus.READY}


async def test_open_connects_to_nothing_and_close_needs_no_server(server_url):
    app = App(f"redis://127.0.0.1:{free_port()}/0")
    async with app:
        with contextlib.suppress(BrokerUnavailable):
            await app.job("default/x").status()
