"""When a supervisor looks for what a worker held that left with claims it had not heard of."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from qcore.broker.backoff import Backoff
from qcore.errors import BrokerUnavailable
from qcore.runtime.supervisor.crash_handler import CrashHandler
from qcore.settings import WorkerConfig
from tests.support.virtual_time import run_in_no_time

WORKER = WorkerConfig(queues=("default",), lease_s=30, block_s=5)


def child(*, holding: bool = True, unheard: bool = True) -> Any:
    """A worker that left because it was told to."""
    beat = SimpleNamespace(holding=holding, unheard=unheard)
    return SimpleNamespace(left_well=True, beat=beat, culprits=(), owner="aa")


def looks(left: Any, *, stop_at: float | None = None, is_away: bool = False) -> tuple[Any, float]:
    """Return when it looked, and when it was done."""
    times: list[float] = []

    async def run() -> float:
        loop = asyncio.get_running_loop()
        began, stopping = loop.time(), asyncio.Event()

        async def reclaim_owner(*_: object, charge: bool, **__: object) -> dict[str, list[Any]]:
            assert not charge
            times.append(round(loop.time() - began, 1))
            if is_away:
                raise BrokerUnavailable("away")
            return {"default": []}

        broker: Any = SimpleNamespace(
            groups=lambda queues: [queues], backoff=Backoff, reclaim_owner=reclaim_owner
        )
        if stop_at == 0:
            stopping.set()
        elif stop_at is not None:
            loop.call_later(stop_at, stopping.set)
        await CrashHandler(broker, WORKER).take_back(left, 0, excused=True, stopping=stopping)
        return loop.time() - began

    return times, run_in_no_time(run())


def test_claim_behind_a_wait_that_goes_on_is_looked_for_when_the_wait_is_over():
    assert looks(child()) == ([0, 1, 6], pytest.approx(6, abs=0.1))


def test_supervisor_that_stops_does_not_wait_for_the_end_of_the_wait():
    assert looks(child(), stop_at=0) == ([0, 1, 1], pytest.approx(1, abs=0.1))
    assert looks(child(), stop_at=3) == ([0, 1, 3], pytest.approx(3, abs=0.1))


def test_supervisor_that_stops_while_redis_is_away_looks_for_two_seconds():
    _, done = looks(child(), stop_at=0, is_away=True)
    assert done == pytest.approx(2, abs=0.1)


def test_worker_that_left_with_nothing_is_not_looked_after():
    assert looks(child(holding=False, unheard=False)) == ([], 0)
