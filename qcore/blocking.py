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
    future = asyncio.run_coroutine_threadsafe(function(*args), _started_loop())
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
            _loop = asyncio.new_event_loop()
            threading.Thread(target=_loop.run_forever, name="qcore-sync", daemon=True).start()
        return _loop


def _forget_inherited_loop() -> None:
    global _starting, _loop
    _inherited.append(_loop)
    _starting, _loop = threading.Lock(), None  # another thread may have held the lock


os.register_at_fork(after_in_child=_forget_inherited_loop)
