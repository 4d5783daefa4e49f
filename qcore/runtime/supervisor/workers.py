"""The living children of a supervisor: each is started, watched to its end, and taken back."""

import asyncio
from collections.abc import Callable, Sequence
from functools import partial

import anyio
import anyio.abc

from qcore.broker.redis.broker import Broker
from qcore.model.fleet import WorkerView
from qcore.runtime.host.signals import signal_name
from qcore.runtime.ipc.messages import Beat
from qcore.runtime.ipc.orders import RESUME
from qcore.runtime.services import kept
from qcore.runtime.supervisor.crash_handler import CrashHandler
from qcore.runtime.supervisor.totals import Totals
from qcore.runtime.supervisor.worker_process import WorkerProcess
from qcore.settings import SupervisorConfig, WorkerConfig
from qcore.telemetry import log


class Workers:
    """Every child that lives, whatever it is for.

    Args:
        config: Names, and when a child that does not get ready is given up.
        command: What starts a child; it finds its ChildConfig in the environment.
        broker: Where the children work.
        crash_handler: Takes back what a dead child held.
        stopping: Set when the supervisor is to end.
    """

    def __init__(
        self,
        config: SupervisorConfig,
        *,
        command: Sequence[str],
        broker: Broker,
        crash_handler: CrashHandler,
        stopping: asyncio.Event,
    ) -> None:
        self._config = config
        self._command = command
        self._broker = broker
        self._crash_handler = crash_handler
        self._stopping = stopping
        self._watchers: anyio.abc.TaskGroup | None = None
        self._takers: anyio.abc.TaskGroup | None = None
        self._standing: bytes | None = None
        #: In the order in which they were started.
        self.living: list[WorkerProcess] = []
        self.totals = Totals()

    def open(self, watchers: anyio.abc.TaskGroup, takers: anyio.abc.TaskGroup) -> None:
        """Say where the children are watched, and where the jobs of the dead are taken back."""
        self._watchers, self._takers = watchers, takers

    def views(self) -> list[WorkerView]:
        """Return the children as their last beats described them, by slot."""
        order = sorted(self.living, key=lambda child: (child.is_quarantine, child.place))
        return [child.view for child in order]

    def order(self, order: bytes) -> None:
        """Give an order to every child, also to those that are started later."""
        self._standing = order
        for child in self.living:
            if not (order == RESUME and child.is_spare):
                child.order(order)

    def dump(self) -> None:
        """Let every child log what it does."""
        for child in self.living:
            child.dump()

    def start(
        self,
        place: int,
        worker: WorkerConfig,
        *,
        on_beat: Callable[[Beat], None],
        on_end: Callable[[WorkerProcess], None],
    ) -> WorkerProcess | None:
        """Start a child for a slot; None when it could not be started."""
        assert self._watchers is not None
        kind = "quarantine." if worker.quarantined else ""
        name = f"{self._config.name or 'worker'}.{kind}{place + 1}"

        def hear(beat: Beat) -> None:
            self.totals.runs.add(beat.runs)
            self.totals.note_lag(anyio.current_time(), beat.loop_lag_ms / 1000)
            on_beat(beat)

        try:
            child = WorkerProcess(
                name, self._broker.config, worker, self._command, place=place, on_beat=hear
            )
        except OSError as e:  # no process, memory or descriptor to be had
            log.error("worker.failed", worker=name, error=str(e))  # noqa: TRY400 - one line
            return None
        self.living.append(child)
        self.totals.started += 1
        log.info("worker.spawned", worker=name, pid=child.process.pid, owner=child.owner)
        if self._standing is not None:
            child.order(self._standing)
        self._watchers.start_soon(self._see_out, child, on_end)
        return child

    def kill(
        self,
        child: WorkerProcess,
        why: str,
        *,
        blames_jobs: bool = False,
        culprits: Sequence[str] = (),
    ) -> None:
        """Kill a child, unless it is gone or was killed for something else before."""
        child.catch_up()
        # a large one takes a while to go: its jobs are charged with what it was killed for first
        if not (child.gone.is_set() or child.killed_for):
            pid, jobs = child.process.pid, [token.split(":", 2)[-1] for token in culprits]
            # first of all: a log that nobody reads may hold up the next line
            child.kill(why, blames_jobs=blames_jobs, culprits=culprits)
            log.error("worker.killed", worker=child.name, pid=pid, why=why, jobs=jobs)

    async def _see_out(self, child: WorkerProcess, on_end: Callable[[WorkerProcess], None]) -> None:
        """Watch a child to its end; then let its jobs be taken back."""
        code = await self._watch(child)
        self.living.remove(child)
        _log_exit(child, code)
        how = "killed" if child.killed_for else "left" if child.left_well else "crashed"
        self.totals.ends[how] += 1
        excused = self._stopping.is_set() or child.is_dismissed
        assert self._takers is not None
        take_back = partial(
            self._crash_handler.take_back, child, code, excused=excused, stopping=self._stopping
        )
        self._takers.start_soon(kept, "take-back", take_back)
        child.ended.set()
        child.booted.set()
        on_end(child)

    async def _watch(self, child: WorkerProcess) -> int:
        """Return the exit code of a child; kill it if it never gets ready."""
        expecting = asyncio.get_running_loop().create_task(self._expect_ready(child))
        try:
            return await child.wait()
        finally:
            expecting.cancel()

    async def _expect_ready(self, child: WorkerProcess) -> None:
        limit_s = self._config.ready_timeout_s
        with anyio.move_on_after(limit_s):
            await child.ready.wait()
        child.catch_up()
        if child.ready.is_set():
            await child.claiming.wait()
            after_s = round(child.age_s, 3)
            log.info("worker.ready", worker=child.name, pid=child.process.pid, after_s=after_s)
        else:
            self.kill(child, f"not ready after {limit_s:g} s")


def _log_exit(child: WorkerProcess, code: int) -> None:
    beat = child.beat
    level = log.info if child.left_well else log.error
    level(
        "worker.exited",
        worker=child.name,
        pid=child.process.pid,
        exit_code=code if code >= 0 else None,
        signal=signal_name(-code) if code < 0 else None,
        rss_bytes=beat.rss_bytes if beat else None,
        running=beat.running if beat else 0,
    )
