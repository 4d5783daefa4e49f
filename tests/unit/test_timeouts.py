"""One timer for all running jobs: their timeouts, their trust, and runs that ended oddly."""

import asyncio
from typing import Any

import pytest

from qcore.model.job import Lease, Outcome, Released
from qcore.runtime.worker.running_job import Running, Stop
from qcore.runtime.worker.timeouts import TICK_S, Timeouts
from tests.support.virtual_time import run_in_no_time


class Jobs:
    """Running jobs, and how they ended."""

    def __init__(self, *running: Running) -> None:
        self.running = list(running)
        self.ended: list[tuple[str, Outcome | None]] = []

    def all(self) -> list[Running]:
        return list(self.running)

    def end(self, running: Running, outcome: Outcome | None) -> None:
        self.running.remove(running)
        self.ended.append((running.lease.id, outcome))


def job(id: str, **facts: Any) -> Running:
    running = Running(Lease(f"o:1:{id}".encode(), "default", id, b"", None, 0, 0, 0), 0.0, 1000.0)
    running.started_ms = 1
    for name, value in facts.items():
        setattr(running, name, value)
    return running


async def watched(jobs: Jobs, for_s: float) -> None:
    jobs_: Any = jobs
    watching = asyncio.ensure_future(Timeouts(jobs_).run())
    await asyncio.sleep(for_s)
    watching.cancel()


@pytest.mark.parametrize(
    ("facts", "stop"),
    [
        ({"deadline": 5.0}, Stop.TIMEOUT),
        ({"deadline": None}, None),
        ({"exclusive": True, "trusted_until": 5.0}, Stop.UNTRUSTED),
        ({"exclusive": False, "trusted_until": 5.0}, None),
        ({"deadline": 1000.0, "exclusive": True}, None),
    ],
)
def test_job_is_stopped_when_its_time_is_over(facts: dict[str, Any], stop: Stop | None):
    early, late = [], []

    async def run() -> None:
        running = job("a", **facts)
        running.task = asyncio.ensure_future(asyncio.sleep(100))
        await watched(Jobs(running), 4.9)
        early.append(running.stop)
        await watched(Jobs(running), 3 * TICK_S)
        late.append(running.stop)

    run_in_no_time(run())
    assert (early, late) == ([None], [stop])


@pytest.mark.parametrize(("started_ms", "outcome"), [(0, Released()), (1, None)])
def test_slot_of_a_run_that_is_over_is_freed(started_ms: int, outcome: Outcome | None):
    """What never began goes back; else its lease ends unrenewed, and counts."""

    async def run() -> Jobs:
        running = job("a", started_ms=started_ms)
        running.task = asyncio.ensure_future(asyncio.sleep(0))
        await running.task
        jobs = Jobs(running)
        await watched(jobs, 2 * TICK_S)
        return jobs

    assert run_in_no_time(run()).ended == [("a", outcome)]
