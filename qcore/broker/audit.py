"""The queues of a namespace: whether somebody serves them, and where each of their jobs lies.

A job is in exactly one of ready, scheduled, active and dead, and as long as it is, its payload is
in `jobs` and no outcome in `done`. Queues are live while they are audited. So the structures are
paged through first, which shows some jobs twice and others never; what looks odd then is looked at
again by one script, at one moment.
"""

import re
import shlex
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import msgspec

from qcore.broker import scripts
from qcore.broker.broker import Broker
from qcore.broker.examination import Finding, fault, ok, span, warning
from qcore.broker.keys import QueueKeys
from qcore.broker.reading import losses_of, moment_ms, natural
from qcore.broker.wire import earliest_ms
from qcore.config import WorkerConfig

#: Members of one page, and payloads: of those a hundred may be 13 MB.
_PAGE, _PAYLOADS = 500, 100
#: How many members of ready one call may compare.
_COMPARED = 200_000
#: So many jobs of one kind of disorder are named, the others are counted.
_NAMED = 5
#: A run that is on may end there: then it is the job's only place, and is left alone.
_WHILE_LEASED = (
    'return redis.call("ZSCORE", KEYS[1], ARGV[1]) and redis.call("ZREM", KEYS[2], ARGV[2])'
)
#: A job that has lost so many leases runs in a process of its own, after at most this pause.
_SUSPECT, _PAUSE_MS = 2, 60_000
_TOKEN = re.compile(rb"[0-9a-f]{16}:[0-9]+:(.+)", re.DOTALL)


# -- whether somebody serves them --------------------------------------------------------------


class QueueReading(msgspec.Struct, frozen=True, kw_only=True):
    """What a queue holds; times are unix ms on the Redis clock, None where there is none."""

    name: str
    now_ms: int
    #: With suspects.
    ready: int
    #: Those of the ready that have lost two leases.
    suspects: int = 0
    #: No suspect runs, and none has lost a lease since then.
    suspects_ms: int | None = None
    #: Nobody takes its ready jobs, and that is meant.
    paused: bool = False
    #: It takes no new jobs.
    closed: bool = False
    scheduled: int
    active: int
    dead: int
    #: When the next ready job or the next suspect was enqueued.
    enqueued_ms: int | None
    #: The earliest due time of a scheduled job.
    due_ms: int | None
    #: The earliest end of a lease.
    lease_ends_ms: int | None
    last_sweep_ms: int | None
    guard_until_ms: int | None


async def read_queues(broker: Broker, names: Sequence[str]) -> list[QueueReading]:
    """Read the queues named.

    Redis: depth.lua and three short reads per queue, one round trip; where suspects wait, pages
    of at most 500 crash counts.
    """
    commands: list[scripts.Call | tuple[object, ...]] = []
    for name in names:
        keys = broker.keys(name).names
        # the time comes last, so that no sweep is later than it
        commands += [
            (b"HMGET", keys["meta"], b"last_sweep", b"guard_until"),
            (b"ZRANGE", keys["scheduled"], 0, 0, b"WITHSCORES"),
            (b"ZRANGE", keys["active"], 0, 0, b"WITHSCORES"),
            scripts.DEPTH.call(broker.keys(name), b""),
        ]
    replies = await broker.ask(commands) if commands else []
    readings: list[QueueReading] = []
    for name, meta, due, lease, depth in zip(
        names, replies[::4], replies[1::4], replies[2::4], replies[3::4], strict=True
    ):
        now, ready, suspects, scheduled, active, dead, *stamps, paused, closed = depth
        readings.append(
            QueueReading(
                name=name,
                now_ms=int(now),
                ready=ready + suspects,
                suspects=suspects,
                suspects_ms=await _idle_since(broker, broker.keys(name)) if suspects else None,
                paused=paused is not None,
                closed=closed is not None,
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
    """Return when a suspect last lost a lease, unix ms; None while one runs."""
    last: int | None = None
    async for page in _scan(broker, b"HSCAN", keys.names["crashes"], _PAGE):
        losses = {id: losses_of(raw) for id, raw in zip(page[::2], page[1::2], strict=True)}
        suspects = {id: at for id, (count, at) in losses.items() if count >= _SUSPECT}
        if suspects:
            (tokens,) = await broker.ask([(b"HMGET", keys.names["running"], *suspects)])
            if any(tokens):
                return None
            last = max(last or 0, *suspects.values())
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
        if is_served and reading.suspects_ms:
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
    elif is_served and (idle := reading.suspects_ms) and (age := late(idle + _PAUSE_MS)):
        yield f"{reading.suspects} ready that lost two leases, none of them has run for {age}"
    if age := late(reading.due_ms):
        yield f"a scheduled job has been due for {age}"
    if (guard is None or guard <= now) and (age := late(reading.lease_ends_ms)):
        yield f"a lease ended {age} ago and nobody has taken its job back"


# -- where each job lies -----------------------------------------------------------------------


@dataclass(slots=True)
class _Seen:
    """What paging through a queue showed: not of one moment, so every oddity may be a move."""

    payloads: set[bytes] = field(default_factory=set[bytes])
    places: defaultdict[bytes, set[str]] = field(default_factory=lambda: defaultdict(set))
    #: In a list more than once.
    twice: set[bytes] = field(default_factory=set[bytes])
    leases: defaultdict[bytes, set[bytes]] = field(default_factory=lambda: defaultdict(set))
    running: dict[bytes, bytes] = field(default_factory=dict[bytes, bytes])
    #: Members of active that are no token.
    strange: set[bytes] = field(default_factory=set[bytes])
    ended: set[bytes] = field(default_factory=set[bytes])

    def add(self, ids: Iterable[bytes], place: str) -> None:
        for id in ids:
            self.places[id].add(place)

    def add_list(self, ids: Iterable[bytes], place: str) -> None:
        for id in ids:
            if place in self.places[id]:
                self.twice.add(id)
            self.places[id].add(place)

    def add_tokens(self, tokens: Iterable[bytes]) -> None:
        for token in tokens:
            if shape := _TOKEN.fullmatch(token):
                self.places[shape[1]].add("active")
                self.leases[shape[1]].add(token)
            else:
                self.strange.add(token)

    def odd(self) -> set[bytes]:
        """Return the ids that are to be looked at again."""
        live = self.places.keys()
        odd = (self.payloads ^ live) | self.twice | (self.ended & live)
        odd |= {id for id, places in self.places.items() if len(places) > 1}
        odd |= {id for id, tokens in self.leases.items() if tokens != {self.running.get(id)}}
        return odd | (self.running.keys() - self.leases.keys())


class _Job(msgspec.Struct, frozen=True, array_like=True):
    """Where a job lies, as audit.lua replies."""

    ready: int
    due: bytes | None
    died: bytes | None
    has_payload: int
    has_outcome: int
    running: bytes | None
    leases: list[bytes]
    suspects: int


async def audit(broker: Broker, queue: str) -> list[Finding]:
    """Return each job of a queue that is lost, in two places or without its payload.

    Holds every id of the queue in memory, about 0.5 KB each.

    Redis: pages of at most 500 ids or 100 payloads, then audit.lua for those that looked odd.
    """
    keys, found = broker.keys(queue), defaultdict[str, list[Finding]](list)
    check = f"jobs of {queue}"
    seen = await _look(broker, keys)
    for token in await _still_active(broker, keys, seen.strange):
        found["strange"].append(_strange(check, keys, token))
    async for id, job in _look_again(broker, keys, seen):
        for kind, finding in _judge(check, keys, id, job):
            found[kind].append(finding)
    findings: list[Finding] = []
    for same in found.values():
        findings += same[:_NAMED]
        if len(same) > _NAMED:
            said = f"and {len(same) - _NAMED} more jobs like {same[0].said.split(':')[0]}"
            findings.append(fault(check, said, "Mend those named, then run this command again."))
    return findings or [ok(check, f"{len(seen.places)}, each in one place with its payload")]


async def _look(broker: Broker, keys: QueueKeys) -> _Seen:
    names, seen = keys.names, _Seen()
    # payloads first: a job that comes or goes meanwhile is not taken for a lost one
    async for page in _scan(broker, b"HSCAN", names["jobs"], _PAYLOADS):
        seen.payloads.update(page[::2])
    for name in ("scheduled", "dead"):
        async for page in _scan(broker, b"ZSCAN", names[name], _PAGE):
            seen.add(page[::2], name)
    for name in ("ready", "suspects"):
        async for page in _list(broker, names[name]):
            seen.add_list(page, name)
    async for page in _scan(broker, b"ZSCAN", names["active"], _PAGE):
        seen.add_tokens(page[::2])
    async for page in _scan(broker, b"HSCAN", names["running"], _PAGE):
        seen.running.update(zip(page[::2], page[1::2], strict=True))
    ids = list(seen.places)
    for i in range(0, len(ids), _PAGE):
        page = ids[i : i + _PAGE]
        known = await broker.ask([(b"HEXISTS", names["done"], id) for id in page])
        seen.ended.update(id for id, is_known in zip(page, known, strict=True) if is_known)
    return seen


async def _scan(
    broker: Broker, command: bytes, key: bytes, count: int
) -> AsyncIterator[list[bytes]]:
    """Yield pages; a structure that grows faster than it is read is left in the middle."""
    (length,) = await broker.ask([(b"HLEN" if command == b"HSCAN" else b"ZCARD", key)])
    cursor: object = 0
    # a table that has shrunk has more places than members
    for _ in range(100 + 20 * length // count):
        ((cursor, page),) = await broker.ask([(command, key, cursor, b"COUNT", count)])
        yield page
        if cursor == b"0":
            return


async def _list(broker: Broker, key: bytes) -> AsyncIterator[list[bytes]]:
    """Yield pages, as far as the list reached at the beginning."""
    (length,) = await broker.ask([(b"LLEN", key)])
    for start in range(0, length, _PAGE):
        (page,) = await broker.ask([(b"LRANGE", key, start, start + _PAGE - 1)])
        yield page


async def _still_active(broker: Broker, keys: QueueKeys, tokens: Iterable[bytes]) -> list[bytes]:
    asked = sorted(tokens)
    scores = await broker.ask([(b"ZSCORE", keys.names["active"], t) for t in asked])
    return [token for token, score in zip(asked, scores, strict=True) if score is not None]


async def _look_again(
    broker: Broker, keys: QueueKeys, seen: _Seen
) -> AsyncIterator[tuple[bytes, _Job]]:
    start, ids = 0, sorted(seen.odd())
    while start < len(ids):
        (length,) = await broker.ask([(b"LLEN", keys.names["ready"])])
        chunk = ids[start : start + max(1, min(100, _COMPARED // (length + 1)))]
        start += len(chunk)
        items: list[bytes] = []
        for id in chunk:
            in_list = b"1" if {"ready", "suspects"} & seen.places.get(id, set()) else b""
            items += (id, in_list, b" ".join(seen.leases.get(id, ())))
        (rows,) = await broker.ask([scripts.AUDIT.call(keys, *items)])
        for id, row in zip(chunk, rows, strict=True):
            yield id, msgspec.convert(row, _Job)


def _strange(check: str, keys: QueueKeys, token: bytes) -> Finding:
    return fault(
        check,
        f"{_text(token)!r} in active is no token owner:seq:id: every sweep stops at it",
        "Remove it.",
        _redis_cli("ZREM", keys, "active", token),
    )


def _judge(check: str, keys: QueueKeys, id: bytes, job: _Job) -> Iterator[tuple[str, Finding]]:
    """Yield what is wrong with a job: the kind of it, and the finding."""
    name, places = _text(id), _places(job)
    running, payload = job.running, bool(job.has_payload)
    if payload and not places:
        again = _redis_cli("RPUSH", keys, "ready", id), _redis_cli("ZADD", keys, "wake", b"0", b"1")
        said = f"job {name} is lost: it has a payload and is in no structure"
        yield "lost", fault(check, said, "Make it ready again.", *again)
    if places and job.has_outcome and not payload:
        said = f"job {name} has ended and is still in {' and '.join(places)}"
        yield "ended", fault(check, said, "Remove it there.", *_removals(keys, id, job, places))
        return
    if len(places) > 1:
        said = f"job {name} is in {' and '.join(places)}: it may run twice"
        remedy = f"Leave it in {places[0]} only."
        yield "places", fault(check, said, remedy, *_removals(keys, id, job, places[1:]))
    if places and not payload:
        yield "payload", _without_payload(check, keys, name, places[0])
    if places and job.has_outcome:
        forget = [_redis_cli(c, keys, key, id) for c, key in (("HDEL", "done"), ("ZREM", "expiry"))]
        said = f"job {name} is in {places[0]} and has an outcome: its handle says that it ended"
        yield "outcome", fault(check, said, "Forget the outcome.", *forget)
    if running and not job.leases:
        forget = _redis_cli("HDEL", keys, "running", id)
        yield (
            "index",
            fault(check, f"job {name} is in running, without a lease", "Remove it.", forget),
        )
    if job.leases and running not in job.leases:
        index = _redis_cli("HSET", keys, "running", id, job.leases[0])
        said = f"job {name} has a lease and is not in running: it is not shown as active"
        yield "lease", fault(check, said, "Add it.", index)


def _places(job: _Job) -> list[str]:
    """Return where a job lies, once for each time; the first is where it is best left.

    A run that is on is not disturbed, what is dead does not run by surprise, and what was
    promoted meanwhile is in ready twice and loses one.
    """
    return [
        *["active"] * len(job.leases),
        *["dead"] * (job.died is not None),
        *["scheduled"] * (job.due is not None),
        *["ready"] * job.ready,
        *["suspects"] * job.suspects,
    ]


def _removals(keys: QueueKeys, id: bytes, job: _Job, places: Sequence[str]) -> Iterator[str]:
    """Yield the commands that remove a job from `places`, and lose none that moved meanwhile."""
    # the lease that running names is the last to go
    leases = sorted(job.leases, key=lambda token: token == job.running)
    for token in leases[: places.count("active")]:
        yield _redis_cli("ZREM", keys, "active", token)
    for name in ("dead", "scheduled"):
        if name in places and len(leases) > places.count("active"):
            names = [keys.names[key].decode() for key in ("active", name)]
            words = ["redis-cli", "EVAL", _WHILE_LEASED, "2", *names, _text(leases[-1]), _text(id)]
            yield shlex.join(words)
        elif name in places:
            yield _redis_cli("ZREM", keys, name, id)
    for name in ("ready", "suspects"):
        if count := places.count(name):
            yield _redis_cli("LREM", keys, name, str(count).encode(), id)


def _without_payload(check: str, keys: QueueKeys, id: str, place: str) -> Finding:
    said = f"job {id} in {place} has no payload: its arguments are lost"
    forget = f"qcore dead purge {keys.queue}/{id} --yes"
    match place:
        case "active":
            return fault(check, said, "If the run that is on fails, enqueue it anew.")
        case "dead":
            return fault(check, said, "Enqueue it anew, and forget this one.", forget)
        case _:
            remedy = "Enqueue it anew; a worker buries this one, then forget it."
            return fault(check, said, remedy, forget)


def _redis_cli(command: str, keys: QueueKeys, name: str, *words: bytes) -> str:
    return shlex.join(["redis-cli", command, keys.names[name].decode(), *map(_text, words)])


def _text(word: bytes) -> str:
    return word.decode(errors="backslashreplace")
