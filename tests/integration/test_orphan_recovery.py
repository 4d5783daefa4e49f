"""What a supervisor takes over when it starts: from the dead of its own machine, nobody else."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import msgspec
import pytest

from qcore.broker.redis.broker import Broker
from qcore.broker.redis.fleet import Fleet
from qcore.environment import host_name
from qcore.errors import BrokerUnavailable
from qcore.model.fleet import SupervisorState, SupervisorView, WorkerState, WorkerView
from qcore.model.job import Reclaimed
from qcore.runtime.host.machine import is_working, machine, stat_of
from qcore.runtime.supervisor import orphan_recovery
from qcore.runtime.supervisor.orphan_recovery import OrphanRecovery
from qcore.settings import WorkerConfig
from tests.support.moves import OWNER, QUEUE, claim, content, leased
from tests.support.waiting import eventually

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="no machine is known by name")
WORKER = WorkerConfig(queues=(QUEUE,))


def run(code: str) -> int:
    process = subprocess.Popen([sys.executable, "-c", code], process_group=0)
    process.wait(20)
    return process.pid


@pytest.fixture
def dead() -> int:
    """Return the pid of a process that is gone."""
    return run("")


@pytest.fixture
def parent() -> int:
    """Return the pid of a process that is gone, and of a group that is not."""
    return run("import subprocess; subprocess.Popen(['sleep', '60'])")


@contextmanager
def unseen() -> Iterator[int]:
    """Yield the pid of a process that is dead and not waited for."""
    process = subprocess.Popen([sys.executable, "-c", ""], process_group=0)
    while stat_of(process.pid)[0] != b"Z":
        time.sleep(0.01)
    yield process.pid
    process.wait()


def supervisor(pid: int, worker: WorkerView) -> SupervisorView:
    return SupervisorView(
        host=host_name(),
        name="worker",
        pid=pid,
        state=SupervisorState.RUNNING,
        queues=(QUEUE,),
        age_s=60.0,
        machine=machine(),
        workers=(worker,),
    )


async def is_held(broker: Broker) -> bool:
    return "active" in await content(broker)


@pytest.mark.parametrize(
    "other", [{"host": "elsewhere"}, {"machine": "before the boot"}, {"pid": os.getpid()}]
)
async def test_jobs_of_others_are_left_to_them(broker: Broker, dead: int, other: dict[str, object]):
    worker = WorkerView(name="worker.1", pid=dead, state=WorkerState.RUNNING, owner=OWNER)
    await Fleet(broker).beat("it", msgspec.structs.replace(supervisor(dead, worker), **other))
    await leased(broker, "a")
    await asyncio.wait_for(OrphanRecovery(broker, WORKER).run(), 10)
    assert await is_held(broker)
    assert [member.id for member in await Fleet(broker).members()] == ["it"]


async def test_record_of_an_older_version_is_forgotten_and_its_leases_end_by_themselves(
    broker: Broker, dead: int
):
    worker = WorkerView(name="worker.1", pid=dead, state=WorkerState.RUNNING)
    await Fleet(broker).beat("it", supervisor(dead, worker))
    await asyncio.wait_for(OrphanRecovery(broker, WORKER).run(), 10)
    assert await Fleet(broker).members() == []


async def test_worker_that_is_dead_and_whose_parent_does_not_look_is_gone(broker: Broker):
    with unseen() as pid:
        worker = WorkerView(name="worker.1", pid=pid, state=WorkerState.RUNNING, owner=OWNER)
        await Fleet(broker).beat("it", supervisor(pid, worker))
        await leased(broker, "a")
        await asyncio.wait_for(OrphanRecovery(broker, WORKER).run(), 10)
    assert not await is_held(broker)


async def test_worker_whose_pool_still_runs_keeps_its_jobs(
    broker: Broker, parent: int, monkeypatch: pytest.MonkeyPatch
):
    """Its group is there though it is gone."""
    looks: list[int] = []

    def look(pid: int) -> bool:
        looks.append(pid)
        return is_working(pid)

    monkeypatch.setattr(orphan_recovery, "is_working", look)
    monkeypatch.setattr(orphan_recovery, "_LOOK_S", 0.05)
    worker = WorkerView(name="worker.1", pid=parent, state=WorkerState.RUNNING, owner=OWNER)
    await Fleet(broker).beat("it", supervisor(parent, worker))
    await leased(broker, "a")
    orphans = asyncio.create_task(OrphanRecovery(broker, WORKER).run())
    try:
        await eventually(lambda: len(looks) == 3)
        assert await is_held(broker)
    finally:
        os.killpg(parent, signal.SIGKILL)
    await asyncio.wait_for(orphans, 10)
    assert not await is_held(broker)


async def test_queue_that_cannot_be_reached_does_not_hold_up_the_others(
    broker: Broker, dead: int, monkeypatch: pytest.MonkeyPatch
):
    """As when the node of it in a Cluster is away."""
    worker = WorkerView(name="worker.1", pid=dead, state=WorkerState.RUNNING, owner=OWNER)
    away = supervisor(dead, worker)
    await Fleet(broker).beat("it", msgspec.structs.replace(away, queues=("away", QUEUE)))
    await leased(broker, "a")
    reclaim_owner, answers = broker.reclaim_owner, asyncio.Event()

    async def reclaim(
        queues: Sequence[str], *args: Any, **options: Any
    ) -> dict[str, list[Reclaimed]]:
        if "away" in queues and not answers.is_set():
            queues = [queue for queue in queues if queue != "away"]
        if not queues:
            raise BrokerUnavailable("its node is away")
        return await reclaim_owner(queues, *args, **options)

    monkeypatch.setattr(broker, "reclaim_owner", reclaim)
    orphans = asyncio.create_task(OrphanRecovery(broker, WORKER).run())

    async def is_back() -> bool:
        return not await is_held(broker)

    await eventually(is_back)
    assert await Fleet(broker).members()
    answers.set()
    await asyncio.wait_for(orphans, 10)
    assert await Fleet(broker).members() == []


async def test_claim_that_outlived_its_worker_is_not_charged(broker: Broker, dead: int):
    """Its job never ran; the second look finds it."""
    worker = WorkerView(name="worker.1", pid=dead, state=WorkerState.RUNNING, owner=OWNER)
    await Fleet(broker).beat("it", supervisor(dead, worker))
    await leased(broker, "a")
    orphans = asyncio.create_task(OrphanRecovery(broker, WORKER).run())

    async def is_back() -> bool:
        return not await is_held(broker)

    await eventually(is_back)
    assert (await claim(broker, queues=[QUEUE])).leases
    await asyncio.wait_for(orphans, 10)
    assert not await is_held(broker)
    assert (await content(broker))["crashes"]["a"].split()[0] == "1"
