"""Restores what belongs to the whole process (signals, umask, locale, ...) after each job."""

import locale
import os
import random
import resource
import signal
import socket
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, NamedTuple, TypeVar

from qcore.environment import environment, restore_environment
from qcore.runtime.job_context import clean_context

T = TypeVar("T")

#: Looked up once: those without a name are slow to look up.
_SIGNALS = tuple(sorted(signal.valid_signals()))
_TIMERS = (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF)
_LIMITS = tuple(
    sorted({getattr(resource, name) for name in dir(resource) if name.startswith("RLIMIT_")})
)
#: Threads that a job has told to end may need so long for it.
_ENDING_THREADS_S = 0.1


class _Part(NamedTuple):
    """One thing that belongs to the whole process: how to read it, and how to put it back."""

    name: str
    read: Callable[[], Any]
    put: Callable[[Any], object]


def _put_nothing(found: object) -> None:
    """Leave it as it is: what a process gave up it cannot take back."""


def _put_timers(armed: bool) -> None:
    for timer in _TIMERS if not armed else ():
        signal.setitimer(timer, 0)


def _put_handlers(handlers: dict[int, Any]) -> None:
    for number, handler in handlers.items():
        if signal.getsignal(number) != handler:
            signal.signal(number, handler)


def _read_umask() -> int:
    mask = os.umask(0o77)
    os.umask(mask)
    return mask


def _put_filters(filters: Iterable[Any]) -> None:
    warnings.resetwarnings()  # by which it notices that they have changed
    warnings.filters[:] = filters  # type: ignore[index]


def _put_streams(streams: tuple[Any, ...]) -> None:
    sys.stdin, sys.stdout, sys.stderr = streams


def _read_descriptors() -> list[Any]:
    """Return what the standard streams and their descriptors are open on."""
    streams = (sys.stdin, sys.stdout, sys.stderr)
    # an app may have put anything in their place
    closed = (getattr(stream, "closed", stream is None) for stream in streams)
    return [*closed, *map(_file_of, range(3))]


def _file_of(fd: int) -> tuple[int, int] | None:
    try:
        found = os.fstat(fd)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _put_limits(limits: Iterable[tuple[int, int]]) -> None:
    for number, limit in zip(_LIMITS, limits, strict=True):
        if resource.getrlimit(number) != limit:
            resource.setrlimit(number, limit)


#: The timers come first, so that none goes off in the middle of the rest.
_PARTS = (
    _Part("timers", lambda: any(signal.getitimer(t)[0] for t in _TIMERS), _put_timers),
    _Part(
        "signal handlers",
        lambda: {number: signal.getsignal(number) for number in _SIGNALS},
        _put_handlers,
    ),
    _Part(
        "blocked signals",
        lambda: signal.pthread_sigmask(signal.SIG_BLOCK, ()),
        partial(signal.pthread_sigmask, signal.SIG_SETMASK),
    ),
    _Part("environment", environment, restore_environment),
    _Part("working directory", os.getcwd, os.chdir),
    _Part("umask", _read_umask, os.umask),
    _Part(
        "locale",
        partial(locale.setlocale, locale.LC_ALL),
        partial(locale.setlocale, locale.LC_ALL),
    ),
    _Part("module search path", lambda: list(sys.path), partial(sys.path.__setitem__, slice(None))),
    _Part("warning filters", lambda: list(warnings.filters), _put_filters),
    _Part("standard streams", lambda: (sys.stdin, sys.stdout, sys.stderr), _put_streams),
    _Part("closed standard streams", _read_descriptors, _put_nothing),
    _Part("socket timeout", socket.getdefaulttimeout, socket.setdefaulttimeout),
    _Part("resource limits", lambda: [resource.getrlimit(n) for n in _LIMITS], _put_limits),
    _Part(
        "priority",
        lambda: os.getpriority(os.PRIO_PROCESS, 0),
        partial(os.setpriority, os.PRIO_PROCESS, 0),
    ),
    _Part("user", lambda: (os.getuid(), os.geteuid(), os.getgid(), os.getegid()), _put_nothing),
)


class Isolation:
    """Gives each job of a process the same start, one job at a time, in the main thread.

    What the modules of the app set when they are imported stays.
    """

    def __init__(self) -> None:
        self._context = clean_context()
        self._found = [_read(part) for part in _PARTS]
        self._threads = _threads()

    def run(self, function: Callable[[], T]) -> T:
        """Run a job in a context of its own."""
        return self._context.copy().run(function)

    def restore(self) -> str:
        """Put back what the job has changed.

        Returns:
            What it has left that nothing can put back, as a reader of the log needs it; empty for
            nothing.
        """
        left = [
            part.name
            for part, found in zip(_PARTS, self._found, strict=True)
            if not _restored(part, found)
        ]
        random.seed()  # else one that has set the seed would let the next one draw its numbers
        until = time.monotonic() + _ENDING_THREADS_S
        for thread in _threads() - self._threads:
            thread.join(max(0.0, until - time.monotonic()))
            left += [f"thread {thread.name}"] * thread.is_alive()
        return ", ".join(left)


def _read(part: _Part) -> Any:
    try:
        return part.read()
    except OSError as e:  # the working directory was removed
        return repr(e)


def _restored(part: _Part, found: Any) -> bool:
    try:
        if _read(part) != found:
            part.put(found)
            return _read(part) == found
    except BaseException:  # noqa: BLE001 - a handler of the job's may raise anything here
        return False
    return True


def _threads() -> set[threading.Thread]:
    """Return those that were not told to go on in the background, as those of clients are."""
    return {thread for thread in threading.enumerate() if not thread.daemon}
