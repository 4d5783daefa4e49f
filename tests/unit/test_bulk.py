"""Many jobs in chunks: what is made while a chunk flies, and how errors and cancellations count."""

import asyncio
import copy
import pickle
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from qcore import Enqueued, bulk
from qcore.errors import ArgumentError, BrokerUnavailable
from qcore.model.admission import Admission
from qcore.model.job import Job
from tests.support.waiting import eventually


class Line:
    """Takes chunks; each arrives when it is let through."""

    def __init__(self, *, free: int = 99) -> None:
        self.chunks: list[list[str]] = []
        #: Those behind the first ones wait for it.
        self.gate = asyncio.Event()
        self._free = free
        self.error: Exception | None = None

    async def send(self, jobs: list[Job]) -> list[Admission]:
        self.chunks.append([job.id for job in jobs])
        if len(self.chunks) > self._free:
            await self.gate.wait()
            if self.error is not None:
                raise self.error
        return []


def job(number: int, item: Any) -> Job:
    if item == "bad":
        raise ArgumentError(f"item {number} is bad")
    return Job(f"{item}", "default", b"")


async def test_next_chunk_is_made_while_one_flies():
    line, made = Line(free=1), list[int]()

    def items() -> Iterator[int]:
        for n in range(6):
            made.append(n)
            yield n

    task = asyncio.create_task(bulk.enqueue(items(), job, line.send, 2))
    await eventually(lambda: len(made) == 6)
    assert line.chunks == [["0", "1"], ["2", "3"]]
    line.gate.set()
    assert await task == 6
    assert line.chunks == [["0", "1"], ["2", "3"], ["4", "5"]]


async def test_first_chunk_arrives_before_the_next_is_made():
    """It may have to connect, for which items that block the loop leave no time."""
    line, made = Line(free=0), list[int]()
    task = asyncio.create_task(bulk.enqueue(map(_noted(made), range(9)), job, line.send, 2))
    await eventually(lambda: bool(line.chunks))
    for _ in range(20):
        await asyncio.sleep(0)
    assert len(made) == 3
    line.gate.set()
    assert await task == 9


async def test_slow_items_let_the_loop_read_and_their_chunks_arrive():
    line, turns = Line(), 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    def items() -> Iterator[int]:
        for n in range(20):
            time.sleep(0.012)  # a cursor that blocks
            yield n

    counting = asyncio.create_task(count())
    assert await bulk.enqueue(items(), job, line.send, 100) == 20
    counting.cancel()
    assert turns >= 15


async def test_error_of_an_item_counts_the_chunk_that_arrives_meanwhile():
    line = Line(free=1)
    task = asyncio.create_task(bulk.enqueue([0, 1, 2, 3, "bad"], job, line.send, 2))
    await eventually(lambda: len(line.chunks) == 1)
    line.gate.set()
    with pytest.raises(ArgumentError) as e:
        await task
    assert e.value.__notes__ == ["2 jobs were enqueued before"]

    with pytest.raises(ArgumentError) as e:
        await bulk.enqueue([0, 1, 2, 3, 4, "bad"], job, Line().send, 2)
    assert e.value.__notes__ == ["4 jobs were enqueued before"]


async def test_chunk_that_fails_beside_an_item_is_told_of():
    line = Line(free=1)
    line.error = BrokerUnavailable("gone", sent=True)
    task = asyncio.create_task(bulk.enqueue([0, 1, 2, 3, 4, "bad"], job, line.send, 2))
    await eventually(lambda: len(line.chunks) == 2)
    line.gate.set()
    with pytest.raises(BrokerUnavailable) as e:
        await task
    assert e.value.__notes__ == ["2 jobs were enqueued before, and the next 2 may have been"]
    assert isinstance(e.value.__cause__, ArgumentError)


async def test_cancellation_stands_although_the_chunk_has_failed():
    line = Line(free=1)
    line.error = BrokerUnavailable("gone", sent=True)

    async def items() -> AsyncIterator[int]:
        for n in range(5):
            yield n
        line.gate.set()
        await asyncio.sleep(60)

    task = asyncio.create_task(bulk.enqueue(items(), job, line.send, 2))
    await eventually(line.gate.is_set)
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError) as e:
        await task
    assert e.value.__notes__ == ["2 jobs were enqueued before, and the next 2 may have been"]


async def test_close_of_an_enqueue_that_waits_ends_it():
    line = Line(free=0)
    waiting = bulk.enqueue([0, 1], job, line.send, 1)
    waiting.send(None)
    waiting.close()
    await asyncio.sleep(0)
    assert len(line.chunks) <= 1


def _noted(made: list[int]) -> Callable[[int], int]:
    def note(n: int) -> int:
        made.append(n)
        return n

    return note


def test_enqueued_is_a_number_that_can_be_copied_and_shown():
    sent = Enqueued(3, joined=2, ids=["a"])
    assert f"{sent} {sent!r}" == "5 Enqueued(created=3, joined=2, replaced=0, throttled=0)"
    for twin in (copy.deepcopy(sent), pickle.loads(pickle.dumps(sent))):
        assert (twin, twin.created, twin.joined, twin.ids) == (5, 3, 2, ["a"])
