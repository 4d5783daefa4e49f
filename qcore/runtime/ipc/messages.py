"""What a worker tells its supervisor, over a pipe: lines that are short enough to stay whole."""

import msgspec

from qcore.model.fleet import RunningJob


class Cell(msgspec.Struct, frozen=True, array_like=True, order=True):
    """Runs of one task, from one queue, that ended alike and took about as long."""

    queue: str
    task: str
    outcome: str
    #: The index of the least bound that is not below their run time; past the last: above all.
    bound: int
    runs: int
    #: What they took together.
    seconds: float


class Beat(msgspec.Struct, frozen=True):
    """What a worker tells its supervisor, once per heartbeat: one line, as a pipe takes at once.

    After a deploy a supervisor may be of an older version than its workers: new fields go to the
    end, with defaults, and none is taken away.
    """

    pid: int
    ready: bool
    draining: bool
    #: The last beat: the process leaves because it was told to.
    stopped: bool
    running: int
    #: Jobs that have ended here: completed, dead or cancelled.
    done: int
    rss_bytes: int
    loop_lag_ms: float
    #: Ready jobs that wait for a quarantine process, seen since the last beat.
    quarantined: int = 0
    #: It holds leases, or may hold some that it does not know of.
    holding: bool = True
    #: It was told to claim nothing for a while.
    quiet: bool = False
    #: The jobs that have run longest, at most three.
    oldest: tuple[RunningJob, ...] = ()
    #: CPU time of this process, in seconds.
    cpu_s: float = 0.0
    #: A digest of the modules of the app.
    code: str = ""
    #: Threads that were given up at a task timeout and go on past the kill timeout.
    hung: int = 0
    #: Seconds since Redis answered a claim; while there is no room for jobs none is due. None
    #: before the first.
    claim_age_s: float | None = None
    #: How much of its slots is taken, or of its threads, or pool processes: the largest share.
    taken: float = 0.0
    #: Runs that ended and were not told yet; when there are many, several beats follow at once.
    runs: tuple[Cell, ...] = ()
    #: Runs whose outcome Redis has accepted: a job that is retried has several.
    settled: int = 0
    #: All that it may hold are leases that it does not know of.
    unheard: bool = False


class Alarm(msgspec.Struct, frozen=True, array_like=True):
    """What the watchdog of a worker sees between beats."""

    #: The token of the job that holds the event loop, which stands still; empty for no job.
    token: str
    #: Not that, but: the job still runs at its kill timeout, which is this.
    kill_timeout_s: float = 0.0
