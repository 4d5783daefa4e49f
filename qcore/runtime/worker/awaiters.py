"""Finds which asyncio tasks wait for a given one, by looking at its done callbacks."""

import asyncio
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, cast

#: Who waits for a task is seldom further away.
_MAX = 100


def awaiting(task: asyncio.Task[Any]) -> Iterator[asyncio.Task[Any]]:
    """Return the tasks that wait for this one, through others too; any thread may ask.

    Seen are `await`, `gather`, `wait_for`, `wait`, `shield` and the task groups of asyncio and of
    anyio. Where a library or a newer Python keeps this in another way, there is nothing to see.
    """
    seen: set[asyncio.Future[Any]] = {task}
    left: list[asyncio.Future[Any]] = [task]
    while left and len(seen) < _MAX:
        # there is no public name for it before Python 3.14
        for callback, _ in getattr(left.pop(), "_callbacks", None) or ():
            for waiter in filter(None, map(_future_of, _bound_to(callback))):
                if waiter not in seen:
                    seen.add(waiter)
                    left.append(waiter)
                    if isinstance(waiter, asyncio.Task):
                        yield waiter


def _bound_to(callback: Callable[..., Any]) -> list[Any]:
    """Return what a callback was made with."""
    if isinstance(callback, partial):
        return [*callback.args, *_bound_to(callback.func)]
    bound = [getattr(callback, "__self__", None)]
    for cell in getattr(callback, "__closure__", None) or ():
        try:
            bound.append(cell.cell_contents)
        except ValueError:  # it is empty
            continue
    return bound


def _future_of(holder: Any) -> asyncio.Future[Any] | None:
    """Return the future that something is, or the task that a task group belongs to."""
    if isinstance(holder, asyncio.Future):
        return cast("asyncio.Future[Any]", holder)
    scope = getattr(holder, "cancel_scope", None)
    host = getattr(holder, "_parent_task", None) or getattr(scope, "_host_task", None)
    return cast("asyncio.Task[Any]", host) if isinstance(host, asyncio.Task) else None
