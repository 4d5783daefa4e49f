"""The values that travel: a job, its lease, its outcome, its record."""

from dataclasses import dataclass
from enum import StrEnum

import msgspec

from qcore.model.admission import Terms
from qcore.model.reading import text_of
from qcore.model.token import id_of, owner_of

#: Attempts whose errors are kept, and how much of each text.
ERRORS_KEPT = 5
ERROR_TEXT_LIMIT = 2048
#: Errors of a worker that has no code for a job.
PARKED_KINDS = ("Parked", "NewerVersion")
#: Ends of processes that are kept of a job, and how many neighbours each names.
DEATHS_KEPT = 3
BESIDE_KEPT = 20
#: A job that has lost so many leases is quarantined, and with so many has a process for itself;
#: the scripts say the same.
QUARANTINED, ALONE = 2, 3


class JobStatus(StrEnum):
    """Where a job is. Each job is in exactly one of these."""

    SCHEDULED = "scheduled"
    READY = "ready"
    ACTIVE = "active"
    COMPLETED = "completed"
    DEAD = "dead"
    CANCELLED = "cancelled"


class Envelope(msgspec.Struct, array_like=True, frozen=True, omit_defaults=True):
    """What a job carries from its producer to its worker. New fields go to the end.

    `version` is the version of this layout; a worker refuses one that it does not know.
    `args` are the task's arguments by name, still encoded: only the task knows their types.
    """

    version: int
    task: str
    args: msgspec.Raw
    #: Milliseconds to keep the outcome; -1: the task decides.
    keep_ms: int = -1
    #: Milliseconds after its enqueue from which on no run of it may start; -1: never.
    expires_ms: int = -1


class AttemptError(msgspec.Struct, array_like=True, frozen=True, omit_defaults=True):
    """How one run failed. New fields go to the end."""

    attempt: int
    #: "ValueError", "JobTimedOut", "GiveUp"
    kind: str
    text: str
    started_ms: int
    ended_ms: int
    host: str
    pid: int
    #: The error in one line.
    reason: str = ""


class Death(msgspec.Struct, array_like=True, frozen=True, omit_defaults=True):
    """The end of the process that a job ran in, as the supervisor saw it.

    New fields go to the end.
    """

    #: "SIGSEGV", "exit 3"
    how: str
    worker: str
    host: str
    pid: int
    #: The most resident memory it ever had, as far as it was seen with that of its pool.
    peak_rss_bytes: int
    #: How many jobs ran in it, this one included.
    jobs: int = 1
    #: Ids of the others, at most BESIDE_KEPT.
    beside: tuple[str, ...] = ()
    #: It was a quarantine process.
    quarantined: bool = False


class JobState(msgspec.Struct, array_like=True, frozen=True, omit_defaults=True):
    """The mutable record of a job, rewritten by its worker under its token.

    Absent for a job that has never failed. New fields go to the end.
    """

    #: Charged failures: what the retry policy sees.
    failures: int = 0
    #: The last errors, oldest first, at most ERRORS_KEPT.
    errors: tuple[AttemptError, ...] = ()
    #: When a worker first could not run this task (unknown name, arguments of another
    #: version), unix ms; 0: never.
    parked_ms: int = 0
    parks: int = 0
    #: When a run of an at-most-once task was about to start, unix ms; 0: never.
    started_ms: int = 0
    #: How the last processes that it ran in ended under it, oldest first, at most DEATHS_KEPT.
    deaths: tuple[Death, ...] = ()
    #: Somebody wanted it to run although it was dead: it does not expire any more.
    revived: bool = False

    @property
    def is_parked(self) -> bool:
        """Whether it waits for a worker that has its code, and has not failed since."""
        return bool(self.parked_ms and self.errors and self.errors[-1].kind in PARKED_KINDS)

    def died(self, death: Death) -> "JobState":
        """Return the record after its process has ended under it; the same end counts once."""
        if death in self.deaths:
            return self
        return msgspec.structs.replace(self, deaths=(*self.deaths, death)[-DEATHS_KEPT:])

    def failed(self, error: AttemptError, *, charge: bool) -> "JobState":
        """Return the record after one more failed run."""
        return msgspec.structs.replace(
            self,
            failures=self.failures + charge,
            errors=(*self.errors, error)[-ERRORS_KEPT:],
        )


class JobOutcome(msgspec.Struct, array_like=True, frozen=True, omit_defaults=True):
    """What is kept of an ended job in `done`: its result, or that it was cancelled, and why."""

    status: str
    result: msgspec.Raw = msgspec.Raw(b"\xc0")
    reason: str = ""


class Job(msgspec.Struct, frozen=True):
    """One requested call of a task, on its way to Redis."""

    id: str
    queue: str
    envelope: bytes
    #: Milliseconds from now, or None; at most one of delay_ms and eta_ms is set.
    delay_ms: int | None = None
    #: Unix ms on the Redis clock.
    eta_ms: int | None = None
    #: None: it depends on nothing, as most jobs.
    terms: Terms | None = None


class Lease(msgspec.Struct, frozen=True, gc=False):
    """The right to run one job, until its deadline passes unrenewed."""

    #: `owner:seq:id`: the member of `active`, and the proof of ownership.
    token: bytes
    queue: str
    id: str
    #: None: the payload is missing in Redis.
    envelope: bytes | None
    state: bytes | None
    #: Leases of this job that were lost.
    crashes: int
    #: Unix ms on the Redis clock.
    enqueued_ms: int
    claimed_ms: int
    #: Grows with every claim of the queue; the same for the jobs of one claim.
    fence: int = 0
    #: Somebody wants it cancelled.
    cancel_requested: bool = False


class Acked(msgspec.Struct, frozen=True):
    """Active -> completed: `outcome` says so and is kept; None keeps nothing."""

    outcome: bytes | None = None
    keep_ms: int = 0


#: The outcome of most jobs, made once.
ACKED = Acked()


class Cancelled(Acked, frozen=True):
    """Active -> cancelled; `outcome` says why."""


class Retried(msgspec.Struct, frozen=True):
    """Active -> scheduled, with the new record."""

    delay_ms: int
    state: bytes


class Buried(msgspec.Struct, frozen=True):
    """Active -> dead, with the new record."""

    state: bytes


class Released(msgspec.Struct, frozen=True):
    """Active -> head of ready, nothing charged."""


Outcome = Acked | Retried | Buried | Released


def shorten(text: str) -> str:
    """Return `text` cut to the limit of an error text, its end kept: it names the error."""
    data = text.encode("utf-8", "replace")
    if len(data) <= ERROR_TEXT_LIMIT:
        return data.decode("utf-8", "replace")
    # a character that is cut through is left out: a replacement for it would be longer
    return "[...] " + data[-(ERROR_TEXT_LIMIT - 6) :].decode("utf-8", "ignore")


@dataclass(slots=True, frozen=True)
class Reclaimed:
    """A lease that was taken from its owner, and where its job went."""

    token: bytes
    to: str

    @property
    def id(self) -> str:
        """Return the id of the job."""
        return text_of(id_of(self.token))

    @property
    def owner(self) -> str:
        """Return the process that held it."""
        return text_of(owner_of(self.token))
