"""The parent: starts worker processes, watches them, replaces them, stops them."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from enum import StrEnum

import anyio
import anyio.abc
import anyio.to_thread
import msgspec
import structlog

from qcore.broker.broker import Broker
from qcore.broker.connection import Backoff
from qcore.broker.identity import new_owner
from qcore.config import BrokerConfig, SupervisorConfig, WorkerConfig, child_environment
from qcore.errors import BrokerError
from qcore.runtime.child import CHILD_CONFIG, DRAIN, EXIT_CONFIG, STOP_NOW, ChildConfig
from qcore.runtime.maintenance import log_reclaimed
from qcore.runtime.processes import signal_name
from qcore.runtime.worker import Beat

log = structlog.get_logger()

#: Exit code of a supervisor whose children never get ready.
EXIT_BOOT_LOOP = 70
#: A child that lived so long after it was ready resets the restart backoff.
_STABLE_S = 10.0
#: What a supervisor keeps of the shutdown timeout for itself: its share, and at most so long.
_OWN_SHARE, _OWN_MOST_S = 0.2, 2.0
#: A claim that was on its way when its process died is looked for again after this.
_SECOND_LOOK_S = 1.0


class WorkerState(StrEnum):
    """What a supervisor knows about a child."""

    STARTING = "starting"
    RUNNING = "running"
    DRAINING = "draining"
    RESTARTING = "restarting"


class WorkerView(msgspec.Struct, frozen=True, kw_only=True):
    """One child, as its last beat said."""

    name: str
    pid: int
    state: WorkerState
    running: int
    done: int
    rss_bytes: int
    loop_lag_ms: float


class _Child:
    """One worker process with its pipes, until it is gone."""

    def __init__(
        self, name: str, broker: BrokerConfig, worker: WorkerConfig, command: Sequence[str]
    ) -> None:
        self.name = name
        self.owner = new_owner()
        self.beat: Beat | None = None
        self.gone = asyncio.Event()
        self.ready = asyncio.Event()
        self._buffer = b""
        self._beats_fd, beats_fd = os.pipe()
        orders_fd, self._orders_fd = os.pipe()
        told = ChildConfig(
            broker=broker,
            worker=worker,
            owner=self.owner,
            orders_fd=orders_fd,
            beats_fd=beats_fd,
        )
        try:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                # not on the command line: the URL may hold a password
                env=child_environment({CHILD_CONFIG: msgspec.json.encode(told).decode()}),
                pass_fds=(orders_fd, beats_fd),
                process_group=0,
            )
        except BaseException:
            os.close(self._beats_fd)
            os.close(self._orders_fd)
            raise
        finally:
            os.close(orders_fd)
            os.close(beats_fd)
        os.set_blocking(self._beats_fd, False)
        os.set_blocking(self._orders_fd, False)
        self._loop = asyncio.get_running_loop()
        self.started_at = self._loop.time()
        self._loop.add_reader(self._beats_fd, self._read)
        self._pidfd: int | None = None
        if sys.platform == "linux":
            # the pipe alone would not do: what a task forked may hold its other end open
            with contextlib.suppress(OSError):  # an old kernel, or no descriptor to be had
                self._pidfd = os.pidfd_open(self.process.pid)
                self._loop.add_reader(self._pidfd, self.gone.set)

    def _read(self) -> None:
        """Take the newest whole beat; without a pidfd the end of the pipe is that of the child."""
        try:
            data = os.read(self._beats_fd, 65536)
        except BlockingIOError:
            return
        if not data:
            self._loop.remove_reader(self._beats_fd)
            if self._pidfd is None:
                self.gone.set()
            return
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        if lines:
            self.beat = msgspec.json.decode(lines[-1], type=Beat)
            if self.beat.ready:
                self.ready.set()

    def order(self, order: bytes) -> None:
        """Send an order; a child that is gone or deaf does not stop its supervisor."""
        with contextlib.suppress(OSError):
            os.write(self._orders_fd, order)

    def kill(self) -> None:
        """Kill the child and what it started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)

    async def wait(self) -> int:
        """Return the exit code once the process is gone, with everything in its group."""
        await self.gone.wait()
        if self._pidfd is not None:
            # the processes of its pool; a pid is not given away before it is waited for
            self.kill()
        code = await anyio.to_thread.run_sync(self.process.wait)
        for fd in (self._beats_fd, self._pidfd):
            if fd is not None:
                self._loop.remove_reader(fd)
                os.close(fd)
        os.close(self._orders_fd)
        return code

    @property
    def view(self) -> WorkerView:
        """What to show of it."""
        beat = self.beat
        state = WorkerState.STARTING
        if beat is not None and beat.ready:
            state = WorkerState.DRAINING if beat.draining else WorkerState.RUNNING
        return WorkerView(
            name=self.name,
            pid=self.process.pid,
            state=state,
            running=beat.running if beat else 0,
            done=beat.done if beat else 0,
            rss_bytes=beat.rss_bytes if beat else 0,
            loop_lag_ms=beat.loop_lag_ms if beat else 0.0,
        )


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
        self._children: dict[int, _Child] = {}
        self._failures = 0
        self._stopping = asyncio.Event()
        #: Loop time by which the supervisor must be gone.
        self._leave_at = 0.0
        #: The jobs of the dead are taken back in here; set when there are no children any more.
        self._last_takers: anyio.CancelScope | None = None
        self._ordered: bytes | None = None
        self._exit_code = 0

    async def run(self) -> int:
        """Keep the children alive until stopped; return the exit code of the command.

        0 after a drain; EXIT_CONFIG when a child could not be configured; EXIT_BOOT_LOOP when
        children ended before they were ready `boot_failures` times in a row.
        """
        log.info(
            "supervisor.started",
            processes=self._config.processes,
            url=self._broker.shown_url,
        )
        async with anyio.create_task_group() as group:
            group.start_soon(self._enforce_deadline)
            group.start_soon(self._register)
            async with anyio.create_task_group() as takers:
                async with anyio.create_task_group() as slots:
                    for slot in range(self._config.processes):
                        slots.start_soon(self._keep, slot, takers)
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

    async def _register(self) -> None:
        """Make the queues known to operators, as soon as Redis is there."""
        backoff = self._reconnecting()
        while True:
            try:
                await self._broker.register(self._worker.queues)
            except BrokerError:
                await anyio.sleep(backoff.next_s())
            else:
                return

    def _reconnecting(self) -> Backoff:
        return Backoff(self._worker.reconnect_least_s, self._worker.reconnect_most_s)

    # -- one slot -------------------------------------------------------------------------------

    async def _keep(self, slot: int, group: anyio.abc.TaskGroup) -> None:
        """Keep one child alive, restarting it with backoff, until stopped."""
        config = self._config
        name = f"{config.name}.{slot + 1}" if config.name else f"worker.{slot + 1}"
        backoff = Backoff(config.restart_least_s, config.restart_most_s)
        while not self._stopping.is_set():
            try:
                child = _Child(name, self._broker.config, self._worker, self._command)
            except OSError as e:  # no process, memory or descriptor to be had
                log.error("worker.failed", worker=name, error=str(e))  # noqa: TRY400 - one line
                await self._pause(backoff)
                continue
            self._children[slot] = child
            log.info("worker.spawned", worker=name, pid=child.process.pid, owner=child.owner)
            code = await self._watch(child)
            del self._children[slot]
            group.start_soon(self._take_back, child, code)
            if self._stopping.is_set():
                return
            self._judge(child, code)
            lived_s = asyncio.get_running_loop().time() - child.started_at
            if child.ready.is_set() and lived_s > _STABLE_S:
                backoff.reset()
            await self._pause(backoff)

    async def _pause(self, backoff: Backoff) -> None:
        with anyio.move_on_after(backoff.next_s()):
            await self._stopping.wait()

    async def _watch(self, child: _Child) -> int:
        """Return the exit code of a child; kill it if it never gets ready."""
        if self._ordered is not None:
            child.order(self._ordered)
        expecting = asyncio.get_running_loop().create_task(self._expect_ready(child))
        try:
            code = await child.wait()
        finally:
            expecting.cancel()
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

    async def _expect_ready(self, child: _Child) -> None:
        loop, limit_s = asyncio.get_running_loop(), self._config.ready_timeout_s
        with anyio.move_on_after(limit_s):
            await child.ready.wait()
            self._failures = 0
            after_s = round(loop.time() - child.started_at, 3)
            log.info("worker.ready", worker=child.name, pid=child.process.pid, after_s=after_s)
            return
        log.error("worker.killed", worker=child.name, why=f"not ready after {limit_s:g} s")
        child.kill()

    def _judge(self, child: _Child, code: int) -> None:
        """Decide whether the end of a child is the end of the supervisor."""
        if child.ready.is_set() or any(c.ready.is_set() for c in self._children.values()):
            return  # the others work: a half-copied deploy must not stop them
        self._failures += 1
        if code == EXIT_CONFIG:
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

    # -- the jobs of the dead -------------------------------------------------------------------

    async def _take_back(self, child: _Child, code: int) -> None:
        """Reclaim what a gone child still held, now and a second later; wait for Redis."""
        # an exit code alone proves nothing: a task may call os._exit(0)
        left_well = code == 0 and child.beat is not None and child.beat.stopped
        charge = not left_well and not self._stopping.is_set()
        # one that left in good order had no claim on its way
        looks = 1 if left_well else 2
        backoff = self._reconnecting()
        while looks:
            try:
                for queue in self._worker.queues:
                    reclaimed = await self._broker.reclaim_owner(
                        queue, child.owner, charge=charge, crash_limit=self._worker.crash_limit
                    )
                    log_reclaimed(queue, reclaimed)
            except BrokerError:
                await anyio.sleep(backoff.next_s())
                continue
            looks -= 1
            if looks:
                await anyio.sleep(_SECOND_LOOK_S)
