"""What supervisors say of themselves and of their workers."""

from enum import StrEnum
from typing import Annotated

import msgspec

from qcore.model.reference import reference

#: What records may hold: anybody can write them, and each reader reckons with them.
_Amount = Annotated[float, msgspec.Meta(ge=0, le=1e12)]
_Pid = Annotated[int, msgspec.Meta(ge=1, lt=2**31)]


class WorkerState(StrEnum):
    """What a supervisor knows about a worker."""

    STARTING = "starting"
    RUNNING = "running"
    #: It claims nothing, and lives on.
    QUIET = "quiet"
    DRAINING = "draining"


class RunningJob(msgspec.Struct, frozen=True):
    """A job that runs now."""

    id: str
    #: Empty while its payload has not been read.
    task: str
    age_s: _Amount
    #: Empty in records of older versions.
    queue: str = ""

    @property
    def ref(self) -> str:
        """The job as the command takes it, QUEUE/ID."""
        return reference(self.queue, self.id) if self.queue else self.id


class WorkerView(msgspec.Struct, frozen=True, kw_only=True):
    """One worker process, as its last beat said."""

    name: str
    pid: _Pid
    state: WorkerState
    #: What its leases begin with; empty in records of older versions.
    owner: str = ""
    running: int = 0
    #: The jobs that have run longest, a few of them.
    oldest: tuple[RunningJob, ...] = ()
    #: Jobs that have ended here: completed, dead or cancelled.
    done: int = 0
    #: Runs whose outcome Redis has accepted: a job that is retried has several.
    settled: int = 0
    rss_bytes: int = 0
    #: How much of its slots is taken, or of its threads, or pool processes: the largest share.
    taken: _Amount = 0.0
    #: The share of one core that it took between its last beats, without its pool processes.
    cpu: _Amount = 0.0
    loop_lag_ms: _Amount = 0.0
    #: Seconds since its process was started.
    age_s: _Amount = 0.0
    #: A digest of the modules of the app that it has loaded.
    code: str = ""
    #: Why another worker takes its place; empty while none does.
    leaves_for: str = ""
    #: Seconds since Redis answered a claim of it, or it had no room for jobs; None before.
    claim_age_s: _Amount | None = None


class RollState(StrEnum):
    """How far a rolling restart is."""

    NONE = "none"
    ROLLING = "rolling"
    DONE = "done"
    FAILED = "failed"


class Roll(msgspec.Struct, frozen=True, kw_only=True):
    """The last rolling restart of a supervisor."""

    state: RollState = RollState.NONE
    #: The signal that ordered it, or `restart`.
    why: str = ""
    #: The order that it obeys; 0 for a signal.
    generation: int = 0
    #: Workers that were started since it was ordered and are ready, of how many.
    replaced: int = 0
    workers: int = 0
    #: Why the next worker did not get ready, in one line; empty unless it has failed.
    error: str = ""


class Processes(msgspec.Struct, frozen=True, kw_only=True):
    """How many workers a supervisor keeps."""

    #: Without those that leave and are not replaced.
    now: int = 0
    min: int = 0
    max: int = 0


class SupervisorState(StrEnum):
    """What a supervisor says of itself."""

    RUNNING = "running"
    QUIET = "quiet"
    DRAINING = "draining"


class SupervisorView(msgspec.Struct, frozen=True, kw_only=True):
    """One supervisor with its workers."""

    host: str
    name: str
    pid: _Pid
    state: SupervisorState
    queues: tuple[str, ...]
    #: Seconds since it was started.
    age_s: _Amount
    #: Names the space of its pid: the same one for two supervisors that see each other's processes.
    machine: str = ""
    roll: Roll = Roll()
    processes: Processes = Processes()
    workers: tuple[WorkerView, ...] = ()
    #: Workers that ended before they were ready, in a row, while none was.
    boot_failures: int = 0
    #: Why the last of them ended, in one line.
    boot_error: str = ""
    #: The highest generation of the orders that were there when it started: it does not obey them.
    #: None before it has heard of them, and in records of older versions.
    given_before: int | None = None
