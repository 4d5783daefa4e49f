"""The parent: starts worker processes, watches them, replaces them, stops them."""

import asyncio
from collections.abc import Sequence
from functools import partial

import anyio
import anyio.abc
import msgspec
import structlog

from qcore.broker.broker import Broker
from qcore.broker.connection import Backoff
from qcore.config import SupervisorConfig, WorkerConfig
from qcore.errors import BrokerError
from qcore.runtime.admission import admits
from qcore.runtime.child import DRAIN, EXIT_CONFIG, STOP_NOW
from qcore.runtime.child_process import ChildProcess, WorkerView
from qcore.runtime.processes import signal_name
from qcore.runtime.witness import Witness
from qcore.runtime.worker import Beat

log = structlog.get_logger()

#: Exit code of a supervisor whose children never get ready.
EXIT_BOOT_LOOP = 70
#: A child that lived so long after it was ready resets the restart backoff.
_STABLE_S = 10.0
#: What a supervisor keeps of the shutdown timeout for itself: its share, and at most so long.
_OWN_SHARE, _OWN_MOST_S = 0.2, 2.0


class Supervisor:
    """Keeps the right number of worker processes alive.

    Runs no code of the user and handles no signals: the command calls `drain` and `stop_now`.

    Args:
        config: How many processes, and when one is given up.
        worker: What each of them does.
        command: What starts a child; it finds its ChildConfig in the environment.
        broker: To take back the jobs of a child that died.
    """

    def __init__(
        self,
        config: SupervisorConfig,
        worker: WorkerConfig,
        *,
        command: Sequence[str],
        broker: Broker,
    ) -> None:
        # half of its own share is to kill children that are late, half to take back their jobs
        self._own_s = min(worker.shutdown_timeout_s * _OWN_SHARE, _OWN_MOST_S) / 2
        self._kill_after_s = worker.shutdown_timeout_s - self._own_s
        self._config = config
        self._worker = msgspec.structs.replace(
            worker, shutdown_timeout_s=worker.shutdown_timeout_s - 2 * self._own_s
        )
        self._command = command
        self._broker = broker
        self._witness = Witness(broker, worker)
        #: By their slot, and whether it is one for suspects.
        self._children: dict[tuple[bool, int], ChildProcess] = {}
        #: Suspects that wait for a process of their own, as the last beats said.
        self._suspects = 0
        self._suspects_wait = asyncio.Event()
        self._failures = 0
        self._stopping = asyncio.Event()
        #: Redis was asked once, with or without an answer, or there is no need to.
        self._asked = asyncio.Event()
        #: Loop time by which the supervisor must be gone.
        self._leave_at = 0.0
        #: The jobs of the dead are taken back in here; set when there are no children any more.
        self._last_takers: anyio.CancelScope | None = None
        self._ordered: bytes | None = None
        self._exit_code = 0

    async def run(self) -> int:
        """Keep the children alive until stopped; return the exit code of the command.

        0 after a drain; EXIT_CONFIG when the server evicts or a child could not be configured;
        EXIT_BOOT_LOOP when children ended before they were ready `boot_failures` times in a row.
        """
        log.info(
            "supervisor.started",
            processes=self._config.processes,
            url=self._broker.shown_url,
        )
        async with anyio.create_task_group() as group:
            group.start_soon(self._enforce_deadline)
            group.start_soon(self._introduce)
            await self._asked.wait()
            async with anyio.create_task_group() as takers:
                async with anyio.create_task_group() as slots:
                    for slot in range(self._config.processes):
                        slots.start_soon(self._keep, slot, takers)
                        slots.start_soon(self._keep_for_suspects, slot, takers)
                # every child is gone; jobs of the dead may still wait for Redis
                self._last_takers = takers.cancel_scope
                self._limit_taking()
            group.cancel_scope.cancel()
        log.info("supervisor.stopped", exit_code=self._exit_code)
        return self._exit_code

    def drain(self) -> None:
        """Let every child finish what it runs, within the shutdown timeout."""
        self._order(DRAIN)

    def stop_now(self) -> None:
        """Let every child cancel and release what it runs."""
        self._order(STOP_NOW)

    def workers(self) -> list[WorkerView]:
        """Return the children as their last beats described them."""
        return [child.view for _, child in sorted(self._children.items())]

    def _order(self, order: bytes) -> None:
        if not self._stopping.is_set():
            log.info("supervisor.draining", workers=len(self._children))
            self._leave_at = anyio.current_time() + self._kill_after_s + self._own_s
        self._ordered = order
        self._stopping.set()
        self._suspects_wait.set()
        self._asked.set()
        for child in self._children.values():
            child.order(order)
        self._limit_taking()

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
            else:
                self._asked.set()
                return

    def _reconnecting(self) -> Backoff:
        return self._broker.backoff(self._worker.reconnect_least_s, self._worker.reconnect_most_s)

    # -- one slot -------------------------------------------------------------------------------

    async def _keep(self, slot: int, takers: anyio.abc.TaskGroup) -> None:
        """Keep one child alive, restarting it with backoff, until stopped."""
        backoff = Backoff(self._config.restart_least_s, self._config.restart_most_s)
        while not self._stopping.is_set():
            child = await self._run_child(slot, self._worker, takers)
            if self._stopping.is_set():
                return
            if child is not None:
                self._judge(child)
                lived_s = asyncio.get_running_loop().time() - child.started_at
                if child.ready.is_set() and lived_s > _STABLE_S:
                    backoff.reset()
            await self._pause(backoff)

    async def _keep_for_suspects(self, slot: int, takers: anyio.abc.TaskGroup) -> None:
        """Run a child for suspects while more wait than can be taken; it leaves by itself."""
        worker = msgspec.structs.replace(
            self._worker, concurrency=1, threads=1, pool_size=1, suspects=True
        )
        backoff = Backoff(self._config.restart_least_s, self._config.restart_most_s)
        while True:
            await self._suspects_wait.wait()
            if self._stopping.is_set():
                return
            if self._suspects <= sum(child.is_free for child in self._children.values()):
                self._suspects_wait.clear()
                continue
            child = await self._run_child(slot, worker, takers)
            if child is not None and child.process.returncode == 0 and child.beat is not None:
                self._suspects = child.beat.suspects  # as many as it left
            if child is not None and child.ready.is_set():
                backoff.reset()
            await self._pause(backoff)

    def _see(self, beat: Beat) -> None:
        if beat.suspects:
            self._suspects = beat.suspects
            self._suspects_wait.set()

    async def _run_child(
        self, slot: int, worker: WorkerConfig, takers: anyio.abc.TaskGroup
    ) -> ChildProcess | None:
        """Start a child and see it to its end; None when it could not be started."""
        kind = "suspects." if worker.suspects else ""
        name = f"{self._config.name or 'worker'}.{kind}{slot + 1}"
        try:
            child = ChildProcess(
                name, self._broker.config, worker, self._command, on_beat=self._see
            )
        except OSError as e:  # no process, memory or descriptor to be had
            log.error("worker.failed", worker=name, error=str(e))  # noqa: TRY400 - one line
            return None
        self._children[worker.suspects, slot] = child
        log.info("worker.spawned", worker=name, pid=child.process.pid, owner=child.owner)
        code = await self._watch(child)
        del self._children[worker.suspects, slot]
        excused = self._stopping.is_set()
        takers.start_soon(partial(self._witness.take_back, child, code, excused=excused))
        return child

    async def _pause(self, backoff: Backoff) -> None:
        with anyio.move_on_after(backoff.next_s()):
            await self._stopping.wait()

    async def _watch(self, child: ChildProcess) -> int:
        """Return the exit code of a child; kill it if it never gets ready."""
        if self._ordered is not None:
            child.order(self._ordered)
        loop = asyncio.get_running_loop()
        watching = [loop.create_task(self._expect_ready(child))]
        if child.is_alone:
            watching.append(loop.create_task(self._expect_beats(child)))
        try:
            code = await child.wait()
        finally:
            for task in watching:
                task.cancel()
        beat = child.beat
        level = log.info if code == 0 else log.error
        level(
            "worker.exited",
            worker=child.name,
            pid=child.process.pid,
            exit_code=code if code >= 0 else None,
            signal=signal_name(-code) if code < 0 else None,
            rss_bytes=beat.rss_bytes if beat else None,
            running=beat.running if beat else 0,
        )
        return code

    async def _expect_ready(self, child: ChildProcess) -> None:
        loop, limit_s = asyncio.get_running_loop(), self._config.ready_timeout_s
        with anyio.move_on_after(limit_s):
            await child.ready.wait()
            self._failures = 0
            after_s = round(loop.time() - child.started_at, 3)
            log.info("worker.ready", worker=child.name, pid=child.process.pid, after_s=after_s)
            return
        log.error("worker.killed", worker=child.name, why=f"not ready after {limit_s:g} s")
        child.kill()

    async def _expect_beats(self, child: ChildProcess) -> None:
        """Kill a child whose loop is blocked for longer than a lease: its job is lost already."""
        loop, limit_s = asyncio.get_running_loop(), self._worker.lease_s
        await child.ready.wait()
        while True:
            left_s = child.beat_at + limit_s - loop.time()
            if left_s <= 0:
                break
            await anyio.sleep(left_s)
        log.error("worker.killed", worker=child.name, why=f"silent for {limit_s:g} s")
        child.kill()

    def _judge(self, child: ChildProcess) -> None:
        """Decide whether the end of a child is the end of the supervisor."""
        if child.ready.is_set() or any(c.ready.is_set() for c in self._children.values()):
            return  # the others work: a half-copied deploy must not stop them
        self._failures += 1
        if child.process.returncode == EXIT_CONFIG:
            self._exit_code = EXIT_CONFIG
            self._order(DRAIN)
        else:
            if self._failures >= self._config.boot_failures:
                log.error("supervisor.gave_up", failures=self._failures)
                self._exit_code = EXIT_BOOT_LOOP
                self._order(DRAIN)

    async def _enforce_deadline(self) -> None:
        await self._stopping.wait()
        await anyio.sleep(self._kill_after_s)
        for child in list(self._children.values()):
            log.error("worker.killed", worker=child.name, why="shutdown timeout")
            child.kill()
