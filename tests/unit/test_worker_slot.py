"""How soon a worker that dies is started again."""

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from qcore.broker import backoff
from qcore.runtime.supervisor import worker_slot as module
from qcore.runtime.supervisor.worker_slot import WorkerSlot
from qcore.settings import SupervisorConfig, WorkerConfig


class Backoff(backoff.Backoff):
    """Waits for nothing, and tells how long it might have."""

    bounds: list[float]

    def next_s(self) -> float:
        self.bounds.append(self._bound_s)
        super().next_s()
        return 0.0


class Workers:
    """Its children end at once."""

    def __init__(self, age_s: float, stopping: asyncio.Event) -> None:
        self._age_s = age_s
        self._stopping = stopping
        self._left = 4

    def start(self, *_: Any, on_end: Callable[[Any], None], **__: Any) -> Any:
        child = SimpleNamespace(ready=asyncio.Event(), age_s=self._age_s)
        child.ready.set()
        asyncio.get_running_loop().call_soon(self._end, child, on_end)
        return child

    def _end(self, child: Any, on_end: Callable[[Any], None]) -> None:
        self._left -= 1
        if not self._left:
            self._stopping.set()
        on_end(child)


@pytest.mark.parametrize(("age_s", "bounds"), [(1.0, [0.1, 0.2, 0.4]), (3600.0, [0.1, 0.1, 0.1])])
async def test_worker_that_lived_for_long_is_started_again_as_soon_as_the_first_time(
    monkeypatch: pytest.MonkeyPatch, age_s: float, bounds: list[float]
):
    monkeypatch.setattr(Backoff, "bounds", [], raising=False)
    monkeypatch.setattr(module, "Backoff", Backoff)
    stopping = asyncio.Event()
    workers: Any = Workers(age_s, stopping)
    slot = WorkerSlot(
        0,
        workers,
        SupervisorConfig(processes=1),
        WorkerConfig(queues=("default",)),
        stopping=stopping,
        on_beat=lambda beat: None,
        judge=lambda child: None,
    )
    await asyncio.wait_for(slot.keep(), 10)
    assert Backoff.bounds == bounds
