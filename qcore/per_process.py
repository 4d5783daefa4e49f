"""What a process must not share with the one that it was forked from."""

import concurrent.futures.thread  # pyright: ignore[reportUnusedImport]  # noqa: F401 - see below
import os
import threading
from collections.abc import Callable
from functools import cache
from typing import Generic, TypeVar

T = TypeVar("T")

# `concurrent.futures.thread`, which redis imports, can no longer be imported in an exit handler.

#: Held while what is imported late is imported: who forks meanwhile, in another thread, would leave
#: the child with a lock of the import that nobody ever releases.
importing = threading.RLock()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=importing.acquire,
        after_in_parent=importing.release,
        after_in_child=importing.release,
    )


def imported_late(load: Callable[[], T]) -> Callable[[], T]:
    """Return what imports something when it is first asked for, with `importing` held only then.

    Args:
        load: Imports it, and returns it.
    """

    @cache
    def get() -> T:
        with importing:
            return load()

    return get


#: What this process has found that was another's; kept for ever.
_inherited: list[object] = []


class PerProcess(Generic[T]):
    """A value of each process, made when it is first used there.

    The process is looked at with every use, not when it begins: a server written in C forks without
    the hooks of Python. What was inherited is kept and never closed: to close a connection would
    take it out of the poll set that the child shares with its parent, and end a TLS session that
    the parent is using.

    Args:
        make: Gets the value of the process that this one was forked from, if that used its own.
    """

    def __init__(self, make: Callable[[T | None], T]) -> None:
        self._make = make
        self._values: dict[int, T] = {}

    def get(self) -> T:
        """Return the value of this process; the same to all of its threads."""
        pid = os.getpid()
        value = self._values.get(pid)
        if value is None:
            inherited = list(self._values.values())
            _inherited.extend(inherited)
            made = self._make(inherited[-1] if inherited else None)
            value = self._values.setdefault(pid, made)
        return value
