"""Whether somebody serves the queues: what is read of each, and what it means."""

from collections.abc import AsyncIterator, Collection, Iterator, Sequence

import msgspec

from qcore.broker.redis import scripts
from qcore.broker.redis.broker import Broker
from qcore.broker.redis.keys import QueueKeys
from qcore.broker.redis.script_codec import earliest_ms
from qcore.broker.redis.server_checks import span
from qcore.model.findings import Finding, fault, ok, warning
from qcore.model.reading import losses_of, moment_ms, natural
from qcore.settings import WorkerConfig

#: Members of one page.
PAGE = 500
#: A job that has lost so many leases runs in a process of its own, after at most this pause.
_QUARANTINED, _PAUSE_MS = 2, 60_000
#: A queue that was swept within this has a worker.
_SWEPT_MS = 15_000
#: A queue that holds this share of its limit is nearly full.
_NEARLY_FULL = 0.9


class QueueReading(msgspec.Struct, frozen=True, kw_only=True):
    """What a queue holds; times are unix ms on the Redis clock, None where there is none."""

    name: str
    now_ms: int
    #: With quarantined jobs.
    ready: int
    #: Those of the ready that have lost two leases.
    quarantined: int = 0
    #: No quarantined job runs, and none has lost a lease since then.
    quarantined_ms: int | None = None
    #: Nobody takes its ready jobs, and that is meant.
    paused: bool = False
    #: It takes no new jobs.
    closed: bool = False
    #: So many jobs may wait in it, ready and scheduled.
    max_jobs: int | None = None
    scheduled: int
    active: int
    dead: int
    #: When the next ready job or the next quarantined job was enqueued.
    enqueued_ms: int | None
    #: The earliest due time of a scheduled job.
    due_ms: int | None
    #: The earliest end of a lease.
    lease_ends_ms: int | None
    last_sweep_ms: int | None
    guard_until_ms: int | None


async def read_queues(broker: Broker, names: Sequence[str]) -> list[QueueReading]:
    """Read the queues named.

    Redis: depth.lua and three short reads per queue, one round trip; where quarantined jobs wait,
    pages of at most 500 crash counts.
    """
    commands: list[scripts.Call | tuple[object, ...]] = []
    for name in names:
        keys = broker._keys_of(name).names
        # the time comes last, so that no sweep is later than it
        commands += [
            (b"HMGET", keys["meta"], b"last_sweep", b"guard_until"),
            (b"ZRANGE", keys["scheduled"], 0, 0, b"WITHSCORES"),
            (b"ZRANGE", keys["active"], 0, 0, b"WITHSCORES"),
            scripts.DEPTH.call(broker._keys_of(name), b""),
        ]
    replies = await broker._ask(commands) if commands else []
    readings: list[QueueReading] = []
    for name, meta, due, lease, depth in zip(
        names, replies[::4], replies[1::4], replies[2::4], replies[3::4], strict=True
    ):
        now, ready, quarantined, scheduled, active, dead, *stamps, paused, closed, limit = depth
        idle_ms = await _idle_since(broker, broker._keys_of(name)) if quarantined else None
        readings.append(
            QueueReading(
                name=name,
                now_ms=int(now),
                ready=ready + quarantined,
                quarantined=quarantined,
                quarantined_ms=idle_ms,
                paused=paused is not None,
                closed=closed is not None,
                max_jobs=natural(limit),
                scheduled=scheduled,
                active=active,
                dead=dead,
                enqueued_ms=earliest_ms(stamps),
                due_ms=moment_ms(due[1]) if due else None,
                lease_ends_ms=moment_ms(lease[1]) if lease else None,
                last_sweep_ms=natural(meta[0]),
                guard_until_ms=natural(meta[1]),
            )
        )
    return readings


async def _idle_since(broker: Broker, keys: QueueKeys) -> int | None:
    """Return when a quarantined job last lost a lease, unix ms; None while one runs."""
    last: int | None = None
    async for page in scan(broker, b"HSCAN", keys.names["crashes"], PAGE):
        losses = {id: losses_of(raw) for id, raw in zip(page[::2], page[1::2], strict=True)}
        quarantined = {id: at for id, (count, at) in losses.items() if count >= _QUARANTINED}
        if quarantined:
            (tokens,) = await broker._ask([(b"HMGET", keys.names["running"], *quarantined)])
            if any(tokens):
                return None
            last = max(last or 0, *quarantined.values())
    return last


def check_queue(reading: QueueReading, worker: WorkerConfig) -> list[Finding]:
    """Whether somebody serves a queue, and whether its clock went on."""
    check, now = f"queue {reading.name}", reading.now_ms
    lease_ms = round(worker.lease_s * 1000)
    # by then a lease that is over was taken back, and a due job was made ready
    patience_ms = lease_ms + round(worker.sweep_s * 1000)
    swept, guard = reading.last_sweep_ms, reading.guard_until_ms
    for what, at in (("last sweep", swept), ("outage guard", guard and guard - lease_ms)):
        if at is not None and at > now:
            return [
                fault(
                    check,
                    f"its {what} lies {span((at - now) / 1000)} in the future: the clock of Redis "
                    "went back, and until it has caught up scheduled jobs are late",
                    "Set the clock of the Redis host by NTP that slews and never steps; a worker "
                    "that serves the queue mends the leases with its next sweep.",
                )
            ]
    is_served = swept is not None and now - swept <= patience_ms
    late = list(_late(reading, patience_ms, is_served=is_served))
    sweep = "never swept" if swept is None else f"swept {span((now - swept) / 1000)} ago"
    if late:
        remedy = f"Start a worker that serves it: qcore worker APP --queues {reading.name}."
        if is_served and reading.quarantined_ms:
            remedy = (
                f"Only qcore worker APP --queues {reading.name} starts the process of its own "
                "that such a job needs: run one, or read its logs for processes that do not start."
            )
        elif is_served:
            remedy = "Read the logs of its workers for errors: they sweep, but not to the end."
        return [fault(check, f"{'; '.join(late)}; {sweep}", remedy)]
    counts = ", ".join(
        f"{getattr(reading, c)} {c}" for c in ("ready", "scheduled", "active", "dead")
    )
    if reading.paused or reading.closed:
        state = " and ".join(word for word in ("paused", "closed") if getattr(reading, word))
        remedy = f"When what it is {state} for is over: qcore resume {reading.name}."
        return [warning(check, f"{state}; {counts}; {sweep}", remedy)]
    return [ok(check, f"{counts}; {sweep}")]


def check_served(reading: QueueReading, served: Collection[str], where: str) -> list[Finding]:
    """Whether a queue with jobs has a worker; `served` are those that living supervisors name."""
    waiting = reading.ready + reading.scheduled
    swept = reading.last_sweep_ms  # also by a worker without a supervisor
    is_swept = swept is not None and reading.now_ms - swept <= _SWEPT_MS
    if not waiting or is_swept or reading.name in served:
        return []
    said = f"{waiting:,} jobs wait, and no worker in {where} serves this queue"
    remedy = f"Start a worker that serves it: qcore worker APP --queues {reading.name}."
    return [warning(f"queue {reading.name}", said, remedy)]


def check_room(reading: QueueReading) -> list[Finding]:
    """Whether a queue with a limit is about to take no more jobs."""
    most, waiting = reading.max_jobs, reading.ready + reading.scheduled
    if not most or waiting < _NEARLY_FULL * most:
        return []
    said = (
        f"{waiting:,} jobs wait, of at most {most:,} (max_jobs): enqueues are refused or wait "
        "when there is no room"
    )
    remedy = "Start more workers that serve it, or raise its max_jobs."
    return [warning(f"room of {reading.name}", said, remedy)]


def _late(reading: QueueReading, patience_ms: int, *, is_served: bool) -> Iterator[str]:
    """Yield what should have happened long ago."""
    now, guard = reading.now_ms, reading.guard_until_ms

    def late(at: int | None) -> str:
        return span((now - at) / 1000) if at is not None and now - at > patience_ms else ""

    # the oldest job of a queue that is served may be old: the queue is long
    if reading.paused:
        pass
    elif reading.ready and not is_served and (age := late(reading.enqueued_ms)):
        yield f"{reading.ready} ready, nobody has taken the next one for {age}"
    elif is_served and (idle := reading.quarantined_ms) and (age := late(idle + _PAUSE_MS)):
        yield f"{reading.quarantined} ready that lost two leases, none of them has run for {age}"
    if age := late(reading.due_ms):
        yield f"a scheduled job has been due for {age}"
    if (guard is None or guard <= now) and (age := late(reading.lease_ends_ms)):
        yield f"a lease ended {age} ago and nobody has taken its job back"


async def scan(
    broker: Broker, command: bytes, key: bytes, count: int, match: bytes = b"*"
) -> AsyncIterator[list[bytes]]:
    """Yield pages of the names that match, all by default.

    A structure that grows faster than it is read is left in the middle.
    """
    how: list[object] = [b"COUNT", count, *([] if match == b"*" else [b"MATCH", match])]
    (length,) = await broker._ask([(b"HLEN" if command == b"HSCAN" else b"ZCARD", key)])
    cursor: object = 0
    # a table that has shrunk has more places than members
    for _ in range(100 + 20 * length // count):
        ((cursor, page),) = await broker._ask([(command, key, cursor, *how)])
        yield page
        if cursor == b"0":
            return
