"""Opens and closes slots of a supervisor, as many as the backlog asks for."""

import asyncio
from collections.abc import Callable, Sequence

import anyio

from qcore.broker.redis.broker import Broker
from qcore.broker.redis.inspector import Inspector
from qcore.errors import BrokerError
from qcore.runtime.supervisor.scaling_policy import ScalingPolicy, Seen
from qcore.runtime.supervisor.worker_slot import WorkerSlot
from qcore.settings import SupervisorConfig, WorkerConfig
from qcore.telemetry import log

#: Beats between two looks: each look is to see something new.
_LOOK_BEATS = 2


class Autoscaler:
    """Lets the number of worker processes follow the backlog, within the range of a supervisor.

    Redis: depth.lua once per queue, in one round trip, every second heartbeat.

    Args:
        config: The range, and how soon it grows and shrinks.
        worker: Queues and heartbeat.
        slots: Those of the supervisor, also the new ones.
        broker: Where the queues are.
        open_slot: Adds a slot and keeps it.
        is_quiet: Whether nothing is to be claimed: then the number stays.
        stopping: Set when the supervisor is to end.
    """

    def __init__(
        self,
        config: SupervisorConfig,
        worker: WorkerConfig,
        slots: Sequence[WorkerSlot],
        *,
        broker: Broker,
        open_slot: Callable[[], None],
        is_quiet: Callable[[], bool],
        stopping: asyncio.Event,
    ) -> None:
        self._queues = worker.queues
        self._look_s = _LOOK_BEATS * worker.heartbeat_s
        self._slots = slots
        self._inspector = Inspector(broker)
        self._open_slot = open_slot
        self._is_quiet = is_quiet
        self._stopping = stopping
        self._scaling = ScalingPolicy(
            config.processes,
            config.process_limit,
            target_wait_s=config.target_wait_s,
            shrink_after_s=config.shrink_after_s,
            look_s=self._look_s,
        )

    async def run(self) -> None:
        """Look, decide and act, until stopped."""
        async with anyio.create_task_group() as group:
            while not self._stopping.is_set():
                with anyio.move_on_after(self._look_s):
                    await self._stopping.wait()
                for slot in self._slots:
                    if slot.may_go:
                        group.start_soon(slot.see_off)
                seen = await self._look()
                if self._stopping.is_set():
                    return
                # the first beats after the order to be quiet may not say so
                if seen is None or self._is_quiet():
                    self._scaling.forget()
                    continue
                was, why = self._scaling.wanted, self._scaling.decide(seen)
                if why:
                    log.info("workers.scaled", was=was, wanted=self._scaling.wanted, why=why)
                self._adjust()

    async def _look(self) -> Seen | None:
        """Return what there is to do and who does it; None when Redis does not say."""
        try:
            stats = await self._inspector.queues(self._queues)
        except BrokerError:
            return None
        # a quarantined job waits for a process of its own, and what is paused for its end
        crowded = [q for q in stats if q.paused is None and q.ready > q.quarantined]
        return Seen(
            asyncio.get_running_loop().time(),
            sum(queue.ready - queue.quarantined for queue in crowded),
            [slot.current.view for slot in self._slots if slot.current is not None],
            {queue.name: queue.oldest_ready_s or 0.0 for queue in crowded},
        )

    def _adjust(self) -> None:
        staying = [slot for slot in self._slots if not slot.is_leaving]
        missing = self._scaling.wanted - len(staying)
        for slot in self._slots:
            if missing > 0 and slot.is_leaving:
                missing -= slot.recall()
        for _ in range(missing):
            self._open_slot()
        # one whose child is being replaced has two: its turn comes when there is one
        spare = sorted((slot for slot in staying if not slot.is_changing), key=_worth)
        for slot in spare[: max(0, -missing)]:
            slot.leave()


def _worth(slot: WorkerSlot) -> tuple[bool, int, int]:
    """Sort those first that are missed least: not ready, with few jobs, opened last."""
    child = slot.current
    if child is None or child.beat is None:
        return False, 0, -slot.place
    return child.ready.is_set(), child.beat.running, -slot.place
