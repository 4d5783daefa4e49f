"""A master dies, hangs or hands over while jobs flow; a slot moves. Sentinel and Cluster."""

import asyncio
import random
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from qcore import BrokerUnavailable, NotConfirmed
from tests.support.checker import Findings, check
from tests.support.fleet import Fleet, Producer, fleet_on
from tests.support.servers import Server
from tests.support.topologies import Nodes, SentinelSet, slot_of
from tests.support.waiting import eventually

#: The goal is 5 s after the new master is up; a loaded machine may take longer.
BACK_S = 15.0
QUEUES = ("urgent", "default", "low")
#: In this namespace each of the queues lies on another master of the Cluster.
NAMESPACE = next(
    name for i in range(1000) if len({slot_of(name := f"f{i}", q) // 5462 for q in QUEUES}) == 3
)
SLOT = slot_of(NAMESPACE, "default")


@pytest.fixture
def sentinels(tmp_path: Path) -> Iterator[SentinelSet]:
    with SentinelSet(tmp_path / "topology") as topology:
        yield topology


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[Nodes]:
    # the master of the queue that is hit keeps a replica after its failover, to confirm
    with Nodes(
        tmp_path / "topology", replicas=[1 + (i == SLOT // 5462) for i in range(3)]
    ) as topology:
        yield topology


@dataclass
class Flow:
    """Producers that confirm, on every queue; when each of their jobs was acknowledged."""

    fleet: Fleet
    dice: random.Random
    over: asyncio.Event = field(default_factory=asyncio.Event)
    acked: dict[int, float] = field(default_factory=dict[int, float])
    queue_of: dict[int, str] = field(default_factory=dict[int, str])

    async def run(self, producer: Producer, queue: str) -> None:
        tasks = [producer.task(name) for name in ("work", "work_once")]
        while not self.over.is_set():
            dispatch = self.dice.choice(tasks).options(queue=queue, confirm=1)
            n = await producer.send(dispatch, self.dice.choice((0.0, 0.0, 0.02, 0.3)))
            self.queue_of[n] = queue
            if self.fleet.history.outcomes[n] == "ok":
                self.acked[n] = time.monotonic()
            await asyncio.sleep(0.01)

    async def flows(self, queue: str, since: float, timeout_s: float) -> tuple[float, float]:
        """Wait until a job acknowledged after `since` has been done; return when both were."""

        def found() -> tuple[float, float] | None:
            runs = self.fleet.runs()
            for n, at in list(self.acked.items()):
                if at > since and self.queue_of[n] == queue:
                    ends = [r.ended_at for r in runs.get(n, ()) if r.ended_at is not None]
                    if ends:
                        return at, min(ends)
            return None

        both = await eventually(found, timeout_s)
        assert both is not None
        return both


Fault = Callable[[], float]


async def flow_through(
    tmp_path: Path, url: str, dice: random.Random, fault: Fault, after: Callable[[], object]
) -> Findings:
    """Let jobs flow, call `fault`, which returns when the new master was up, and judge."""
    with fleet_on(tmp_path, url, NAMESPACE) as fleet:
        command = fleet.start(processes=2, concurrency=50, queues=",".join(QUEUES))
        await command.ready(2)
        flow = Flow(fleet, dice)
        async with fleet.producer() as first, fleet.producer() as second:
            async with asyncio.TaskGroup() as group:
                for producer in (first, second):
                    for queue in QUEUES:
                        group.create_task(flow.run(producer, queue))
                for queue in QUEUES:
                    await flow.flows(queue, 0.0, 15)
                began = time.monotonic()
                up = await asyncio.to_thread(fault)
                for queue in QUEUES:
                    acked, done = await flow.flows(queue, max(began, up - 0.2), BACK_S)
                    print(
                        f"{queue}: acknowledged {acked - up:.2f} s, done {done - up:.2f} s after "
                        f"the new master was up, which took {up - began:.2f} s"
                    )
                    assert done - up < BACK_S
                await asyncio.to_thread(after)
                now = time.monotonic()
                for queue in QUEUES:
                    await flow.flows(queue, now, BACK_S)
                flow.over.set()
            await fleet.emptied(30)
        command.signal()
        assert await command.ended(15) == 0
        assert command.exit_codes() == [0, 0], command.tail()
        findings = check(fleet.history, fleet.runs())
        print(
            f"acknowledged {len(flow.acked)}, lost {len(findings.lost)}, "
            f"unexpected {len(findings.unexpected)}, done {findings.done}, runs {findings.runs}, "
            f"duplicated {len(findings.duplicated)}, errors {len(fleet.history.errors)}"
        )
        assert not findings.lost
        assert not findings.unexpected
        return findings


def nothing() -> None: ...


# -- Sentinel ----------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
async def test_sentinel_replaces_a_master_that_dies_or_hangs(
    tmp_path: Path, sentinels: SentinelSet, dice: random.Random, number: signal.Signals
):
    old = sentinels.master()

    def fault() -> float:
        bring_down(old, number)
        sentinels.successor(old)
        return time.monotonic()

    await flow_through(tmp_path, sentinels.url, dice, fault, lambda: bring_back(old, number))


async def test_sentinel_failover_that_was_planned(
    tmp_path: Path, sentinels: SentinelSet, dice: random.Random
):
    old = sentinels.master()

    def fault() -> float:
        sentinels.sentinels[0].ask("SENTINEL", "FAILOVER", "qcore")
        sentinels.successor(old)
        return time.monotonic()

    await flow_through(tmp_path, sentinels.url, dice, fault, nothing)


def bring_down(server: Server, number: signal.Signals) -> None:
    if number is signal.SIGKILL:
        server.kill()
    else:
        server.signal(number)


def bring_back(server: Server, number: signal.Signals) -> None:
    """Let it come back: it thinks that it is the master, until it is told otherwise."""
    if number is signal.SIGKILL:
        server.start()
    else:
        server.signal(signal.SIGCONT)


async def test_failover_loses_nothing_that_was_confirmed_and_only_what_was_not(
    tmp_path: Path, sentinels: SentinelSet
):
    old = sentinels.master()
    replicas = [s for s in sentinels.servers if s is not old]
    with fleet_on(tmp_path, sentinels.url, NAMESPACE) as fleet:
        async with fleet.producer() as producer:
            task = producer.task("work")
            confirmed = [await task.options(confirm=1).enqueue(n) for n in range(50)]
            for replica in replicas:
                replica.signal(signal.SIGSTOP)
            # more than the sockets between the servers hold
            heavy = producer.task("carry")
            bare = [await heavy.enqueue(n, 0.0, "x" * 100_000) for n in range(100, 300)]
            with pytest.raises(NotConfirmed, match="but 0 of 1 replicas had it in time") as e:
                await task.options(confirm=1).enqueue(300)
            assert e.value.sent
            old.kill()
            for replica in replicas:
                replica.signal(signal.SIGCONT)
            await asyncio.to_thread(sentinels.successor, old)

            async def found(job) -> bool:
                while True:
                    try:
                        return await producer.app.inspector.job(job.queue, job.id) is not None
                    except BrokerUnavailable:
                        await asyncio.sleep(0.1)

            assert all([await found(job) for job in confirmed])
            lost = [job for job in bare if not await found(job)]
            print(f"lost {len(lost)} of {len(bare)} that were acknowledged and not confirmed")
            assert lost  # that is what confirm is for


# -- Cluster -----------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
async def test_cluster_replaces_a_master_that_dies_or_hangs(
    tmp_path: Path, nodes: Nodes, dice: random.Random, number: signal.Signals
):
    old = nodes.master_of(SLOT)

    def fault() -> float:
        bring_down(old, number)
        nodes.successor(old, SLOT)
        return time.monotonic()

    await flow_through(tmp_path, nodes.url, dice, fault, lambda: bring_back(old, number))


async def test_cluster_failover_that_was_planned(tmp_path: Path, nodes: Nodes, dice: random.Random):
    old = nodes.master_of(SLOT)

    def fault() -> float:
        nodes.replicas_of(old)[0].ask("CLUSTER", "FAILOVER")
        nodes.successor(old, SLOT)
        return time.monotonic()

    await flow_through(tmp_path, nodes.url, dice, fault, nothing)


async def test_cluster_slot_that_moves_there_and_back(
    tmp_path: Path, nodes: Nodes, dice: random.Random
):
    home = nodes.master_of(SLOT)
    other = nodes.master_of(slot_of(NAMESPACE, "low"))

    def fault() -> float:
        assert nodes.migrate(SLOT, other) > 0
        assert nodes.migrate(SLOT, home) > 0
        return time.monotonic()

    findings = await flow_through(tmp_path, nodes.url, dice, fault, nothing)
    assert not findings.duplicated


async def test_cluster_queue_of_a_dead_node_waits_while_the_others_flow(
    tmp_path: Path, nodes: Nodes, dice: random.Random
):
    """Without its replica nobody takes over: the node must come back."""
    old = nodes.master_of(SLOT)
    replicas = nodes.replicas_of(old)
    with fleet_on(tmp_path, nodes.url, NAMESPACE) as fleet:
        command = fleet.start(processes=2, concurrency=50, queues=",".join(QUEUES))
        await command.ready(2)
        async with fleet.producer() as producer:
            running = [
                await producer.send(producer.task("work").options(queue=q, confirm=1), 2.0)
                for q in QUEUES
                for _ in range(5)
            ]
            await eventually(lambda: len(fleet.runs()) == len(running), 10)
            for server in (*replicas, old):
                server.kill()
            for _ in range(5):  # the one that was idle finds out, too
                for queue in ("urgent", "low"):
                    await producer.send(producer.task("work").options(queue=queue), 0.0)
            others = set(fleet.history.outcomes)
            await eventually(lambda: fleet.done() >= others, 15)
            await eventually(lambda: command.events("queue.lost"), 10)
            assert {e["queue"] for e in command.events("queue.lost")} == {"default"}
            await asyncio.to_thread(old.start)
            await producer.send("work", 0.0)
            await fleet.emptied(30)
        command.signal()
        assert await command.ended(15) == 0
        findings = check(fleet.history, fleet.runs())
        print(findings)
        assert not findings.lost
        assert command.events("queue.regained")
