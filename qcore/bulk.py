"""Many jobs in chunks: the next chunk is made while the last one is on its way."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterable, Callable, Coroutine, Iterable
from typing import Any

from qcore.broker.contract import CALL_BYTES
from qcore.errors import QcoreError
from qcore.model.admission import Admission, Enqueued
from qcore.model.job import Job

#: The event loop reads what has arrived so often, however long the items take.
_YIELD_S = 0.01
#: A chunk that is made faster than this is made while the last one flies.
_FAST_S = 0.05

_Send = Callable[[list[Job]], Coroutine[Any, Any, list[Admission]]]


async def enqueue(
    items: Iterable[Any] | AsyncIterable[Any],
    make: Callable[[int, Any], Job],
    send: _Send,
    chunk: int,
    *,
    with_ids: bool = False,
) -> Enqueued:
    """Send a job for each item, in order; return what became of them.

    An exception, of the items too, and a cancellation get a note that says how many jobs were
    enqueued before.

    Args:
        items: What jobs are made of.
        make: Makes the job of an item, which is given with its number.
        send: Enqueues a chunk, as a whole or not at all.
        chunk: At most so many jobs in one; of 1 MB together, or a single one.
        with_ids: Return the ids of the jobs too.
    """
    chunks, sender = _Chunks(make, chunk), _Sender(send, with_ids=with_ids)
    try:
        await _send_all(items, chunks, sender)
        await sender.land()
    except BaseException as e:
        await sender.give_up(e)
        raise
    return sender.result()


async def _send_all(
    items: Iterable[Any] | AsyncIterable[Any], chunks: "_Chunks", sender: "_Sender"
) -> None:
    if isinstance(items, AsyncIterable):
        async for item in items:
            if full := chunks.add(item):
                await sender.send(full)
    else:  # without a step of the event loop for each
        yielded_at = time.monotonic()
        for item in items:
            if full := chunks.add(item):
                await sender.send(full)
            elif time.monotonic() - yielded_at > _YIELD_S:
                await asyncio.sleep(0)
                yielded_at = time.monotonic()
    if chunks.waiting:
        await sender.send(chunks.waiting)


class _Chunks:
    """Jobs that are made one by one, until they fill a chunk."""

    def __init__(self, make: Callable[[int, Any], Job], chunk: int) -> None:
        self._make = make
        self._chunk = chunk
        self._made = self._size = 0
        #: Those of the chunk that is not full.
        self.waiting: list[Job] = []

    def add(self, item: Any) -> list[Job]:
        """Make the job of an item; return the chunk before it, if it has to go."""
        job, full = self._make(self._made, item), list[Job]()
        self._made += 1
        size = self._size + len(job.envelope)
        if self.waiting and (len(self.waiting) == self._chunk or size > CALL_BYTES):
            full, self.waiting, size = self.waiting, [], len(job.envelope)
        self.waiting.append(job)
        self._size = size
        return full


class _Sender:
    """One chunk on its way at a time."""

    def __init__(self, send: _Send, *, with_ids: bool) -> None:
        self._send = send
        self._flight: asyncio.Task[list[Admission]] | None = None
        self._jobs = list[Job]()
        self._ids: list[str] | None = [] if with_ids else None
        self._others = Counter[str]()
        #: When the last chunk had gone out; the first one may have to connect.
        self._went_at: float | None = None
        #: Jobs that were enqueued.
        self.accepted = 0

    async def send(self, jobs: list[Job]) -> None:
        """Send a chunk when the one before has arrived; return when it is on its way.

        Who needs long to make a chunk gains nothing while it flies, and may keep its reply from
        being read: then, as for the first, this returns when it has arrived.
        """
        await self.land()
        is_fast = self._went_at is not None and time.monotonic() - self._went_at < _FAST_S
        self._jobs = jobs
        self._flight = asyncio.create_task(self._send(jobs))
        await asyncio.sleep(0)  # it goes out now, and not when the next chunk is made
        if not is_fast:
            await self.land()
        self._went_at = time.monotonic()

    async def land(self) -> None:
        """Wait until nothing is on its way.

        Raises:
            BrokerError: of the chunk that was.
        """
        if self._flight is not None:
            answers = await self._flight
            self._flight = None
            self._note(answers)

    def result(self) -> Enqueued:
        """Return what became of all that was sent."""
        joined, replaced, throttled = map(self._others.get, ("joined", "replaced", "throttled"))
        counts = {"joined": joined or 0, "replaced": replaced or 0, "throttled": throttled or 0}
        return Enqueued(self.accepted - sum(counts.values()), **counts, ids=self._ids or ())

    def _note(self, answers: list[Admission]) -> None:
        self.accepted += len(self._jobs)
        for answer in answers:
            self._others[answer.how] += 1
        if self._ids is not None:
            others = {answer.id: answer.job for answer in answers}
            self._ids += (others.get(job.id, job.id) for job in self._jobs)
        self._jobs = []

    async def give_up(self, error: BaseException) -> None:
        """Note with an error how many were enqueued before it.

        One of the items waits for what is on its way; if that fails too, this raises its error.
        """
        flight = self._flight
        if flight is not None and isinstance(error, GeneratorExit):
            flight.cancel()  # who closes a coroutine lets it wait for nothing
        elif flight is not None:
            if not isinstance(error, Exception):
                flight.cancel()
            try:
                await asyncio.wait([flight])
            except asyncio.CancelledError as e:
                flight.cancel()
                e.add_note(self._told(e))
                raise
            failure = None if flight.cancelled() else flight.exception()
            if failure is None and not flight.cancelled():
                self._note(flight.result())
            elif failure is not None and failure is not error and isinstance(error, Exception):
                failure.add_note(self._told(failure))
                raise failure from error
        error.add_note(self._told(error))

    def _told(self, error: BaseException) -> str:
        # an error of ours that does not say that it was sent is certain
        is_open = self._jobs and getattr(error, "sent", not isinstance(error, QcoreError))
        more = f", and the next {len(self._jobs)} may have been" if is_open else ""
        accepted = self.accepted + getattr(error, "enqueued", 0)
        return f"{accepted} jobs were enqueued before{more}"
