"""What a running task may ask about its job and its worker."""

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec


class Facts(msgspec.Struct, frozen=True, array_like=True):
    """The part of a context that can travel to another process."""

    job_id: str
    task: str
    queue: str
    attempt: int
    enqueued_ms: int
    claimed_ms: int
    timeout_s: float | None
    fence: int

    def log_fields(self) -> dict[str, Any]:
        """Return what log lines name the job by."""
        return {
            "job": self.job_id,
            "task": self.task,
            "queue": self.queue,
            "attempt": self.attempt,
        }


class Lifecycle:
    """What a worker's jobs can see of it; one per process."""

    def __init__(self) -> None:
        self.shutdown_requested = False
        self.state: Any = None


class Context:
    """The job that is running.

    A task gets it by annotating a parameter with this type; callers leave that parameter out. As
    the first parameter it is also invisible to a type checker at `enqueue`.

    Attributes:
        job_id: The id of the job.
        task: The name of the task.
        queue: Where the job was claimed.
        attempt: 1 + the charged failures so far.
        enqueued_at: When the job was enqueued, on the Redis clock.
        claimed_at: When this run's lease began, on the Redis clock.
        deadline: When the task timeout ends, by this machine's clock; None without a timeout.
        fencing_token: Grows with every claim of the queue: a store that refuses a smaller one than
            it has seen keeps out a run that lost its lease and does not know it yet.
        cancel_requested: Whether this run was given up: cancelled, timed out, its lease lost, or
            its worker at the end of its time. A coroutine is told by CancelledError; a thread that
            asks can end early.
    """

    __slots__ = (
        "_lifecycle",
        "attempt",
        "cancel_requested",
        "claimed_at",
        "deadline",
        "enqueued_at",
        "fencing_token",
        "job_id",
        "queue",
        "task",
    )

    def __init__(self, facts: Facts, lifecycle: Lifecycle) -> None:
        self.job_id = facts.job_id
        self.task = facts.task
        self.queue = facts.queue
        self.attempt = facts.attempt
        self.enqueued_at = datetime.fromtimestamp(facts.enqueued_ms / 1000, UTC)
        self.claimed_at = datetime.fromtimestamp(facts.claimed_ms / 1000, UTC)
        self.deadline = (
            None
            if facts.timeout_s is None
            else datetime.now(UTC) + timedelta(seconds=facts.timeout_s)
        )
        self.fencing_token = facts.fence
        self.cancel_requested = False
        self._lifecycle = lifecycle

    @property
    def shutdown_requested(self) -> bool:
        """Whether the worker is draining: a long task may save its progress and end."""
        return self._lifecycle.shutdown_requested

    @property
    def state(self) -> Any:
        """The value that the app's lifespan yielded; None without one, or in another process."""
        return self._lifecycle.state


def detached(task: str, queue: str) -> Context:
    """Return the context of a task that is called as a plain function, outside any worker."""
    now_ms = int(datetime.now(UTC).timestamp() * 1000)
    return Context(Facts("", task, queue, 1, now_ms, now_ms, None, 0), Lifecycle())
