"""Where each job of a queue lies.

A job is in exactly one of ready, scheduled, active and dead, and as long as it is, its payload is
in `jobs` and no outcome in `done`. Queues are live while they are audited. So the structures are
paged through first, which shows some jobs twice and others never; what looks odd then is looked at
again by one script, at one moment. Their unique keys: see `key_audit`.
"""

import math
import re
import shlex
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import msgspec

from qcore.broker.redis import scripts
from qcore.broker.redis.broker import Broker
from qcore.broker.redis.key_audit import keys_in_disorder, redis_cli
from qcore.broker.redis.keys import QueueKeys
from qcore.broker.redis.queue_checks import PAGE, scan
from qcore.model.findings import Finding, fault, ok
from qcore.model.reading import raw_of, text_of
from qcore.model.reference import reference

#: Payloads of one page: a hundred may be 13 MB.
_PAYLOADS = 100
#: How many members of ready one call may compare.
_COMPARED = 200_000
#: So many jobs of one kind of disorder are named, the others are counted.
_NAMED = 5
#: A run that is on may end there: then it is the job's only place, and is left alone.
_WHILE_LEASED = (
    'return redis.call("ZSCORE", KEYS[1], ARGV[1]) and redis.call("ZREM", KEYS[2], ARGV[2])'
)
_TOKEN = re.compile(rb"[0-9a-f]{16}:[0-9]+:(.+)", re.DOTALL)


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
    #: Leases that end too late.
    far: set[bytes] = field(default_factory=set[bytes])
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

    def add_far(self, page: list[bytes], horizon: "Horizon") -> None:
        for token, score in zip(page[::2], page[1::2], strict=True):
            owner = text_of(token.partition(b":")[0])
            if float(score) > horizon.at_ms and owner not in horizon.owners:
                self.far.add(token)

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
    quarantined: int


@dataclass(frozen=True, slots=True)
class Horizon:
    """What a lease may be: one that ends later, and is of no owner that was heard, is of nobody."""

    #: Unix ms on the Redis clock.
    at_ms: float = math.inf
    owners: Collection[str] = ()


async def audit(broker: Broker, queue: str, horizon: Horizon = Horizon()) -> list[Finding]:
    """Return each job of a queue that is lost, in two places or without its payload.

    Holds every id of the queue in memory, about 0.5 KB each.

    Redis: pages of at most 500 ids or 100 payloads, then audit.lua for those that looked odd.
    """
    found, jobs = await _disorder(broker, queue, horizon)
    findings: list[Finding] = []
    for same in found.values():
        findings += same[:_NAMED]
        if len(same) > _NAMED:
            said = f"and {len(same) - _NAMED} more like {same[0].said.split(':')[0]}"
            remedy = "Mend all of them at once: qcore doctor --repair."
            findings.append(fault(same[0].check, said, remedy))
    return findings or [ok(f"jobs of {queue}", f"{jobs}, each in one place with its payload")]


async def repair(
    broker: Broker, queue: str, horizon: Horizon, *, dry: bool = False
) -> Counter[str]:
    """Mend all that `audit` names a command of Redis for; return how much of each kind.

    Args:
        broker: Where the queue is.
        queue: Its name.
        horizon: Leases beyond it are ended: the next sweep takes their jobs back.
        dry: Count only.

    Redis: what `audit` asks, then the commands, 100 findings in one round trip.
    """
    found, _ = await _disorder(broker, queue, horizon)
    mended = Counter[str]()
    for kind, same in found.items():
        steps = [step for finding in same if (step := _steps(finding))]
        mended[kind] = len(steps)
        for i in range(0, 0 if dry else len(steps), 100):
            await broker._ask([words for step in steps[i : i + 100] for words in step])
    return +mended


def _steps(finding: Finding) -> list[tuple[bytes, ...]]:
    """Return the commands of a finding as Redis takes them; [] where somebody has to decide."""
    words = [shlex.split(command) for command in finding.commands]
    return [tuple(map(raw_of, rest)) for program, *rest in words if program == "redis-cli"]


async def _disorder(
    broker: Broker, queue: str, horizon: Horizon
) -> tuple[dict[str, list[Finding]], int]:
    """Return what is wrong by kind, and how many jobs there are."""
    keys, found = broker._keys_of(queue), defaultdict[str, list[Finding]](list)
    check = f"jobs of {queue}"
    seen = await _look(broker, keys, horizon)
    for token in await _still_active(broker, keys, seen.strange):
        found["no token"].append(_strange(check, keys, token))
    for token in await _still_active(broker, keys, seen.far):
        found["far lease"].append(_far(check, keys, token))
    async for id, job in _look_again(broker, keys, seen):
        for kind, finding in _judge(check, keys, id, job):
            found[kind].append(finding)
    async for kind, finding in keys_in_disorder(broker, keys, check):
        found[kind].append(finding)
    return found, len(seen.places)


async def _look(broker: Broker, keys: QueueKeys, horizon: Horizon) -> _Seen:
    names, seen = keys.names, _Seen()
    # payloads first: a job that comes or goes meanwhile is not taken for a lost one
    async for page in scan(broker, b"HSCAN", names["jobs"], _PAYLOADS):
        seen.payloads.update(page[::2])
    for name in ("scheduled", "dead"):
        async for page in scan(broker, b"ZSCAN", names[name], PAGE):
            seen.add(page[::2], name)
    for name in ("ready", "quarantine"):
        async for page in _list(broker, names[name]):
            seen.add_list(page, name)
    async for page in scan(broker, b"ZSCAN", names["active"], PAGE):
        seen.add_tokens(page[::2])
        seen.add_far(page, horizon)
    async for page in scan(broker, b"HSCAN", names["running"], PAGE):
        seen.running.update(zip(page[::2], page[1::2], strict=True))
    ids = list(seen.places)
    for i in range(0, len(ids), PAGE):
        page = ids[i : i + PAGE]
        known = await broker._ask([(b"HEXISTS", names["done"], id) for id in page])
        seen.ended.update(id for id, is_known in zip(page, known, strict=True) if is_known)
    return seen


async def _list(broker: Broker, key: bytes) -> AsyncIterator[list[bytes]]:
    """Yield pages, as far as the list reached at the beginning."""
    (length,) = await broker._ask([(b"LLEN", key)])
    for start in range(0, length, PAGE):
        (page,) = await broker._ask([(b"LRANGE", key, start, start + PAGE - 1)])
        yield page


async def _still_active(broker: Broker, keys: QueueKeys, tokens: Iterable[bytes]) -> list[bytes]:
    asked = sorted(tokens)
    scores = await broker._ask([(b"ZSCORE", keys.names["active"], t) for t in asked])
    return [token for token, score in zip(asked, scores, strict=True) if score is not None]


async def _look_again(
    broker: Broker, keys: QueueKeys, seen: _Seen
) -> AsyncIterator[tuple[bytes, _Job]]:
    start, ids = 0, sorted(seen.odd())
    while start < len(ids):
        (length,) = await broker._ask([(b"LLEN", keys.names["ready"])])
        chunk = ids[start : start + max(1, min(100, _COMPARED // (length + 1)))]
        start += len(chunk)
        items: list[bytes] = []
        for id in chunk:
            in_list = b"1" if {"ready", "quarantine"} & seen.places.get(id, set()) else b""
            items += (id, in_list, b" ".join(seen.leases.get(id, ())))
        (rows,) = await broker._ask([scripts.AUDIT.call(keys, *items)])
        for id, row in zip(chunk, rows, strict=True):
            yield id, msgspec.convert(row, _Job)


def _strange(check: str, keys: QueueKeys, token: bytes) -> Finding:
    return fault(
        check,
        f"{text_of(token)!r} in active is no token owner:seq:id, so no job's lease",
        "Remove it.",
        redis_cli("ZREM", keys, "active", token),
    )


def _far(check: str, keys: QueueKeys, token: bytes) -> Finding:
    return fault(
        check,
        f"lease {text_of(token)!r} ends too late, and no worker that was heard holds it",
        "Give doctor the --lease of your workers; if it is no longer one, end this: the next sweep "
        "takes its job back.",
        redis_cli("ZADD", keys, "active", b"XX", b"1", token),
    )


def _judge(check: str, keys: QueueKeys, id: bytes, job: _Job) -> Iterator[tuple[str, Finding]]:
    """Yield what is wrong with a job: the kind of it, and the finding."""
    name, places = text_of(id), _places(job)
    running, payload = job.running, bool(job.has_payload)
    if payload and not places:
        again = (
            redis_cli("RPUSH", keys, "ready", id),
            redis_cli("ZADD", keys, "wakeup", b"0", b"1"),
        )
        said = f"job {name} is lost: it has a payload and is in no structure"
        yield "lost", fault(check, said, "Make it ready again.", *again)
    if places and job.has_outcome and not payload:
        said = f"job {name} has ended and is still in {' and '.join(places)}"
        yield "ended", fault(check, said, "Remove it there.", *_removals(keys, id, job, places))
        return
    if len(places) > 1:
        said = f"job {name} is in {' and '.join(places)}: it may run twice"
        remedy = f"Leave it in {places[0]} only."
        yield "two places", fault(check, said, remedy, *_removals(keys, id, job, places[1:]))
    if places and not payload:
        yield "no payload", _without_payload(check, keys, name, places[0])
    if places and job.has_outcome:
        forget = [redis_cli(c, keys, key, id) for c, key in (("HDEL", "done"), ("ZREM", "expiry"))]
        said = f"job {name} is in {places[0]} and has an outcome: its handle says that it ended"
        yield "outcome of a live job", fault(check, said, "Forget the outcome.", *forget)
    if running and not job.leases:
        forget = redis_cli("HDEL", keys, "running", id)
        yield (
            "index without lease",
            fault(check, f"job {name} is in running, without a lease", "Remove it.", forget),
        )
    if job.leases and running not in job.leases:
        index = redis_cli("HSET", keys, "running", id, job.leases[0])
        said = f"job {name} has a lease and is not in running: it is not shown as active"
        yield "lease without index", fault(check, said, "Add it.", index)


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
        *["quarantine"] * job.quarantined,
    ]


def _removals(keys: QueueKeys, id: bytes, job: _Job, places: Sequence[str]) -> Iterator[str]:
    """Yield the commands that remove a job from `places`, and lose none that moved meanwhile."""
    # the lease that running names is the last to go
    leases = sorted(job.leases, key=lambda token: token == job.running)
    for token in leases[: places.count("active")]:
        yield redis_cli("ZREM", keys, "active", token)
    for name in ("dead", "scheduled"):
        if name in places and len(leases) > places.count("active"):
            names = [keys.names[key].decode() for key in ("active", name)]
            words = [
                "redis-cli",
                "EVAL",
                _WHILE_LEASED,
                "2",
                *names,
                text_of(leases[-1]),
                text_of(id),
            ]
            yield shlex.join(words)
        elif name in places:
            yield redis_cli("ZREM", keys, name, id)
    for name in ("ready", "quarantine"):
        if count := places.count(name):
            yield redis_cli("LREM", keys, name, str(count).encode(), id)


def _without_payload(check: str, keys: QueueKeys, id: str, place: str) -> Finding:
    said = f"job {id} in {place} has no payload: its arguments are lost"
    forget = f"qcore dead purge {reference(keys.queue, id)} --yes"
    match place:
        case "active":
            return fault(check, said, "If the run that is on fails, enqueue it anew.")
        case "dead":
            return fault(check, said, "Enqueue it anew, and forget this one.", forget)
        case _:
            remedy = "Enqueue it anew; a worker buries this one, then forget it."
            return fault(check, said, remedy, forget)
