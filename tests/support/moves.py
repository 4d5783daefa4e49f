"""Moves of jobs at times that a test chooses, and what they leave in Redis."""

import itertools
from collections.abc import Sequence
from typing import Any

from qcore.broker.contract import ClaimRequest, Turn
from qcore.broker.redis import scripts
from qcore.broker.redis.broker import Broker
from qcore.broker.redis.inspector import Inspector
from qcore.model.codec import encode
from qcore.model.job import Acked, AttemptError, JobState, Lease, Outcome
from tests.support.content import Content, keys_of

#: Where and when tests happen, unless they say otherwise.
QUEUE = "orders"
NOW = 1_800_000_000_000
SECOND = 1000
LEASE_MS = 30 * SECOND
OWNER = "00000000000000aa"
OTHER_OWNER = "00000000000000bb"
PREFIX = f"{OWNER}:1:"

#: What `wakeup` holds when somebody is to come and claim.
WAKEUP = {"1": 0}

_calls = itertools.count(1)


def stored(body: bytes | str = b"", at_ms: int = NOW) -> bytes:
    """Return what `jobs` holds for an envelope that was enqueued at `at_ms`."""
    return at_ms.to_bytes(8) + (body.encode() if isinstance(body, str) else body)


def token(id: str, owner: str = OWNER, seq: int = 1) -> str:
    return f"{owner}:{seq}:{id}"


def tokens(*ids: str, deadline: int = NOW + LEASE_MS) -> dict[str, int]:
    """Return what `active` holds while these are leased by OWNER."""
    return {token(id): deadline for id in ids}


def running(*ids: str) -> dict[str, str]:
    """Return what `running` holds while these are leased by OWNER."""
    return {id: token(id) for id in ids}


async def ask(broker: Broker, *words: object) -> Any:
    (reply,) = await broker._ask([words])
    return reply


async def content(broker: Broker, queue: str = QUEUE) -> Content:
    """Return the exact content of a queue, but for its counters.

    `producers`: how jobs came in; of `meta` the `fence`: how often they were claimed, and the
    `epoch`: since when.
    """
    found = await keys_of(broker, queue)
    found.pop("producers", None)
    meta = found.pop("meta", {})
    meta.pop("fence", None)
    meta.pop("epoch", None)
    return found | {"meta": meta} if meta else found


async def put(
    broker: Broker,
    *ids: str,
    queue: str = QUEUE,
    when: str = "",
    now_ms: int = NOW,
    body: bytes | None = None,
) -> list[bytes]:
    """Enqueue at `now_ms`; each envelope is the id unless a body is given. Return known ids."""
    items = [word for id in ids for word in (id, when, id.encode() if body is None else body)]
    call = scripts.ENQUEUE.call(broker._keys_of(queue), now_ms, "tester", next(_calls), *items)
    return (await broker._ask([call]))[0]


async def take_wakeup(broker: Broker, queue: str = QUEUE) -> bool:
    """Remove the wakeup, as a worker that was woken; return whether it was set."""
    return bool(await ask(broker, b"DEL", broker._keys_of(queue).names["wakeup"]))


async def claim(
    broker: Broker,
    limit: int = 500,
    *,
    queues: Sequence[str] = (QUEUE,),
    prefix: str = PREFIX,
    now_ms: int | None = NOW,
    lease_ms: int = LEASE_MS,
    quarantined: bool = False,
    idle: bool = True,
) -> Turn:
    request = ClaimRequest(queues, limit, lease_ms, prefix, quarantined=quarantined, idle=idle)
    return await broker.turn([], request, now_ms=now_ms)


async def leased(
    broker: Broker, *ids: str, queue: str = QUEUE, prefix: str = PREFIX, now_ms: int = NOW
) -> list[Lease]:
    """Enqueue and claim; the wakeup is taken. Return the leases in the order of `ids`."""
    await put(broker, *ids, queue=queue, now_ms=now_ms)
    leases: list[Lease] = []
    while turn := (await claim(broker, queues=[queue], prefix=prefix, now_ms=now_ms)).leases:
        leases += turn
    assert [lease.id for lease in leases] == list(ids)
    await take_wakeup(broker, queue)
    return leases


async def settle(
    broker: Broker, *ended: tuple[Lease, Outcome], now_ms: int | None = NOW
) -> set[bytes]:
    """Settle and return the tokens that were lost."""
    return (await broker.turn(ended, None, now_ms=now_ms)).lost


async def ack(broker: Broker, *leases: Lease) -> set[bytes]:
    return await settle(broker, *((lease, Acked()) for lease in leases))


def failed_state(*texts: str) -> bytes:
    """Return the record of a job that failed once per text."""
    errors = tuple(
        AttemptError(i, "ValueError", text, NOW, NOW, "host", 1) for i, text in enumerate(texts, 1)
    )
    return encode(JobState(failures=len(texts), errors=errors))


async def status_of(broker: Broker, id: str, queue: str = QUEUE) -> str | None:
    record = await Inspector(broker).job(queue, id)
    return None if record is None else record.status.value
