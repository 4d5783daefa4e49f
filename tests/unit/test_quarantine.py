"""How many quarantine processes are started, and when no more."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from qcore.runtime.ipc.messages import Beat
from qcore.runtime.supervisor.quarantine import Quarantine
from qcore.settings import SupervisorConfig, WorkerConfig
from tests.support.virtual_time import run_in_no_time


def beat(quarantined: int) -> Beat:
    return Beat(1, True, False, False, 0, 0, 0, 0.0, quarantined=quarantined)


class Workers:
    """Its children are free until the test ends them."""

    def __init__(self) -> None:
        self.living: list[Any] = []
        self.started: list[WorkerConfig] = []

    def start(self, place: int, worker: WorkerConfig, **_: Any) -> Any:
        child = SimpleNamespace(
            is_free=True,
            beat=beat(0),
            ready=asyncio.Event(),
            ended=asyncio.Event(),
            process=SimpleNamespace(returncode=0),
        )
        child.ready.set()
        self.living.append(child)
        self.started.append(worker)
        return child

    def end(self) -> None:
        for child in self.living:
            child.ended.set()
        self.living.clear()


async def turns() -> None:
    """Let everything happen that can."""
    for _ in range(20):
        await asyncio.sleep(0)


@pytest.mark.parametrize("places", [1, 2])
def test_each_quarantined_job_gets_one_process_and_none_is_started_when_all_are_gone(places: int):
    workers: Any = Workers()

    async def run() -> None:
        stopping = asyncio.Event()
        quarantine = Quarantine(
            workers,
            SupervisorConfig(processes=places, restart_min_s=0.01, restart_max_s=0.01),
            WorkerConfig(queues=("default",), concurrency=100, threads=5, pool_size=2),
            stopping=stopping,
        )
        async with asyncio.TaskGroup() as group:
            for place in range(places):
                group.create_task(quarantine.keep(place))
            quarantine.see(beat(1))
            await turns()
            assert len(workers.started) == 1, "one for one"
            workers.end()  # it has run it, and leaves none
            await asyncio.sleep(60)  # longer than it rests before the next
            assert len(workers.started) == 1
            quarantine.see(beat(2))
            await turns()
            assert len(workers.started) == 1 + places
            stopping.set()
            workers.end()
            quarantine.wake()

    run_in_no_time(run())
    # never more than an ordinary one takes at a time
    assert {(w.concurrency, w.threads, w.pool_size) for w in workers.started} == {(10, 5, 2)}
