"""One place for a worker process: there is always one in it, and at times the next one too."""

import asyncio
from collections.abc import Callable

import anyio

from qcore.broker.backoff import Backoff
from qcore.runtime.ipc.messages import Beat
from qcore.runtime.ipc.orders import QUIET, RESUME
from qcore.runtime.supervisor.worker_process import WorkerProcess
from qcore.runtime.supervisor.workers import Workers
from qcore.settings import SupervisorConfig, WorkerConfig
from qcore.telemetry import log

#: A child that lived so long after it was ready resets the restart backoff.
_STABLE_S = 10.0
#: A worker that is to be replaced stays so long for the first claim of its successor.
_FIRST_CLAIM_S = 2.0


class WorkerSlot:
    """Keeps one child alive, and can put another one in its place without a gap.

    Args:
        place: Its number, from 0 on.
        workers: Starts the children.
        config: How long to wait before a restart.
        worker: What the children do.
        stopping: Set when the supervisor is to end: nothing is started any more.
        on_beat: Called with the beats of its children.
        judge: Called with a child that ended and left the slot empty.
    """

    def __init__(
        self,
        place: int,
        workers: Workers,
        config: SupervisorConfig,
        worker: WorkerConfig,
        *,
        stopping: asyncio.Event,
        on_beat: Callable[[Beat], None],
        judge: Callable[[WorkerProcess], None],
    ) -> None:
        self.place = place
        self._workers = workers
        self._config = config
        self._worker = worker
        self._stopping = stopping
        self._on_beat = on_beat
        self._judge = judge
        #: The one that works here; None before the first, and while a restart waits.
        self.current: WorkerProcess | None = None
        #: The one that takes its place as soon as it is ready.
        self._successor: WorkerProcess | None = None
        #: Why the last one that was to take its place did not get ready.
        self.error = ""
        self._last: WorkerProcess | None = None
        self._empty = asyncio.Event()
        #: Nobody comes after the one that works here.
        self.is_leaving = False
        #: Loop time since when.
        self._left_at = 0.0

    async def keep(self) -> None:
        """Keep one child alive, restarting it with backoff, until stopped or left by the last."""
        backoff = Backoff(self._config.restart_min_s, self._config.restart_max_s)
        while not self._is_over:
            self._empty.clear()
            self.current = self._start()
            if self.current is not None:
                await self._empty.wait()
            if self._is_over:
                return
            if self._last is not None:
                self._judge(self._last)
                if self._last.ready.is_set() and self._last.age_s > _STABLE_S:
                    backoff.reset()
                self._last = None
            with anyio.move_on_after(backoff.next_s()):
                await self._stopping.wait()

    @property
    def _is_over(self) -> bool:
        return self._stopping.is_set() or self.is_leaving

    @property
    def is_changing(self) -> bool:
        """Whether another child is on its way to take the place of the current one."""
        return self._successor is not None

    def leave(self) -> None:
        """Let the child claim nothing more; nobody comes after it. `recall` undoes it."""
        self.is_leaving, self._left_at = True, asyncio.get_running_loop().time()
        if self.current is not None:
            self.current.is_spare = True
            self.current.order(QUIET)

    def recall(self) -> bool:
        """Let a child that was to leave go on; False when it is too late."""
        child = self.current
        if child is None or child.is_dismissed:
            return False
        self.is_leaving = child.is_spare = False
        child.order(RESUME)
        return True

    @property
    def may_go(self) -> bool:
        """Whether the child that is to leave has nothing more to do."""
        child = self.current
        if not self.is_leaving or child is None or child.is_dismissed or child.beat is None:
            return False
        # the first beat may know nothing of a claim that was on its way
        is_told = child.beat_at - self._left_at > self._worker.heartbeat_s
        return is_told and child.beat.quiet and not child.beat.holding

    async def see_off(self) -> None:
        """Let the child that is to leave go now, and see it gone."""
        if self.is_leaving and self.current is not None:
            await self._retire(self.current)

    def has_ready(self, since: float) -> bool:
        """Whether the child that works here is ready, and was started after that loop time."""
        child = self.current
        return child is not None and child.ready.is_set() and child.started_at > since

    async def replace(self, why: str) -> bool:
        """Start another child; when it is ready let the current one leave, and see it gone.

        One that is to leave anyway leaves at once.

        Returns:
            False when the other one did not get ready: the current one stays.
        """
        old = self.current
        if old is None or self._stopping.is_set():
            return True  # what comes next is new
        if self.is_leaving:
            await self._retire(old)
            return True
        old.leaves_for = why
        successor = self._successor = self._start()
        if successor is not None:
            await successor.booted.wait()
            with anyio.move_on_after(_FIRST_CLAIM_S):  # Redis may be away
                await successor.claiming.wait()
            if self._stopping.is_set():
                return True
        if successor is None or successor.gone.is_set() or not successor.ready.is_set():
            if successor is not None:
                await successor.ended.wait()
            self.error = "no process could be started" if successor is None else successor.end
            log.error("replacement.failed", worker=old.name, pid=old.process.pid, why=why)
            old.leaves_for = ""
            return False
        pid, by = old.process.pid, successor.process.pid
        log.info("worker.replaced", worker=old.name, pid=pid, by=by, why=why)
        if self.current is old:
            self.current, self._successor = successor, None
        await self._retire(old)
        return True

    async def _retire(self, child: WorkerProcess) -> None:
        """Let a child finish what it runs, and see it gone; the guard kills one that is late."""
        child.dismiss()
        await child.ended.wait()

    def _start(self) -> WorkerProcess | None:
        return self._workers.start(
            self.place, self._worker, on_beat=self._on_beat, on_end=self._note_end
        )

    def _note_end(self, child: WorkerProcess) -> None:
        if child is self._successor:
            self._successor = None
        elif child is self.current:
            # one that is on its way takes the place at once, ready or not
            self.current, self._successor = self._successor, None
            if self.current is None:
                self._last = child
                self._empty.set()
