"""Async methods for callers that block: scripts, views, shells.

One daemon thread per process runs an event loop for all of them, from the first call until the
interpreter ends; after a fork the child starts its own. Calls from many threads meet in that loop,
so they share round trips as asynchronous callers do.

The end of the interpreter ends the thread as it is: a call that returned has its effect in Redis,
and a daemon thread that still waits then has nobody left to tell. The embedded server is left by
an exit handler of its own.
"""

import asyncio
import os
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from qcore.errors import ConfigError

T = TypeVar("T")

_starting = threading.Lock()
_loop: asyncio.AbstractEventLoop | None = None
#: Loops of the processes that this one was forked from; kept, so that none is ever closed here.
_inherited: list[asyncio.AbstractEventLoop | None] = []


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
    if _has_running_loop():
        raise ConfigError(f"this would block the event loop that runs here: use `{instead}`")
    loop = _started_loop()  # before there is a coroutine that nobody would await if it fails
    future = asyncio.run_coroutine_threadsafe(function(*args), loop)
    try:
        return future.result()
    finally:
        future.cancel()  # only what was interrupted is not done by now


def is_own(loop: asyncio.AbstractEventLoop) -> bool:
    """Say whether this is the loop that serves `call`."""
    return loop is _loop


def _has_running_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _started_loop() -> asyncio.AbstractEventLoop:
    global _loop
    with _starting:
        if _loop is None:
            loop = asyncio.new_event_loop()
            thread = threading.Thread(target=_run, args=(loop,), name="qcore-sync", daemon=True)
            try:
                thread.start()
            except BaseException:  # no more threads: the next call tries again
                loop.close()
                raise
            _loop = loop
        return _loop


def _run(loop: asyncio.AbstractEventLoop) -> None:
    """Run a loop; if something ends it, SystemExit in a callback say, the next call has another."""
    global _loop
    try:
        loop.run_forever()
    finally:
        if _loop is loop:
            _loop = None


def _forget_inherited_loop() -> None:
    global _starting, _loop
    _inherited.append(_loop)
    _starting, _loop = threading.Lock(), None  # another thread may have held the lock


os.register_at_fork(after_in_child=_forget_inherited_loop)
