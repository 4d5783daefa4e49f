"""Async methods for callers that block: scripts, views, shells.

One daemon thread per process runs an event loop for all of them, from the first call until the
interpreter ends; a forked child starts its own. Calls from many threads meet in that loop, so they
share round trips as asynchronous callers do. Most enqueues have a faster way: see
`qcore.broker.redis.blocking_producers`.

The end of the interpreter ends the thread as it is: a call that returned has its effect in Redis,
and a daemon thread that still waits then has nobody left to tell. The embedded server is left by
an exit handler of its own.
"""

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from qcore.errors import ConfigError
from qcore.per_process import PerProcess

T = TypeVar("T")


class _Thread:
    """The thread of one process: its loop while it runs, and the lock of whoever starts it."""

    def __init__(self) -> None:
        self.starting = threading.Lock()
        self.loop: asyncio.AbstractEventLoop | None = None


_thread = PerProcess[_Thread](lambda _: _Thread())


def call(function: Callable[..., Coroutine[Any, Any, T]], *args: object, instead: str) -> T:
    """Run `function(*args)` in the loop of the thread, and wait for it.

    Ctrl-C ends the wait and cancels the call.

    Args:
        function: An async function.
        args: Its arguments.
        instead: What to use in an event loop, for the error.

    Raises:
        ConfigError: an event loop runs here, and would stand still meanwhile.
    """
    refuse_in_a_loop(instead)
    loop = _started_loop()  # before there is a coroutine that nobody would await if it fails
    future = asyncio.run_coroutine_threadsafe(function(*args), loop)
    try:
        return future.result()
    finally:
        future.cancel()  # only what was interrupted is not done by now


def refuse_in_a_loop(instead: str) -> None:
    """Raise ConfigError where an event loop runs: it would stand still meanwhile."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    raise ConfigError(f"this would block the event loop that runs here: use `{instead}`")


def is_own(loop: asyncio.AbstractEventLoop) -> bool:
    """Say whether this is the loop that serves `call`."""
    return loop is _thread.get().loop


def _started_loop() -> asyncio.AbstractEventLoop:
    own = _thread.get()
    with own.starting:
        if own.loop is None:
            loop = asyncio.new_event_loop()
            args = (own, loop)
            thread = threading.Thread(target=_run, args=args, name="qcore-sync", daemon=True)
            try:
                thread.start()
            except BaseException:  # no more threads: the next call tries again
                loop.close()
                raise
            own.loop = loop
        return own.loop


def _run(own: _Thread, loop: asyncio.AbstractEventLoop) -> None:
    """Run a loop; if something ends it, SystemExit in a callback say, the next call has another."""
    try:
        loop.run_forever()
    finally:
        if own.loop is loop:
            own.loop = None
