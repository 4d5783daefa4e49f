"""Threads for `def` tasks. Nobody can stop one: it keeps its place until its function has ended."""

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.to_thread


class Thread:
    """A place among the threads, for one call."""

    def __init__(self, ended: "Callable[[Thread], None]") -> None:
        self._ended = ended
        self._loop = asyncio.get_running_loop()
        #: Taken by the thread when it begins, or by who calls the call off: never by both.
        self._begun = threading.Lock()
        self.has_ended = False
        #: What it runs, and the loop time from which on it hangs if it was given up; None: never.
        self.job = self.task = self.queue = ""
        self.kill_at: float | None = None
        #: The thread that runs it.
        self.ident = 0

    async def call(self, function: Callable[[], Any]) -> Any:
        """Run the function in a thread. When this is cancelled, it goes on there."""
        return await anyio.to_thread.run_sync(
            self._run, function, abandon_on_cancel=True, limiter=anyio.CapacityLimiter(1)
        )

    def call_off(self) -> bool:
        """Return whether the call has not begun; then it never will."""
        return self._begun.acquire(blocking=False)

    def _run(self, function: Callable[[], Any]) -> Any:
        if not self._begun.acquire(blocking=False):
            return None
        self.ident = threading.get_ident()
        try:
            return function()
        finally:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
                self._loop.call_soon_threadsafe(self._ended, self)


class Threads:
    """At most `size` functions at a time, those included that were given up and go on.

    Args:
        size: How many.
        freed: Called when a function that was given up has ended.
    """

    def __init__(self, size: int, freed: Callable[[], None]) -> None:
        self._places = anyio.CapacityLimiter(size)
        self._hanging: set[Thread] = set()
        self._freed = freed

    @property
    def hanging(self) -> int:
        """How many places are taken by functions that were given up."""
        return len(self._hanging)

    def hung(self) -> list[Thread]:
        """Return those of them that go on although their kill timeout is over; for any thread."""
        now = time.monotonic()
        return [t for t in list(self._hanging) if t.kill_at is not None and t.kill_at <= now]

    @property
    def taken(self) -> float:
        """The share of the places that is taken."""
        return self._places.borrowed_tokens / self._places.total_tokens

    @property
    def waiting(self) -> int:
        """How many wait for a place."""
        return self._places.statistics().tasks_waiting

    @asynccontextmanager
    async def thread(self) -> AsyncGenerator[Thread, None]:
        """Wait for a free place; it is given back when the call has ended, or cannot begin."""
        thread = Thread(self._end)
        await self._places.acquire_on_behalf_of(thread)
        try:
            yield thread
        finally:
            if thread.call_off():
                self._places.release_on_behalf_of(thread)
            elif not thread.has_ended:
                self._hanging.add(thread)

    def _end(self, thread: Thread) -> None:
        thread.has_ended = True
        self._places.release_on_behalf_of(thread)
        if thread in self._hanging:
            self._hanging.remove(thread)
            self._freed()
