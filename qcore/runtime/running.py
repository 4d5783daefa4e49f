"""A job between its claim and its outcome, and why it was stopped."""

import asyncio
import time
from enum import Enum

from qcore.context import Context
from qcore.model.fleet import RunningJob
from qcore.model.job import Lease


class Stop(Enum):
    """Why a running job was cancelled."""

    TIMEOUT = "timeout"
    LEASE_LOST = "lease lost"
    #: An exclusive job whose lease could end unrenewed.
    UNTRUSTED = "lease not renewed"
    CANCELLED = "cancelled"
    SHUTDOWN = "shutdown"


#: A run that goes on after it was stopped is stopped again for a reason that weighs more.
_WEIGHT = {
    Stop.CANCELLED: 1,
    Stop.SHUTDOWN: 1,
    Stop.TIMEOUT: 2,
    Stop.UNTRUSTED: 3,
    Stop.LEASE_LOST: 4,
}


class Running:
    """A job between its claim and its outcome."""

    __slots__ = (
        "_weight",
        "begun_once",
        "claimed_at",
        "context",
        "deadline",
        "exclusive",
        "in_thread",
        "lease",
        "started_ms",
        "stop",
        "task",
        "task_name",
        "trusted_until",
    )

    def __init__(self, lease: Lease) -> None:
        self.lease = lease
        #: Monotonic time at which its claim was answered.
        self.claimed_at = time.monotonic()
        self.context: Context | None = None
        self.task: asyncio.Task[None] | None = None
        self.task_name = ""
        #: It has a thread, which nobody can stop.
        self.in_thread = False
        self.started_ms = 0
        #: It is written down that its only run has begun.
        self.begun_once = False
        #: Loop time at which the task timeout ends.
        self.deadline: float | None = None
        #: Loop time from which on somebody else may hold its lease.
        self.trusted_until: float | None = None
        #: It must not run on then.
        self.exclusive = False
        self.stop: Stop | None = None
        self._weight = 0

    def shown(self) -> RunningJob:
        """Return what a beat says of it, which is short."""
        age_s = round(time.monotonic() - self.claimed_at, 3)
        return RunningJob(self.lease.id[:64], self.task_name[:100], age_s)

    def cancel(self, why: Stop) -> None:
        """Cancel the job; again only for a reason that weighs more than those before.

        The first reason stands, but for a lost lease: with it there is no outcome to give.
        """
        if _WEIGHT[why] <= self._weight:
            return
        self._weight = _WEIGHT[why]
        if self.stop is None or why is Stop.LEASE_LOST:
            self.stop = why
        if self.context is not None:
            self.context.cancel_requested = True
        # a task that is cancelled before its first step never runs, and would never end the job
        if self.task is not None and self.started_ms:
            self.task.cancel()
