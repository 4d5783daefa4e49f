"""Starts quarantine processes: for jobs that lost two leases, ten at a time; with three alone."""

import asyncio

import anyio
import msgspec

from qcore.broker.backoff import Backoff
from qcore.runtime.ipc.messages import Beat
from qcore.runtime.supervisor.workers import Workers
from qcore.settings import SupervisorConfig, WorkerConfig

#: So many quarantined jobs run in one process at most: the root of the hundred jobs of a worker,
#: with which the one that ends its process is found by the fewest groups, and runs alone after.
_TOGETHER = 10


class Quarantine:
    """Runs children for quarantined jobs while some wait.

    Args:
        workers: Starts the children.
        config: How long to wait before a restart.
        worker: What an ordinary child does.
        stopping: Set when the supervisor is to end.
    """

    def __init__(
        self,
        workers: Workers,
        config: SupervisorConfig,
        worker: WorkerConfig,
        *,
        stopping: asyncio.Event,
    ) -> None:
        self._workers = workers
        self._config = config
        self._worker = msgspec.structs.replace(
            worker,
            concurrency=min(worker.concurrency, _TOGETHER),
            threads=min(worker.threads, _TOGETHER),
            pool_size=min(worker.pool_size, _TOGETHER),
            quarantined=True,
        )
        self._stopping = stopping
        #: Quarantined jobs that wait for a process of their own, as the last beats said.
        self._waiting = 0
        self._called = asyncio.Event()

    def see(self, beat: Beat) -> None:
        """Take note of a beat that tells of quarantined jobs."""
        if beat.quarantined:
            self._waiting = beat.quarantined
            self._called.set()

    def wake(self) -> None:
        """Let `keep` see that the supervisor is stopping."""
        self._called.set()

    async def keep(self, place: int) -> None:
        """Run a child while more quarantined jobs wait than can be taken; it leaves by itself."""
        backoff = Backoff(self._config.restart_min_s, self._config.restart_max_s)
        while True:
            await self._called.wait()
            if self._stopping.is_set():
                return
            if self._waiting <= sum(child.is_free for child in self._workers.living):
                self._called.clear()
                continue
            child = self._workers.start(
                place, self._worker, on_beat=self.see, on_end=lambda child: None
            )
            if child is not None:
                await child.ended.wait()
                if child.process.returncode == 0 and child.beat is not None:
                    self._waiting = child.beat.quarantined  # as many as it left
                if child.ready.is_set():
                    backoff.reset()
            with anyio.move_on_after(backoff.next_s()):
                await self._stopping.wait()
