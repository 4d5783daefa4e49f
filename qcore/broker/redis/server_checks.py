"""Whether a server and the settings of workers are in order: what is read, and what it means.

The functions named `check_...` are pure: readings in, findings out. What is in the queues is
looked at by `qcore.broker.redis.queue_checks` and `qcore.broker.redis.job_audit`.
"""

import math
from collections.abc import Mapping
from datetime import UTC, datetime

import msgspec

from qcore.broker.redis.broker import Broker
from qcore.errors import BrokerError, BrokerUnavailable
from qcore.model.findings import Finding, Level, fault, ok, warning
from qcore.settings import WorkerConfig, shutdown_timeout_for, time_for_jobs_s

#: Redis and this machine may differ by so much.
_SKEW_S = 1.0
#: Above this part of a limit there is little room left.
_NEARLY_FULL = 0.9
#: A replica that was not heard of for longer lags.
_REPLICA_LAG_S = 10
_OLDEST_REDIS = (6, 2)
#: Settings that INFO does not tell; a managed server may refuse them.
_SETTINGS = ("save", "appendfsync", "timeout")


# -- the server --------------------------------------------------------------------------------


class ServerReading(msgspec.Struct, frozen=True, kw_only=True):
    """What a server says of itself."""

    url: str
    info: Mapping[str, str]
    #: The settings that it tells; empty where CONFIG is refused.
    settings: Mapping[str, str]
    #: The clock of Redis minus that of this machine; right to half of `round_trip_s`.
    skew_s: float
    round_trip_s: float


async def read_info(broker: Broker, *sections: bytes) -> dict[str, str]:
    """Return the fields of INFO, all or those of some sections.

    Raises:
        BrokerRefused: this user may not ask.
        BrokerUnavailable: no answer.
    """
    (text,) = await broker._ask([(b"INFO", *sections)])
    return info_fields(text)


def info_fields(text: bytes) -> dict[str, str]:
    """Return the fields in a reply to INFO."""
    lines = text.decode(errors="replace").splitlines()
    return dict(line.split(":", 1) for line in lines if ":" in line and not line.startswith("#"))


async def read_server(broker: Broker, info: Mapping[str, str]) -> ServerReading:
    """Read the clock three times, and the settings where that is allowed.

    Raises:
        BrokerUnavailable: no answer.
    """
    round_trip_s, skew_s = min([await _read_clock(broker) for _ in range(3)])
    settings: dict[str, str] = {}
    for name in _SETTINGS:
        try:
            (pair,) = await broker._ask([(b"CONFIG", b"GET", name)])
        except BrokerUnavailable:
            raise
        except BrokerError:
            break
        if pair:
            settings[name] = pair[1].decode(errors="replace")
    return ServerReading(
        url=broker.shown_url,
        info=info,
        settings=settings,
        skew_s=skew_s,
        round_trip_s=round_trip_s,
    )


async def _read_clock(broker: Broker) -> tuple[float, float]:
    """Return how long the question took, and Redis time minus the local time in its middle."""
    before_s = local_s()
    ((whole, micro),) = await broker._ask([(b"TIME",)])
    after_s = local_s()
    return after_s - before_s, int(whole) + int(micro) / 1e6 - (before_s + after_s) / 2


def local_s() -> float:
    """Return the clock of this machine in unix seconds."""
    return datetime.now(UTC).timestamp()


def check_server(reading: ServerReading) -> list[Finding]:
    """Return one finding per check, in the order in which an operator asks."""
    info, settings = reading.info, reading.settings
    findings = [ok("reachable", f"{reading.url} answers in {reading.round_trip_s * 1000:.1f} ms")]
    if info:
        findings += [
            check_version(info),
            check_role(info),
            check_eviction(info),
            check_persistence(info, settings),
            check_disk(info),
            check_memory(info),
            check_clients(info),
            check_replicas(info),
        ]
    else:
        findings.append(
            warning(
                "server",
                "this user may not call INFO: version, role, eviction, persistence, memory "
                "and clients were not checked",
                "Give the Redis user the right +info.",
            )
        )
    findings += [check_skew(reading), check_idle(settings)]
    return findings


def check_version(info: Mapping[str, str]) -> Finding:
    """Redis 6.2 or newer, or any Valkey."""
    if valkey := info.get("valkey_version"):
        return ok("version", f"valkey {valkey}")
    version = info.get("redis_version", "0")
    parts = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    if parts < _OLDEST_REDIS:
        return fault(
            "version",
            f"redis {version}, which lacks commands that the scripts of qcore use",
            "Upgrade the server to Redis 6.2 or newer, or to Valkey.",
        )
    return ok("version", f"redis {version}")


def check_role(info: Mapping[str, str]) -> Finding:
    """Jobs can be moved on a master only."""
    if info.get("redis_mode") == "sentinel":
        return fault("role", "this is a Sentinel, it holds no jobs", "Give the URL of the master.")
    role = info.get("role", "unknown")
    if role != "master":
        master = f"{info.get('master_host', '?')}:{info.get('master_port', '?')}"
        said = f"role is {role}: it takes no jobs"
        return fault("role", said, f"Give the URL of its master, which it says is {master}.")
    return ok("role", "master")


def check_eviction(info: Mapping[str, str]) -> Finding:
    """Whether Redis deletes jobs when memory is short; the policy alone decides."""
    policy = info.get("maxmemory_policy", "unknown")
    if policy not in ("noeviction", "unknown"):
        return fault(
            "eviction",
            f"maxmemory-policy is {policy}: when memory is short, Redis deletes keys to make "
            "room, and with them jobs",
            "Set maxmemory-policy to noeviction, also in the configuration file, or give qcore a "
            "server of its own.",
            "redis-cli CONFIG SET maxmemory-policy noeviction",
        )
    return ok("eviction", f"maxmemory-policy is {policy}")


def check_persistence(info: Mapping[str, str], settings: Mapping[str, str]) -> Finding:
    """What a restart of Redis loses.

    INFO does not say whether snapshots are configured; without `settings` one that was taken
    since the server started stands for that.
    """
    remedy = "Turn on the append-only file, also in the configuration file."
    command = "redis-cli CONFIG SET appendonly yes"
    if info.get("aof_enabled") == "1":
        return _check_fsync(settings.get("appendfsync"))
    taken = info.get("rdb_last_bgsave_time_sec", "-1") != "-1" or info.get("rdb_saves", "0") != "0"
    if not settings.get("save", "yes" if taken else ""):
        said = "no append-only file and no snapshots: a restart of Redis loses every job"
        if "save" not in settings:
            said = "no append-only file, and no snapshot since Redis started: a restart loses jobs"
        return fault("persistence", said, remedy, command)
    return Finding(
        level=Level.WARNING,
        check="persistence",
        said="snapshots only: a restart of Redis loses what was accepted since the last one "
        f"({info.get('rdb_changes_since_last_save', '?')} changes), and runs ended jobs again",
        remedy=remedy,
        commands=(command,),
    )


def _check_fsync(appendfsync: str | None) -> Finding:
    match appendfsync:
        case "always":
            return ok("persistence", "append-only file, synced before each answer")
        case "everysec":
            said = "append-only file, synced every second: a crash of its host may lose 2 s of jobs"
            return ok("persistence", said)
        case "no":
            return warning(
                "persistence",
                "append-only file that Redis never syncs: a crash of its host may lose 30 s of "
                "jobs or more",
                "Set appendfsync to everysec or always.",
            )
        case _:
            return ok("persistence", "append-only file; how often it is synced cannot be read")


def check_disk(info: Mapping[str, str]) -> Finding:
    """Whether the last writes to disk went well."""
    writes = {
        "aof_last_write_status": "write to the append-only file",
        "aof_last_bgrewrite_status": "rewrite of the append-only file",
        "rdb_last_bgsave_status": "snapshot",
    }
    failed = [what for field, what in writes.items() if info.get(field, "ok") != "ok"]
    if failed:
        return fault(
            "disk",
            f"the last {' and the last '.join(failed)} failed: Redis may refuse jobs, and a "
            "restart may lose some",
            "Free disk space or mend the rights of its folder; the log of Redis names the cause.",
        )
    return ok("disk", "the last writes went well")


def check_memory(info: Mapping[str, str]) -> Finding:
    """How far away `maxmemory` is, where enqueuing ends."""
    used, most = int(info.get("used_memory", 0)), int(info.get("maxmemory", 0))
    if not most:
        return ok("memory", f"{_mib(used)} used, no maxmemory")
    said = f"{_mib(used)} of {_mib(most)} used ({used / most:.0%})"
    if used > _NEARLY_FULL * most:
        return warning(
            "memory",
            f"{said}: at the limit every enqueue gets QueueFull",
            "Add workers to drain the queues, purge dead jobs, or raise maxmemory.",
        )
    return ok("memory", said)


def check_clients(info: Mapping[str, str]) -> Finding:
    """How many connections are left; a worker process needs at most five."""
    count, most = int(info.get("connected_clients", 0)), int(info.get("maxclients", 0))
    if not most:
        return ok("clients", f"{count} connected")
    if count > _NEARLY_FULL * most:
        return warning(
            "clients",
            f"{count} of {most} connections are taken: new ones will be refused",
            "Raise maxclients, or find who holds them with redis-cli CLIENT LIST.",
        )
    return ok("clients", f"{count} of {most} connected")


def check_replicas(info: Mapping[str, str]) -> Finding:
    """Whether the replicas, if there are any, follow."""
    count = int(info.get("connected_slaves", 0))
    behind: list[str] = []
    for number in range(count):
        parts = info.get(f"slave{number}", "").split(",")
        fields = {name: value for name, _, value in (part.partition("=") for part in parts)}
        place = f"{fields.get('ip', '?')}:{fields.get('port', '?')}"
        lag = fields.get("lag", "0")
        if fields.get("state") != "online":
            behind.append(f"{place} is in state {fields.get('state', '?')}")
        elif lag.isdigit() and int(lag) > _REPLICA_LAG_S:
            behind.append(f"{place} was last heard of {lag} s ago")
    if behind:
        return warning(
            "replicas",
            f"{'; '.join(behind)}: a failover now would lose jobs",
            "Look at the log of the replica, and at the network between the two.",
        )
    return ok("replicas", f"{count} online" if count else "none")


def check_skew(reading: ServerReading) -> Finding:
    """Whether this machine and Redis mean the same moment by the same number."""
    skew_s = reading.skew_s
    if abs(skew_s) - reading.round_trip_s / 2 <= _SKEW_S:
        return ok("clock", f"Redis and this machine differ by {abs(skew_s):.3f} s")
    return fault(
        "clock",
        f"Redis is {span(abs(skew_s))} {'ahead of' if skew_s > 0 else 'behind'} this machine; "
        "Redis owns the clock, but a job's eta and its error records use this machine's",
        "Set both clocks by NTP.",
    )


def check_idle(settings: Mapping[str, str]) -> Finding:
    """Whether the server closes connections that a worker uses seldom."""
    timeout = settings.get("timeout")
    if timeout is None:
        return ok("idle timeout", "cannot be read")
    if timeout != "0" and int(timeout) <= WorkerConfig(queues=("any",)).extend_s:
        return warning(
            "idle timeout",
            f"Redis closes connections after {timeout} s of silence: workers connect anew all "
            "the time",
            "Set timeout to 0, or to 60 s and more.",
        )
    return ok("idle timeout", "none" if timeout == "0" else f"{timeout} s")


# -- the clocks of the workers -----------------------------------------------------------------


def check_clocks(
    worker: WorkerConfig, call_timeout_s: float, timeouts: Mapping[str, float | None]
) -> list[Finding]:
    """Whether the times of a worker fit those of its tasks.

    Args:
        worker: Its own times are in order, else it could not be made.
        call_timeout_s: How long one call on Redis may take.
        timeouts: The timeout of each task, in seconds; None where there is none.
    """
    findings: list[Finding] = []
    stop_s, slack_s = worker.shutdown_timeout_s, worker.lease_s - worker.extend_s
    jobs_s = time_for_jobs_s(stop_s)
    for task, timeout_s in sorted(timeouts.items()):
        if timeout_s is not None and timeout_s > jobs_s:
            findings.append(
                warning(
                    f"task {task}",
                    f"its timeout is {timeout_s:g} s, but of the shutdown timeout of {stop_s:g} s "
                    f"jobs have {jobs_s:g} s: a deploy cancels a long run, and it starts anew",
                    "Give qcore worker --shutdown-timeout "
                    f"{math.ceil(shutdown_timeout_for(timeout_s))} or more, and the process "
                    "manager more than that.",
                )
            )
    if call_timeout_s >= slack_s:
        findings.append(
            warning(
                "lease",
                f"a renewal may wait {call_timeout_s:g} s for Redis, but the lease of "
                f"{worker.lease_s:g} s ends {slack_s:g} s after the renewal is due",
                f"Give qcore worker --lease {call_timeout_s * 2:g} or more.",
            )
        )
    said = (
        f"lease {worker.lease_s:g} s, renewed every {worker.extend_s:g} s, swept every "
        f"{worker.sweep_s:g} s; shutdown {stop_s:g} s"
    )
    return findings or [ok("timeouts", said)]


def span(seconds: float) -> str:
    """Return a duration as an operator reads it."""
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _mib(size: int) -> str:
    return f"{size / 2**20:.1f} MiB"
