"""What operators read of queues, jobs and supervisors."""

from dataclasses import dataclass

import msgspec

from qcore.model.fleet import SupervisorView
from qcore.model.job import AttemptError, Death, JobStatus

#: A supervisor that was not heard for so long is called silent.
SILENT_S = 10.0


class Pause(msgspec.Struct, frozen=True, kw_only=True):
    """Why, and until when, nothing of a queue is claimed. Times are unix ms on the Redis clock."""

    since_ms: int
    #: None: until it is resumed.
    until_ms: int | None
    reason: str


class QueueStats(msgspec.Struct, frozen=True, kw_only=True):
    """How many jobs a queue holds, and whether it is held up."""

    name: str
    #: With quarantined jobs.
    ready: int
    #: Those of the ready that have lost two leases: they wait for a quarantine process.
    quarantined: int
    scheduled: int
    active: int
    dead: int
    #: Seconds since the next ready job or, if older, quarantined job was enqueued; None when none
    #: is ready.
    oldest_ready_s: float | None
    #: Its pause, while it lasts.
    paused: Pause | None = None
    #: Since when it takes no new jobs, unix ms on the Redis clock; None when it takes them.
    closed_ms: int | None = None
    #: At most so many jobs may wait in it, ready and scheduled; None: as many as come.
    max_jobs: int | None = None


class UniqueKeyView(msgspec.Struct, frozen=True, kw_only=True):
    """A unique key that a job holds. Times are unix ms on the Redis clock."""

    #: "unique", or "idempotency"; "unknown" for a key that qcore has not written.
    kind: str
    #: The task that it belongs to: two tasks may have the same key.
    task: str
    #: Of a long one `#` and its digest.
    value: str
    #: The job holds it until it is "done" or "started", or to the end of a "window", whatever
    #: becomes of it; "unknown" where the job does not say.
    until: str
    #: The end of the window; None where there is none.
    until_ms: int | None
    #: The id of the job.
    job: str
    first_ms: int
    #: How often it was asked for, with the first time.
    times: int


class JobRecord(msgspec.Struct, frozen=True, kw_only=True):
    """Everything Redis knows about one job. Times are unix ms on the Redis clock."""

    id: str
    queue: str
    status: JobStatus
    task: str | None = None
    enqueued_ms: int | None = None
    #: Due, lease deadline or death, by status.
    at_ms: int | None = None
    attempts: int = 0
    crashes: int = 0
    #: Why it is dead, cancelled, or parked.
    reason: str | None = None
    #: How the last processes that it ran in ended under it, oldest first.
    deaths: tuple[Death, ...] = ()
    errors: tuple[AttemptError, ...] = ()
    #: `owner:seq:id` of the lease, while active.
    token: str | None = None
    #: The encoded arguments, or all bytes of a payload that is no envelope.
    payload: bytes | None = None
    #: The encoded result, when completed and kept.
    result: msgspec.Raw | None = None
    #: Its result or reason was kept, and the time for that is over.
    expired: bool = False
    #: The unique key that it holds; None without one. A dead job holds none.
    unique: UniqueKeyView | None = None


@dataclass(frozen=True, slots=True)
class Member:
    """A supervisor as Redis knows it."""

    id: str
    #: Seconds since its last heartbeat.
    silent_s: float
    #: When it was started, unix ms on the Redis clock.
    started_ms: int
    view: SupervisorView

    @property
    def is_silent(self) -> bool:
        """Whether it is stopped, dead, or cut off from Redis."""
        return self.silent_s > SILENT_S


class RunsOn(msgspec.Struct, frozen=True, kw_only=True):
    """Which worker has a job."""

    host: str
    supervisor: str
    worker: str
    pid: int
    #: How long the job has run; None where it is not among those that have run longest.
    age_s: float | None
    #: Then it was claimed after those, and has run for less; None where none is known.
    max_s: float | None
