"""Async methods for callers that block: scripts, views, shells.

One daemon thread per process runs an event loop for all of them, from the first call until the
interpreter ends; after a fork the child starts its own. Calls from many threads meet in that loop,
so they share round trips as asynchronous callers do.
"""

import asyncio
import atexit
import os
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from qcore.errors import ConfigError

T = TypeVar("T")

#: At the end of the interpreter: how long the thread may take to close its connections.
_STOP_S = 5.0


class _LoopThread:
    """A daemon thread that runs an event loop until it is stopped."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="qcore-sync", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the loop as `asyncio.run` does: tasks cancelled, generators closed."""
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(_STOP_S)

    def _run(self) -> None:
        self.loop.run_forever()
        self.loop.run_until_complete(_cancel_all(self.loop))
        # here the brokers of this loop are closed: each has a generator that waits for this
        self.loop.run_until_complete(self.loop.shutdown_asyncgens())
        self.loop.close()


async def _cancel_all(loop: asyncio.AbstractEventLoop) -> None:
    tasks = asyncio.all_tasks(loop) - {asyncio.current_task(loop)}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


_starting = threading.Lock()
_thread: _LoopThread | None = None
#: What a fork left of its parent's threads; kept, so that nothing of it is ever closed here.
_inherited: list[_LoopThread | None] = []


def call(function: Callable[..., Coroutine[Any, Any, T]], *args: object, instead: str) -> T:
    """Run `function(*args)` in the loop thread and wait for it.

    Ctrl-C ends the wait and cancels the call.

    Args:
        function: An async function.
        args: Its arguments.
        instead: What to use in an event loop, for the error.

    Raises:
        ConfigError: an event loop runs here, and would stand still meanwhile.
    """
    if _running_loop() is not None:
        raise ConfigError(f"this would block the event loop that runs here: use `{instead}`")
    future = asyncio.run_coroutine_threadsafe(function(*args), _loop_thread().loop)
    try:
        return future.result()
    finally:
        future.cancel()  # only what was interrupted is not done by now


def is_own(loop: asyncio.AbstractEventLoop) -> bool:
    """Say whether this is the loop of the thread that serves `call`."""
    return _thread is not None and _thread.loop is loop


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _loop_thread() -> _LoopThread:
    global _thread
    with _starting:
        if _thread is None:
            _thread = _LoopThread()
        return _thread


def _stop() -> None:
    if _thread is not None:
        _thread.stop()


def _forget_inherited_thread() -> None:
    global _starting, _thread
    _inherited.append(_thread)
    _starting, _thread = threading.Lock(), None  # another thread may have held it


os.register_at_fork(after_in_child=_forget_inherited_thread)
atexit.register(_stop)
