"""The jobs that run in this worker: each begins with its lease, and ends with its outcome."""

import asyncio
import time
from collections.abc import Callable, Sequence

from qcore.model.job import Acked, Lease, Outcome, Released
from qcore.runtime.ipc.run_counts import RunCounts
from qcore.runtime.worker.capacity import Capacity
from qcore.runtime.worker.execution import Executor
from qcore.runtime.worker.running_job import Running, Stop
from qcore.runtime.worker.session import Session
from qcore.settings import WorkerConfig
from qcore.telemetry import current_job, log

#: An exclusive job trusts its lease for this share of it; the rest is for its cleanup.
_TRUST_SHARE = 0.9


class RunningJobs:
    """Starts jobs, and hands their outcomes to the session.

    Args:
        config: The length of a lease, and whether this is a quarantine process.
        executor: Turns a lease into an outcome.
        session: Where outcomes go.
        capacity: What each job takes while it runs.
        turn: Set when a job has ended.
        look_again: Called when a slot is free that no settle will fill.
        emptied: Called when the last job of a process that takes no more has ended.
    """

    def __init__(
        self,
        config: WorkerConfig,
        executor: Executor,
        session: Session,
        capacity: Capacity,
        *,
        turn: asyncio.Event,
        look_again: Callable[[], None],
        emptied: Callable[[], None],
    ) -> None:
        self._executor = executor
        self._session = session
        self._capacity = capacity
        self._turn, self._look_again, self._emptied = turn, look_again, emptied
        #: Loop time, once there is a loop.
        self._clock = time.monotonic
        self._is_quarantine = config.quarantined
        #: How long an exclusive job trusts its lease from the call that gave or renewed it.
        self._trust_s = config.lease_s * _TRUST_SHARE
        self._running: dict[bytes, Running] = {}
        #: Runs that ended and were not told to the supervisor yet.
        self.counts = RunCounts()
        #: Jobs given up at the end that still run: only the end of the process ends them.
        self.abandoned = 0

    def __len__(self) -> int:
        return len(self._running)

    def all(self) -> list[Running]:
        """Return the jobs that run now; any thread may ask."""
        return list(self._running.values())

    def leases(self) -> list[Lease]:
        """Return every lease that is held: of jobs that run, and of outcomes not yet confirmed."""
        return [*(r.lease for r in self._running.values()), *self._session.leases()]

    def start(
        self, leases: Sequence[Lease], sent_at: float, claimed_at: float, *, unwanted: bool
    ) -> None:
        """Begin a job for each lease; while none is wanted, all go back to their queues' heads.

        Args:
            leases: What a claim brought.
            sent_at: Loop time at which the claim was sent: they may be as old.
            claimed_at: Loop time from which on their age counts.
            unwanted: An order to claim nothing came while it was on its way.
        """
        loop = asyncio.get_running_loop()
        create_task, self._clock = loop.create_task, loop.time
        trusted_until = sent_at + self._trust_s
        for lease in leases:
            if unwanted or (self._is_quarantine and not self._capacity.admit(lease)):
                self._session.add(lease, Released())
                continue
            running = Running(lease, claimed_at, trusted_until)
            self._running[lease.token] = running
            self._capacity.take(lease)
            running.task = create_task(self._execute(running))

    async def _execute(self, running: Running) -> None:
        current_job.set(running)
        try:
            outcome = await self._executor.execute(running)
        except BaseException as e:  # noqa: BLE001 - whatever a task raises is its outcome
            # caught nowhere deeper: a GeneratorExit of a future closes all coroutines but this one
            outcome = self._executor.outcome_of(e, running)
        self.end(running, outcome)

    def end(self, running: Running, outcome: Outcome | None) -> None:
        """Take a job out, with its outcome; None when its lease was lost, so that it has none."""
        if self._running.pop(running.lease.token, None) is None:
            return  # given up at shutdown, its lease is released
        # its context holds the job for log lines: a circle, which only the collector would end
        running.task = None
        lease = running.lease
        self._capacity.give(lease)
        took_s = self._clock() - running.claimed_at
        self.counts.count(lease.queue, running.task_name, outcome, took_s)
        if outcome is None:
            self._look_again()
        else:
            self._session.add(lease, outcome)
        if self._is_quarantine and not (running.stop is None and isinstance(outcome, Acked)):
            self._capacity.closed = True
        if self._capacity.closed and not self._running:
            self._emptied()
        self._turn.set()

    def trust(self, leases: Sequence[Lease], sent_at: float) -> None:
        """Let exclusive jobs trust leases that were renewed by a call of that time."""
        for lease in leases:
            if running := self._running.get(lease.token):
                running.trusted_until = sent_at + self._trust_s

    def lose(self, token: bytes) -> None:
        """Cancel a job whose lease is somebody else's; its outcome would write nothing."""
        if token in self._running:  # else it has ended, and its settle says what became of it
            lease = self._running[token].lease
            log.warning("lease.lost", job=lease.id, queue=lease.queue)
            self.cancel(token, Stop.LEASE_LOST)

    def cancel(self, token: bytes, why: Stop) -> None:
        """Cancel a job, if it still runs."""
        if token in self._running:
            self._running[token].cancel(why)

    def cancel_all(self) -> None:
        """Cancel what runs, for this worker stops."""
        for running in self.all():
            # nobody can stop a thread: it may finish yet, and is given back as the last act
            if not running.in_thread:
                running.cancel(Stop.SHUTDOWN)

    def abandon(self) -> None:
        """Give back what still runs: a thread, or a task that swallows its cancellation."""
        for running in self.all():
            lease = running.lease
            log.warning("job.abandoned", **running.log_fields())
            self.abandoned += 1
            if running.exclusive:
                # nobody else may have it while it runs: its lease is renewed to the last, and the
                # supervisor takes it back, uncharged, when this process is gone
                continue
            del self._running[lease.token]
            self._session.add(lease, Released())
