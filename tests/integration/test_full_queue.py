"""Queues that hold so many waiting jobs at most: who is refused, who waits, and for how long."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from qcore import App, Queue, QueueFull, Unique
from qcore.model.job import Acked
from tests.support.moves import claim, settle
from tests.support.servers import on_standalone_and_cluster

pytestmark = on_standalone_and_cluster

QUEUES = [
    Queue("open"),
    Queue("tight", max_jobs=2),
    Queue("patient", max_jobs=2, when_full="wait"),
]


@pytest.fixture
async def app(server_url: str, namespace: str) -> AsyncIterator[App]:
    app = App(server_url, namespace=namespace, queues=QUEUES, enqueue_timeout=1.0)
    async with app:
        yield app


def note_of(app: App, queue: str, **options: Any) -> Any:
    @app.task(name="note", queue=queue, **options)
    async def note(n: int) -> None: ...

    return note


async def waiting(app: App, queue: str) -> int:
    (stats,) = await app.inspector.queues([queue])
    return stats.ready + stats.scheduled


async def make_room(app: App, queue: str, count: int) -> None:
    turn = await claim(app.broker, count, queues=[queue], now_ms=None)
    await settle(app.broker, *((lease, Acked()) for lease in turn.leases), now_ms=None)


async def test_full_queue_refuses_and_names_itself(app: App):
    note = note_of(app, "tight")
    await note.enqueue(1)
    await note.options(delay=60).enqueue(2)
    with pytest.raises(QueueFull, match="queue tight has 2 waiting jobs of at most 2: "):
        await note.enqueue(3)
    with pytest.raises(QueueFull):
        await asyncio.to_thread(note.enqueue_sync, 3)
    await make_room(app, "tight", 1)
    await note.enqueue(4)
    assert await waiting(app, "tight") == 2


async def test_what_joins_a_job_is_taken_by_a_full_queue(app: App):
    note = note_of(app, "tight", unique=Unique("n"))
    await note.enqueue(1)
    await note.enqueue(2)
    assert (await note.enqueue(2)).answer == "joined"
    with pytest.raises(QueueFull):
        await note.enqueue(3)


@pytest.mark.parametrize("is_blocking", [False, True])
async def test_who_waits_is_served_when_there_is_room_or_refused_in_time(
    app: App, is_blocking: bool
):
    note = note_of(app, "patient")

    def enqueue(n: int) -> Any:
        if is_blocking:
            return asyncio.create_task(asyncio.to_thread(note.enqueue_sync, n))
        return asyncio.create_task(note.enqueue(n))

    await note.enqueue_many([(1,), (2,)])
    with pytest.raises(QueueFull):
        await enqueue(3)
    late = enqueue(4)
    await asyncio.sleep(0.15)
    await make_room(app, "patient", 1)
    assert (await late).answer == "created"
    assert await waiting(app, "patient") == 2


async def test_who_is_cancelled_while_it_waits_is_not_enqueued(app: App):
    note = note_of(app, "patient")
    await note.enqueue_many([(1,), (2,)])
    first, second = asyncio.create_task(note.enqueue(3)), asyncio.create_task(note.enqueue(4))
    await asyncio.sleep(0.15)
    first.cancel()
    await make_room(app, "patient", 2)
    await second
    assert await waiting(app, "patient") == 1


async def test_queue_that_is_full_holds_up_no_other(app: App):
    patient, note = note_of(app, "patient"), app.task(name="other", queue="open")(_noop)
    await patient.enqueue_many([(1,), (2,)])
    full = asyncio.create_task(patient.enqueue(3))
    await asyncio.sleep(0.05)
    await note.enqueue(1)
    assert not full.done()
    with pytest.raises(QueueFull):
        await full


async def test_what_joins_a_job_does_not_wait_behind_those_that_wait_for_room(app: App):
    note = note_of(app, "patient")
    keyed = app.task(name="keyed", queue="patient", unique=Unique("n"))(_noop)
    await note.enqueue(1)
    await keyed.enqueue(2)
    full = [asyncio.create_task(note.enqueue(n)) for n in range(3)]
    await asyncio.sleep(0.05)
    assert (await keyed.enqueue(2)).answer == "joined"
    assert not any(one.done() for one in full)
    told = await asyncio.gather(*full, return_exceptions=True)
    assert all(isinstance(one, QueueFull) for one in told)
    assert len({str(one) for one in told}) == 3, "each is told of its own job"


async def test_those_who_wait_are_served_as_fast_as_room_is_made(server_url: str, namespace: str):
    queue = Queue("patient", max_jobs=50, when_full="wait")
    async with App(server_url, namespace=namespace, queues=[queue], enqueue_timeout=15) as app:
        note = note_of(app, "patient")

        async def work() -> None:
            while True:
                await make_room(app, "patient", 50)
                await asyncio.sleep(0.01)

        callers = [asyncio.create_task(note.enqueue(n)) for n in range(300)]
        await asyncio.sleep(0.3)
        worker = asyncio.create_task(work())
        await asyncio.gather(*callers)
        worker.cancel()


async def test_app_that_closes_brings_what_waits_to_its_end(app: App):
    note = note_of(app, "patient")
    await note.enqueue_many([(1,), (2,)])
    full = asyncio.create_task(note.enqueue(3))
    await asyncio.sleep(0.05)
    await app.close()
    with pytest.raises(QueueFull):
        await full
    await app.open()


async def test_more_than_the_queue_holds_comes_in_as_room_is_made(app: App):
    note = note_of(app, "patient")

    async def work() -> None:
        while True:
            await make_room(app, "patient", 1)
            await asyncio.sleep(0.01)

    worker = asyncio.create_task(work())
    sent = await note.enqueue_many((n,) for n in range(20))
    worker.cancel()
    assert sent == sent.created == 20


async def _noop(n: int) -> None: ...
