"""Waiting for what other processes and tasks do, without sleeping for luck."""

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar, overload

T = TypeVar("T")


@overload
async def eventually(predicate: Callable[[], Awaitable[T]], timeout_s: float = 10.0) -> T: ...
@overload
async def eventually(predicate: Callable[[], T], timeout_s: float = 10.0) -> T: ...
async def eventually(
    predicate: Callable[[], T] | Callable[[], Awaitable[T]], timeout_s: float = 10.0
) -> T:
    """Return the first true value of `predicate`, asked every few ms; fail after `timeout_s`."""
    end = time.monotonic() + timeout_s
    while True:
        value = predicate()
        if inspect.isawaitable(value):
            value = await value
        if value:
            return value  # pyright: ignore[reportReturnType]
        assert time.monotonic() < end, f"not true within {timeout_s:g} s; the last value: {value!r}"
        await asyncio.sleep(0.005)
