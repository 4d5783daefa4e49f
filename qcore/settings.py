"""Frozen settings, built once and passed down."""

import re
from types import UnionType
from typing import Self

import msgspec

from qcore.errors import ConfigError

#: Queue names and namespaces: they become part of Redis keys and of hash tags.
NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")

#: The weight of a queue is 1 to this.
MAX_WEIGHT = 1000
#: The most jobs that a limited queue may hold is 1 to this.
MAX_DEPTH = 100_000_000

#: A returned value is kept this long unless the task says otherwise.
KEEP_S = 24 * 3600.0

#: A run that does not stop at its timeout has so long unless the task says otherwise.
KILL_GRACE_S = 10.0
#: With a range of processes, jobs may wait so long until there are more.
TARGET_WAIT_S = 5.0
#: No guard after an outage is shorter, unless the lease is.
_GUARD_MIN_S = 1.0


def check_type(
    option: str,
    value: object,
    kind: type | UnionType,
    wanted: str,
    error: type[Exception] = ConfigError,
) -> None:
    """Raise `error` unless `value` is a `kind`; a bool is no number."""
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise error(f"{option} is {value!r}, give {wanted}")


def check_name(kind: str, name: str) -> str:
    """Return `name` if it can be part of a Redis key, else raise ConfigError."""
    check_type(kind, name, str, "a name")
    if not NAME.fullmatch(name):
        raise ConfigError(
            f"{kind} {name!r} is not a name: use 1 to 64 of letters, digits, '_', '.', '-'"
        )
    return str.__str__(name)  # an enum of strings, too, has its value in keys


def _in_range(option: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise ConfigError(f"{option} is {value:.15g}, allowed is {low:.15g} to {high:.15g}")


class DepthLimit(msgspec.Struct, frozen=True):
    """How many jobs of a queue may wait: those ready and those scheduled."""

    max_jobs: int
    #: A producer waits for room, within its enqueue timeout; else it is refused at once.
    waits: bool


class BrokerConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Where Redis is and how long to wait for it."""

    url: str
    namespace: str = "qcore"
    #: One call on Redis may take this long before its connection is given up.
    call_timeout_s: float = 5.0
    #: A producer gets BrokerUnavailable after this long.
    enqueue_timeout_s: float = 5.0
    payload_limit_bytes: int = 128 * 1024
    #: By queue; those that are missing take any number of jobs.
    depth_limits: dict[str, DepthLimit] = {}

    def __repr__(self) -> str:
        """Leave the URL out: it may hold a password, and this goes into logs and tracebacks."""
        return f"BrokerConfig(url=***, namespace={self.namespace!r})"

    def __post_init__(self) -> None:
        """Check names and ranges."""
        check_name("namespace", self.namespace)
        _in_range("--call-timeout", self.call_timeout_s, 0.05, 300)
        _in_range("enqueue_timeout", self.enqueue_timeout_s, 0.05, 3600)
        _in_range("payload_limit", self.payload_limit_bytes, 1024, 16 * 1024 * 1024)


class WorkerConfig(msgspec.Struct, frozen=True, kw_only=True):
    """How one worker process works; every process of a supervisor gets the same."""

    queues: tuple[str, ...]
    #: One for each queue, by which they share the slots; none: they are served in strict order.
    weights: tuple[int, ...] = ()
    #: Jobs running at the same time in one process.
    concurrency: int = 100
    #: Of these, how many in threads (`def` tasks) and in processes (`run_in="process"`).
    threads: int = 32
    pool_size: int = 1
    lease_s: float = 30.0
    extend_s: float = 10.0
    sweep_s: float = 5.0
    block_s: float = 5.0
    heartbeat_s: float = 1.0
    #: An event loop that stands still for longer is logged, with the job that holds it.
    lag_limit_s: float = 1.0
    shutdown_timeout_s: float = 30.0
    reconnect_min_s: float = 0.1
    reconnect_max_s: float = 2.0
    #: So many lost leases make a job dead; a supervisor that saw the end may bury it sooner.
    crash_limit: int = 10
    #: For the supervisor to set: what a worker with its pool may take; the largest pool process is
    #: killed above that.
    memory_bytes: int | None = None
    #: Runs the jobs that have lost two leases, one that has lost more alone, and leaves when none
    #: waits.
    quarantined: bool = False

    def __post_init__(self) -> None:
        """Check ranges and the order of the clocks."""
        if not self.queues:
            raise ConfigError("a worker needs at least one queue")
        for name in self.queues:
            check_name("queue", name)
        if self.weights and len(self.weights) != len(self.queues):
            raise ConfigError(f"{len(self.queues)} queues have {len(self.weights)} weights")
        for weight in self.weights:
            _in_range("the weight of a queue", weight, 1, MAX_WEIGHT)
        _in_range("--concurrency", self.concurrency, 1, 10_000)
        _in_range("--threads", self.threads, 1, 1_000)
        _in_range("--pool-size", self.pool_size, 1, 256)
        _in_range("--lease", self.lease_s, 0.3, 24 * 3600)
        _in_range("block_s", self.block_s, 0.05, 60)
        _in_range("heartbeat_s", self.heartbeat_s, 0.05, 60)
        _in_range("lag_limit_s", self.lag_limit_s, 0.02, 3600)
        _in_range("--shutdown-timeout", self.shutdown_timeout_s, 0.1, 24 * 3600)
        _in_range("crash_limit", self.crash_limit, 1, 1_000)
        _in_range("reconnect_min_s", self.reconnect_min_s, 0.01, 60)
        _in_range("--reconnect", self.reconnect_max_s, self.reconnect_min_s, 300)
        for option, value, part in (("extend_s", self.extend_s, 3), ("sweep_s", self.sweep_s, 4)):
            # float noise must not refuse 30 / 3
            if not 0 < value <= self.lease_s / part + 1e-9:
                raise ConfigError(
                    f"{option} is {value:g}, allowed is up to lease_s / {part} = "
                    f"{self.lease_s / part:g}"
                )

    @classmethod
    def for_lease(
        cls,
        lease_s: float,
        *,
        queues: tuple[str, ...],
        weights: tuple[int, ...] = (),
        shutdown_timeout_s: float = 30.0,
        concurrency: int = 100,
        threads: int = 32,
        pool_size: int = 1,
        reconnect_s: float = 2.0,
    ) -> Self:
        """Return the settings for a lease, with the other times in proportion to it.

        Raises:
            ConfigError: an option is out of its range.
        """
        # a process that is silent for the stall limit, which is a part of the lease, is killed
        sign_of_life_s = max(0.05, min(1.0, lease_s / 10))
        return cls(
            queues=queues,
            weights=weights,
            concurrency=concurrency,
            threads=threads,
            pool_size=pool_size,
            lease_s=lease_s,
            extend_s=min(10.0, lease_s / 3),
            sweep_s=min(5.0, lease_s / 4),
            heartbeat_s=sign_of_life_s,
            lag_limit_s=sign_of_life_s,
            shutdown_timeout_s=shutdown_timeout_s,
            reconnect_min_s=min(0.1, reconnect_s),
            reconnect_max_s=reconnect_s,
        )

    @property
    def stall_s(self) -> float:
        """The stall limit that goes with the lease: well before its end."""
        return min(15.0, 0.9 * (self.lease_s - self.extend_s))

    @property
    def claiming_block_s(self) -> float:
        """How long a wait with a claim behind it may last.

        The leases that it brings may be as old as the wait, as far as this side can know, and
        exclusive jobs trust them that much less.
        """
        return min(self.block_s, self.lease_s / 6)

    @property
    def stale_s(self) -> float:
        """A sweep that is older means that Redis, or every sweeper, was away: nobody could renew.

        It must be less than lease - time between renewals, which a lease has left at least when
        Redis goes away; two sweeps, at most a quarter of the lease apart, must fit in.
        """
        return self.lease_s / 2

    @property
    def guard_s(self) -> float:
        """So long live owners then get to renew, before the first lease is taken from anybody.

        One renewal that is due, and one more if that fails; over a slow link they take a while.
        """
        return min(self.lease_s, max(2 * self.extend_s, _GUARD_MIN_S))


class SupervisorConfig(msgspec.Struct, frozen=True, kw_only=True):
    """How many worker processes, and when one is given up."""

    #: With `max_processes`: at least, and at first.
    processes: int
    #: As many as the backlog asks for, up to this.
    max_processes: int | None = None
    #: A backlog that is worked off within this is no reason for more processes.
    target_wait_s: float = TARGET_WAIT_S
    #: Fewer must have been enough for so long until there are fewer.
    shrink_after_s: float = 60.0
    name: str = ""
    #: A child that has not reported ready by then is killed.
    ready_timeout_s: float = 30.0
    #: A child whose event loop has been silent for so long is killed.
    stall_s: float = 15.0
    #: Children that end before they are ready, in a row, until the supervisor gives up.
    boot_failures: int = 5
    restart_min_s: float = 0.1
    restart_max_s: float = 10.0
    #: Work also on a server that deletes keys when memory is short.
    allow_eviction: bool = False
    #: A child is replaced after about so many jobs, seconds, and bytes of resident memory; each
    #: draws its own limits, up to a tenth above or below these.
    max_jobs: int | None = None
    max_time_s: float | None = None
    max_memory_bytes: int | None = None
    #: One that takes more than this is killed, and what it ran is charged with it.
    kill_memory_bytes: int | None = None
    #: Serve probes, and metrics there; both may be on one port.
    health_port: int | None = None
    metrics_port: int | None = None
    #: The address that both listen on. None: probes on all, metrics on loopback.
    bind: str | None = None

    def __post_init__(self) -> None:
        """Check ranges."""
        _in_range("--processes", self.processes, 1, 256)
        _in_range("the most of --processes", self.process_limit, self.processes, 256)
        _in_range("--target-wait", self.target_wait_s, 0.05, 3600)
        _in_range("shrink_after_s", self.shrink_after_s, 0.1, 24 * 3600)
        _in_range("--ready-timeout", self.ready_timeout_s, 0.1, 3600)
        _in_range("--stall", self.stall_s, 0.05, 24 * 3600)
        _in_range("boot_failures", self.boot_failures, 1, 1_000)
        _in_range("restart_min_s", self.restart_min_s, 0.01, 60)
        _in_range("restart_max_s", self.restart_max_s, self.restart_min_s, 300)
        if self.name:
            check_name("--name", self.name)
        if self.max_jobs is not None:
            _in_range("--max-jobs", self.max_jobs, 1, 1_000_000_000)
        if self.max_time_s is not None:
            _in_range("--max-time", self.max_time_s, 1, 30 * 24 * 3600)
        if self.max_memory_bytes is not None:
            _in_range("--max-memory, in bytes,", self.max_memory_bytes, 10 * 1024**2, 1024**4)
        if self.kill_memory_bytes is not None:
            least = self.max_memory_bytes or 10 * 1024**2
            _in_range(
                "the second number of --max-memory, in bytes,",
                self.kill_memory_bytes,
                least,
                1024**4,
            )
        if self.health_port is not None:
            _in_range("--health-port", self.health_port, 1, 65535)
        if self.metrics_port is not None:
            _in_range("--metrics-port", self.metrics_port, 1, 65535)
            if self.metrics_port == self.health_port and not self.bind:
                raise ConfigError(
                    f"--health-port and --metrics-port are both {self.metrics_port}: give --bind "
                    "the address where it is to listen, such as 0.0.0.0 for all"
                )

    @property
    def process_limit(self) -> int:
        """The most processes: the same as `processes` when that is no range."""
        return self.processes if self.max_processes is None else self.max_processes


def check_stall(stall_s: float, worker: WorkerConfig) -> None:
    """Raise ConfigError unless a deaf worker is killed before its leases end, and no other one."""
    left_s = worker.lease_s - worker.extend_s
    if stall_s >= left_s:
        raise ConfigError(
            f"--stall is {stall_s:g} s and --lease {worker.lease_s:g} s, renewed every "
            f"{worker.extend_s:g} s: a worker that does not answer must be killed before its "
            f"leases end, so give a --stall below {left_s:g}, or a longer --lease"
        )
    min_s = 3 * worker.heartbeat_s
    if stall_s < min_s:
        raise ConfigError(
            f"--stall is {stall_s:g} s, and a worker that lives is silent for "
            f"{worker.heartbeat_s:g} s between two beats: give a --stall of {min_s:g} or more"
        )


def supervisors_share_s(shutdown_timeout_s: float) -> float:
    """Return what a supervisor keeps of it for itself: to kill who is late, and to tell Redis."""
    return min(0.2 * shutdown_timeout_s, 2.0)


def cleanup_s(left_s: float) -> float:
    """Return the moment at the end of a worker's time to stop that its cancelled jobs get.

    Half of it is kept for the last settle.
    """
    return min(0.2 * left_s, 4.0)


def time_for_jobs_s(shutdown_timeout_s: float) -> float:
    """Return how long jobs may go on after the order to stop, before they are cancelled."""
    left_s = shutdown_timeout_s - supervisors_share_s(shutdown_timeout_s)
    return left_s - cleanup_s(left_s)


def shutdown_timeout_for(jobs_s: float) -> float:
    """Return the shutdown timeout that leaves jobs so long: `time_for_jobs_s` the other way."""
    left_s = min(jobs_s / 0.8, jobs_s + 4.0)
    return min(left_s / 0.8, left_s + 2.0)
