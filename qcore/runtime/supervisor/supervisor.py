"""The parent: starts worker processes, watches them, replaces them, stops them."""

import asyncio
import os
from collections.abc import Sequence
from functools import partial

import anyio
import msgspec

from qcore.broker.backoff import Backoff
from qcore.broker.contract import Order
from qcore.broker.redis.broker import Broker
from qcore.environment import host_name, service_manager
from qcore.errors import BrokerError
from qcore.model.fleet import Processes, SupervisorState, SupervisorView, WorkerView
from qcore.runtime.host.machine import machine
from qcore.runtime.ipc.orders import DRAIN, EXIT_CONFIG, QUIET, RESUME, STOP_NOW
from qcore.runtime.services import kept
from qcore.runtime.supervisor.autoscaler import Autoscaler
from qcore.runtime.supervisor.crash_handler import CrashHandler
from qcore.runtime.supervisor.health_monitor import HealthMonitor
from qcore.runtime.supervisor.heartbeat import Heartbeat
from qcore.runtime.supervisor.orphan_recovery import OrphanRecovery
from qcore.runtime.supervisor.preflight import admits, watch
from qcore.runtime.supervisor.quarantine import Quarantine
from qcore.runtime.supervisor.rolling_restart import RollingRestart
from qcore.runtime.supervisor.systemd import Notifier
from qcore.runtime.supervisor.totals import Totals
from qcore.runtime.supervisor.worker_process import WorkerProcess
from qcore.runtime.supervisor.worker_slot import WorkerSlot
from qcore.runtime.supervisor.workers import Workers
from qcore.settings import (
    SupervisorConfig,
    WorkerConfig,
    check_stall,
    supervisors_share_s,
    time_for_jobs_s,
)
from qcore.telemetry import log

#: Exit code of a supervisor whose children never get ready.
EXIT_BOOT_LOOP = 70
#: Children that were told to stop now have so long at most, to clean up and to tell Redis.
_NOW_S = 6.0
#: To take its record away a supervisor has so long at least and at most: Redis may have just gone.
_LAST_ACT_MIN_S, _LAST_ACT_MAX_S = 0.1, 1.0
#: Jobs that it names when it is told to stop.
_NAMED = 3


class Supervisor:
    """Keeps the right number of worker processes alive.

    Runs no code of the user and handles no signals: the command calls `drain`, `stop_now`,
    `quiet`, `resume`, `roll` and `dump`.

    Args:
        config: How many processes, and when one is given up.
        worker: What each of them does.
        command: What starts a child; it finds its ChildConfig in the environment.
        broker: To take back the jobs of a child that died.

    Raises:
        ConfigError: the stall limit does not fit the clocks of the workers.
    """

    #: Workers that ended before they were ready, in a row, and why the last one did.
    _failures: int = 0
    _boot_error: str = ""
    #: Loop times at which the children that are left are killed, and the supervisor is gone.
    _kill_at: float = 0.0
    _leave_at: float = 0.0
    #: The jobs of the dead are taken back in here; set when there are no children any more.
    _last_takers: anyio.CancelScope | None = None
    _ordered: bytes | None = None
    _is_quiet: bool = False
    _exit_code: int = 0
    _started_at: float = 0.0
    #: Where the slots are kept, those that are opened later as well.
    _keepers: anyio.abc.TaskGroup | None = None

    def __init__(
        self,
        config: SupervisorConfig,
        worker: WorkerConfig,
        *,
        command: Sequence[str],
        broker: Broker,
    ) -> None:
        check_stall(config.stall_s, worker)
        # half of its own share is to kill children that are late, half to take back their jobs
        self._own_s = supervisors_share_s(worker.shutdown_timeout_s) / 2
        self._jobs_s = round(time_for_jobs_s(worker.shutdown_timeout_s), 1)
        self._kill_after_s = worker.shutdown_timeout_s - self._own_s
        self._config = config
        self._worker = msgspec.structs.replace(
            worker,
            shutdown_timeout_s=worker.shutdown_timeout_s - 2 * self._own_s,
            memory_bytes=config.kill_memory_bytes,
        )
        self._broker = broker
        self._stopping = stopping = asyncio.Event()
        #: Redis was asked once, with or without an answer, or there is no need to.
        self._asked = asyncio.Event()
        self._hurry = asyncio.Event()
        crash_handler = CrashHandler(broker, worker)
        self._workers = Workers(
            config, command=command, broker=broker, crash_handler=crash_handler, stopping=stopping
        )
        self._quarantine = Quarantine(self._workers, config, self._worker, stopping=stopping)
        self._slots = [self._slot(place) for place in range(config.processes)]
        self._rolling = RollingRestart(
            config, self._slots, look_s=worker.heartbeat_s, stopping=stopping
        )
        self._scaler = Autoscaler(
            config,
            self._worker,
            self._slots,
            broker=broker,
            open_slot=self._open_slot,
            is_quiet=lambda: self._is_quiet,
            stopping=stopping,
        )
        self._registration = Heartbeat(
            broker, self._worker, view=self.view, obey=self._obey_restart
        )
        self._unregistered = asyncio.Event()
        self._notifier = Notifier(service_manager(), self.view)

    def _slot(self, place: int) -> WorkerSlot:
        return WorkerSlot(
            place,
            self._workers,
            self._config,
            self._worker,
            stopping=self._stopping,
            on_beat=self._quarantine.see,
            judge=self._judge,
        )

    def _open_slot(self) -> None:
        taken = {slot.place for slot in self._slots}
        slot = self._slot(next(place for place in range(len(taken) + 1) if place not in taken))
        self._slots.append(slot)
        assert self._keepers is not None
        self._keepers.start_soon(self._keep_slot, slot)

    async def _keep_slot(self, slot: WorkerSlot) -> None:
        await kept(f"slot {slot.place}", slot.keep)
        if slot.is_leaving:
            self._slots.remove(slot)

    async def run(self) -> int:
        """Keep the children alive until stopped; return the exit code of the command.

        0 after a drain; EXIT_CONFIG when the server evicts or a child could not be configured;
        EXIT_BOOT_LOOP when children ended before they were ready `boot_failures` times in a row.
        """
        log.info(
            "supervisor.started",
            pid=os.getpid(),
            processes=self._config.processes,
            max_processes=self._config.process_limit,
            url=self._broker.shown_url,
        )
        self._started_at = anyio.current_time()
        async with anyio.create_task_group() as group:
            monitor = HealthMonitor(self._workers, self._config, leave_s=self._kill_after_s)
            group.start_soon(kept, "end", self._enforce_deadline)
            group.start_soon(kept, "introduction", self._introduce)
            group.start_soon(kept, "rolling", self._rolling.run)
            group.start_soon(kept, "health", monitor.run)
            group.start_soon(kept, "notifier", self._notifier.run)
            await self._asked.wait()
            group.start_soon(kept, "registration", self._register)
            group.start_soon(kept, "eviction", partial(watch, self._broker))
            group.start_soon(kept, "orphans", OrphanRecovery(self._broker, self._worker).run)
            if self._config.process_limit > self._config.processes:
                group.start_soon(kept, "scaler", self._scaler.run)
            async with anyio.create_task_group() as takers:
                await self._keep(takers)
                # every child is gone; jobs of the dead may still wait for Redis
                self._last_takers = takers.cancel_scope
                self._limit_taking()
            self._registration.end()
            left_s = self._leave_at - anyio.current_time()
            with anyio.move_on_after(max(_LAST_ACT_MIN_S, min(left_s, _LAST_ACT_MAX_S))):
                await self._unregistered.wait()
            group.cancel_scope.cancel()
        log.info("supervisor.stopped", exit_code=self._exit_code)
        return self._exit_code

    async def _register(self) -> None:
        await self._registration.run()
        self._unregistered.set()

    async def _keep(self, takers: anyio.abc.TaskGroup) -> None:
        """Keep the children until stopped, and until the last one is gone."""
        async with anyio.create_task_group() as group:
            self._workers.open(group, takers)
            self._keepers = group
            for slot in self._slots:
                group.start_soon(self._keep_slot, slot)
            for place in range(self._config.process_limit):
                group.start_soon(kept, "quarantine", partial(self._quarantine.keep, place))

    def drain(self) -> None:
        """Let every child finish what it runs, within the shutdown timeout."""
        self._order(DRAIN)

    def stop_now(self) -> None:
        """Let every child cancel and release what it runs."""
        self._order(STOP_NOW)

    def quiet(self) -> None:
        """Let every child claim nothing until `resume`; what runs goes on."""
        if not self._stopping.is_set():
            self._is_quiet = True
            self._workers.order(QUIET)
            log.info("supervisor.quieted", workers=len(self._workers.living))

    def resume(self) -> None:
        """Let the children claim again after `quiet`; without one it does nothing."""
        if self._is_quiet and not self._stopping.is_set():
            self._is_quiet = False
            self._workers.order(RESUME)
            log.info("supervisor.resumed", workers=len(self._workers.living))

    def roll(self, why: str) -> None:
        """Replace every child, one at a time, each when its successor is ready."""
        if not self._stopping.is_set():
            self._rolling.roll(why)
            self._notifier.look()

    def _obey_restart(self, order: Order) -> None:
        if self._stopping.is_set():
            return
        if order.leave:
            self.drain()
            log.info("exit.ordered", generation=order.generation)
        else:
            self._rolling.roll("restart", order.generation)

    def dump(self) -> None:
        """Let every child log the stacks of its jobs, tasks and threads."""
        self._workers.dump()

    def workers(self) -> list[WorkerView]:
        """Return the children as their last beats described them."""
        return self._workers.views()

    @property
    def totals(self) -> Totals:
        """What its children came to since it started."""
        return self._workers.totals

    def view(self) -> SupervisorView:
        """Return what to show of this supervisor."""
        state = SupervisorState.QUIET if self._is_quiet else SupervisorState.RUNNING
        return SupervisorView(
            host=host_name(),
            name=self._config.name or "worker",
            pid=os.getpid(),
            state=SupervisorState.DRAINING if self._stopping.is_set() else state,
            queues=self._worker.queues,
            age_s=round(anyio.current_time() - self._started_at, 3),
            machine=machine(),
            roll=self._rolling.last,
            processes=Processes(
                now=sum(not slot.is_leaving for slot in self._slots),
                min=self._config.processes,
                max=self._config.process_limit,
            ),
            workers=tuple(self.workers()),
            boot_failures=0 if self._has_ready() else self._failures,
            boot_error="" if self._has_ready() else self._boot_error,
        )

    def _order(self, order: bytes) -> None:
        now, is_first = anyio.current_time(), not self._stopping.is_set()
        hurries = order == STOP_NOW and not self._hurry.is_set()
        if is_first:
            self._kill_at = now + self._kill_after_s
            self._leave_at = self._kill_at + self._own_s
        if hurries:
            self._kill_at = min(self._kill_at, now + _NOW_S)
            self._hurry.set()
        self._ordered = order
        self._stopping.set()
        self._notifier.look()
        self._quarantine.wake()
        self._asked.set()
        self._workers.order(order)
        self._limit_taking()
        if is_first:
            self._log_draining()
        if hurries:
            log.info("supervisor.hurried", workers=len(self._workers.living))

    def _log_draining(self) -> None:
        beats = [child.beat for child in self._workers.living if child.beat is not None]
        oldest = sorted((job for beat in beats for job in beat.oldest), key=lambda job: -job.age_s)
        log.info(
            "supervisor.draining",
            workers=len(self._workers.living),
            running=sum(beat.running for beat in beats),
            oldest=[f"{job.task} {job.ref}" for job in oldest[:_NAMED]],
            timeout_s=self._jobs_s,
        )

    def _limit_taking(self) -> None:
        """Give what is left of the shutdown timeout to a Redis that does not answer just now."""
        if self._last_takers is not None:
            now = anyio.current_time()
            limit_at = self._leave_at if self._ordered == DRAIN else now + 2 * self._own_s
            # late as it may be: without a moment nothing could be taken back at all
            self._last_takers.deadline = max(limit_at, now + self._own_s)

    async def _introduce(self) -> None:
        """Check the server and make the queues known to operators, as soon as Redis is there.

        No child is started before Redis was asked once; when it is away they wait for it, too.
        """
        backoff, admitted = self._reconnecting(), False
        while True:
            try:
                admitted = admitted or await admits(
                    self._broker, allow_eviction=self._config.allow_eviction
                )
                if not admitted:
                    self._exit_code = EXIT_CONFIG
                    self._order(DRAIN)
                    return
                await self._broker.register(self._worker.queues)
            except BrokerError:
                self._asked.set()
                await anyio.sleep(backoff.next_s())
            except Exception:
                self._asked.set()  # whatever it is, the children may well work
                raise
            else:
                self._asked.set()
                return

    def _reconnecting(self) -> Backoff:
        return self._broker.backoff(self._worker.reconnect_min_s, self._worker.reconnect_max_s)

    def _has_ready(self) -> bool:
        return any(child.ready.is_set() for child in self._workers.living)

    def _judge(self, child: WorkerProcess) -> None:
        """Decide whether the end of a child is the end of the supervisor."""
        if child.ready.is_set() or self._has_ready():
            self._failures, self._boot_error = 0, ""
            return  # the others work: a half-copied deploy must not stop them
        self._failures += 1
        self._boot_error = child.end
        if child.process.returncode == EXIT_CONFIG:
            self._exit_code = EXIT_CONFIG
            self._order(DRAIN)
        elif self._failures >= self._config.boot_failures:
            log.error("supervisor.gave_up", failures=self._failures)
            self._exit_code = EXIT_BOOT_LOOP
            self._order(DRAIN)

    async def _enforce_deadline(self) -> None:
        """Kill what is late; after `stop_now` at once what is not ready and so has no job."""
        await self._stopping.wait()
        with anyio.move_on_after(self._kill_at - anyio.current_time()):
            await self._hurry.wait()
            for child in list(self._workers.living):
                if not child.ready.is_set():
                    self._workers.kill(child, "stopped before it was ready")
            await anyio.sleep(self._kill_at - anyio.current_time())
        for child in list(self._workers.living):
            self._workers.kill(child, "shutdown timeout")
