"""Many jobs in chunks: the next chunk is made while the last one is on its way."""

import asyncio
from collections.abc import AsyncIterable, Callable, Coroutine, Iterable
from typing import Any

from qcore.broker.contract import CALL_BYTES
from qcore.errors import QcoreError
from qcore.model.job import Job

_Send = Callable[[list[Job]], Coroutine[Any, Any, None]]


async def enqueue(
    items: Iterable[Any] | AsyncIterable[Any],
    make: Callable[[int, Any], Job],
    send: _Send,
    chunk: int,
) -> int:
    """Send a job for each item, in order; return how many.

    An exception, of the items too, and a cancellation get a note that says how many jobs were
    enqueued before.

    Args:
        items: What jobs are made of.
        make: Makes the job of an item, which is given with its number.
        send: Enqueues a chunk, as a whole or not at all.
        chunk: At most so many jobs in one; of 1 MB together, or a single one.
    """
    sender = _Sender(send)
    made, waiting, size = 0, list[Job](), 0

    def add(item: Any) -> list[Job]:
        """Make the job of an item; return the chunk before it, if it has to go."""
        nonlocal made, waiting, size
        job, full = make(made, item), list[Job]()
        made += 1
        if waiting and (len(waiting) == chunk or size + len(job.envelope) > CALL_BYTES):
            full, waiting, size = waiting, [], 0
        waiting.append(job)
        size += len(job.envelope)
        return full

    try:
        if isinstance(items, AsyncIterable):
            async for item in items:
                if full := add(item):
                    await sender.send(full)
        else:  # without a step of the event loop for each
            for item in items:
                if full := add(item):
                    await sender.send(full)
        if waiting:
            await sender.send(waiting)
        await sender.land()
    except BaseException as e:
        await sender.give_up(e)
        raise
    return sender.accepted


class _Sender:
    """One chunk on its way at a time."""

    def __init__(self, send: _Send) -> None:
        self._send = send
        self._flight: asyncio.Task[None] | None = None
        self._sending = 0
        #: Jobs that were enqueued.
        self.accepted = 0

    async def send(self, jobs: list[Job]) -> None:
        """Send a chunk when the one before has arrived; return when it is on its way."""
        await self.land()
        self._sending = len(jobs)
        self._flight = asyncio.create_task(self._send(jobs))
        await asyncio.sleep(0)  # it goes out now, and not when the next chunk is made

    async def land(self) -> None:
        """Wait until nothing is on its way.

        Raises:
            BrokerError: of the chunk that was.
        """
        if self._flight is not None:
            await self._flight
            self._flight = None
            self.accepted += self._sending
            self._sending = 0

    async def give_up(self, error: BaseException) -> None:
        """Note with an error how many were enqueued before it.

        One of the items waits for what is on its way; if that fails too, this raises its error.
        """
        flight = self._flight
        if flight is not None and not flight.done() and not isinstance(error, Exception):
            flight.cancel()
        elif flight is not None and not _is_of(flight, error):
            try:
                await self.land()
            except BaseException as e:
                e.add_note(self._told(e))
                raise e from error
        error.add_note(self._told(error))

    def _told(self, error: BaseException) -> str:
        # an error of ours that does not say that it was sent is certain
        is_open = self._sending and getattr(error, "sent", not isinstance(error, QcoreError))
        more = f", and the next {self._sending} may have been" if is_open else ""
        return f"{self.accepted} jobs were enqueued before{more}"


def _is_of(flight: "asyncio.Task[None]", error: BaseException) -> bool:
    """Whether the error is that of the chunk on its way, or its cancellation."""
    return flight.done() and (flight.cancelled() or flight.exception() is error)
