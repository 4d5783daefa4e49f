"""An event loop whose time is made up: nothing waits, hours pass in a moment."""

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class _Selector(selectors.DefaultSelector):
    """Lets the time pass in which the loop would wait."""

    passed_s = 0.0

    def select(self, timeout: float | None = None) -> list[Any]:
        assert timeout is not None, "all wait for each other"
        self.passed_s += max(0.0, timeout)
        return super().select(0)


class VirtualLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._waits = _Selector()
        super().__init__(self._waits)

    def time(self) -> float:
        return self._waits.passed_s


def run_in_no_time(work: Coroutine[Any, Any, T]) -> T:
    """Run it to its end in an event loop of its own, which waits for nothing but itself."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(work)
