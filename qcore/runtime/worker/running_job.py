"""A job between its claim and its outcome, and why it was stopped."""

import asyncio
from enum import Enum
from typing import Any

import msgspec

from qcore.context import Context, Facts
from qcore.model.codec import decode_state
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


class Running(msgspec.Struct, eq=False):
    """A job between its claim and its outcome. A struct, for it is made for every job."""

    lease: Lease
    #: Loop time at which it was claimed: when the call that brought it was sent, or its wait ended.
    claimed_at: float
    #: Loop time from which on somebody else may hold its lease.
    trusted_until: float
    context: Context | None = None
    task: asyncio.Task[None] | None = None
    task_name: str = ""
    #: It has a thread, which nobody can stop.
    in_thread: bool = False
    started_ms: int = 0
    #: It is written down that its only run has begun.
    begun_once: bool = False
    #: Loop time at which the task timeout ends.
    deadline: float | None = None
    #: It must not run on when its lease is not to be trusted.
    exclusive: bool = False
    stop: Stop | None = None
    stop_weight: int = 0

    def shown(self) -> RunningJob:
        """Return what a beat says of it, which is short."""
        age_s = round(asyncio.get_running_loop().time() - self.claimed_at, 3)
        lease = self.lease
        return RunningJob(lease.id[:64], self.task_name[:100], age_s, lease.queue)

    def facts(self, timeout_s: float | None) -> Facts:
        """Return what its task may ask about it."""
        lease = self.lease
        return Facts(
            lease.id,
            self.task_name,
            lease.queue,
            decode_state(lease.state).failures + 1,
            lease.enqueued_ms,
            lease.claimed_ms,
            timeout_s,
            lease.fence,
        )

    def log_fields(self) -> dict[str, Any]:
        """Return what its log lines name it by."""
        return self.facts(None).log_fields()

    def start_clock(self, timeout_s: float | None) -> None:
        """Let the task timeout begin now; None: there is none."""
        if timeout_s is not None:
            self.deadline = asyncio.get_running_loop().time() + timeout_s

    def cancel(self, why: Stop) -> None:
        """Cancel the job; again only for a reason that weighs more than those before.

        The first reason stands, but for a lost lease: with it there is no outcome to give.
        """
        if _WEIGHT[why] <= self.stop_weight:
            return
        self.stop_weight = _WEIGHT[why]
        if self.stop is None or why is Stop.LEASE_LOST:
            self.stop = why
        if self.context is not None:
            self.context.cancel_requested = True
        # a task that is cancelled before its first step never runs, and would never end the job
        if self.task is not None and self.started_ms:
            self.task.cancel()
