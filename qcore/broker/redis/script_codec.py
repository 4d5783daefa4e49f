"""The layout of scripts' arguments and replies: from outcomes to words, from words to leases."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any

from qcore.broker.contract import CALL_BYTES, CALL_JOBS, CHORE_LIMIT, ClaimRequest, Turn, worst_of
from qcore.broker.redis import scripts
from qcore.broker.redis.keys import QueueKeys
from qcore.broker.redis.scripts import Call
from qcore.errors import BrokerError
from qcore.model.job import ACKED, Acked, Buried, Lease, Outcome, Reclaimed, Released, Retried
from qcore.model.reading import (
    losses_of,
    stamp_ms,
    stamps_of,
    text_of,
    texts_of,
)
from qcore.settings import DepthLimit

#: A count of lost leases that did not grow for so long is forgotten; see lua/lib/losses.lua.
FORGOTTEN_MS = 72 * 3600 * 1000
#: One claim call looks at so many queues: a millisecond of Redis where all are empty.
CLAIM_QUEUES = 250


def add_settle(turn: Turn, queue: str, reply: list[bytes] | BrokerError) -> None:
    """Add the reply to one settle call; several calls of a queue fail together."""
    if isinstance(reply, BrokerError):
        turn.unsettled[queue] = worst_of(turn.unsettled.get(queue), reply)
    else:
        turn.answered.add(queue)
        turn.lost.update(reply)


def add_claim(turn: Turn, claim: ClaimRequest, reply: list[Any] | BrokerError) -> None:
    """Add the reply to a claim call, or to one of several."""
    if isinstance(reply, BrokerError):
        turn.unclaimed |= dict.fromkeys(claim.queues, reply)
        return
    turn.answered.update(claim.queues)
    read_claim(reply, claim, turn)


def parts_of(claim: ClaimRequest, groups: Iterable[Sequence[str]]) -> list[ClaimRequest]:
    """Split a claim by groups of its queues, and into calls that do not hold up others."""
    return [
        _part_of(claim, group[i : i + CLAIM_QUEUES])
        for group in groups
        for i in range(0, len(group), CLAIM_QUEUES)
    ]


def _part_of(claim: ClaimRequest, queues: Sequence[str]) -> ClaimRequest:
    if len(queues) == len(claim.queues):
        return claim
    most = dict(zip(claim.queues, claim.limits, strict=True)) if claim.limits else {}
    return replace(claim, queues=queues, limits=[most[q] for q in queues] if most else ())


def chunks(
    items: list[tuple[Lease, Outcome]],
) -> Iterable[list[tuple[Lease, Outcome]]]:
    """Split settles into calls of at most 500 items and about 1 MB."""
    chunk: list[tuple[Lease, Outcome]] = []
    size = 0
    for item in items:
        taken = 0 if item[1] is ACKED else _size(item[1])
        size += taken
        if chunk and (len(chunk) == CALL_JOBS or size > CALL_BYTES):
            yield chunk
            chunk, size = [], taken
        chunk.append(item)
    if chunk:
        yield chunk


def leading(items: list[tuple[Lease, Outcome]], max_bytes: int) -> list[tuple[Lease, Outcome]]:
    """Return the first settles that take no more than so many bytes; at least one."""
    size = 0
    for n, (_, outcome) in enumerate(items):
        size += 0 if outcome is ACKED else _size(outcome)
        if size > max_bytes and n:
            return items[:n]
    return items


def _size(outcome: Outcome) -> int:
    match outcome:
        case Acked(outcome=kept):
            return len(kept or b"")
        case Retried(state=state) | Buried(state=state):
            return len(state)
        case Released():
            return 0


def by_queue(leases: Sequence[Lease]) -> list[tuple[str, list[Lease]]]:
    """Return the leases of each queue, at most 500 in one part."""
    queues: defaultdict[str, list[Lease]] = defaultdict(list)
    for lease in leases:
        queues[lease.queue].append(lease)
    return [
        (queue, held[i : i + CALL_JOBS])
        for queue, held in queues.items()
        for i in range(0, len(held), CALL_JOBS)
    ]


def claim_call(keys_of: Callable[[str], QueueKeys], claim: ClaimRequest, now: object) -> Call:
    """Return the call of claim.lua for all queues of the request."""
    return scripts.CLAIM.call(
        [keys_of(queue) for queue in claim.queues],
        now,
        claim.limit,
        claim.lease_ms,
        claim.prefix,
        claim.max_bytes,
        CHORE_LIMIT,
        0 if not claim.quarantined else 1 if claim.idle else 2,
        *(claim.limits or [claim.limit] * len(claim.queues)),
    )


def settle_calls(
    keys_of: Callable[[str], QueueKeys], ended: Iterable[tuple[Lease, Outcome]], now: object
) -> list[tuple[str, Call]]:
    """Return the calls of ack.lua and settle.lua, each with its queue.

    Of either there is one per queue and 500 jobs where it is needed.
    """
    queues: defaultdict[str, list[tuple[Lease, Outcome]]] = defaultdict(list)
    for item in ended:
        queues[item[0].queue].append(item)
    calls: list[tuple[str, Call]] = []
    for queue, items in queues.items():
        keys = keys_of(queue)
        for chunk in chunks(items):
            # nearly always ACKED: no look at the type
            acks = [item[0].token for item in chunk if item[1] is ACKED or _is_plain(item[1])]
            if acks:
                calls.append((queue, scripts.ACK.call(keys, *acks)))
            if len(acks) < len(chunk):
                calls.append((queue, scripts.SETTLE.call(keys, now, *settle_items(chunk))))
    return calls


def _is_plain(outcome: Outcome) -> bool:
    return isinstance(outcome, Acked) and outcome.outcome is None


def settle_items(chunk: list[tuple[Lease, Outcome]]) -> list[object]:
    """Lay out a settle call: four counts, the tokens by outcome, then what belongs to them.

    Acks without an outcome to keep are no part of it.
    """
    keeps: list[object] = []
    retries: list[object] = []
    buries: list[object] = []
    releases: list[object] = []
    extras: tuple[list[object], ...] = ([], [], [])
    for lease, outcome in chunk:
        match outcome:
            case Acked(outcome=None):
                pass
            case Acked(outcome=kept, keep_ms=keep_ms):
                keeps.append(lease.token)
                extras[0].extend((kept, keep_ms))
            case Retried(delay_ms=delay_ms, state=state):
                retries.append(lease.token)
                extras[1].extend((state, delay_ms))
            case Buried(state=state):
                buries.append(lease.token)
                extras[2].append(state)
            case Released():
                releases.append(lease.token)
    tokens = (keeps, retries, buries, releases)
    return [*map(len, tokens), *chain(*tokens), *chain(*extras)]


def read_claim(reply: list[Any], claim: ClaimRequest, turn: Turn) -> None:
    """Add what a claim brought to `turn`."""
    turn.claimed = True
    now = int(reply[0])
    if reply[1] != b"":
        again_ms = max(0, int(reply[1]) - now)
        turn.again_ms = again_ms if turn.again_ms is None else min(turn.again_ms, again_ms)
    turn.quarantined += int(reply[2])
    prefix = claim.prefix.encode()
    for number, *row in reply[3:]:
        queue = claim.queues[int(number) - 1]
        if len(row) == 1:
            turn.unreadable[queue] = text_of(row[0])
            continue
        fence, ids, *columns = row
        turn.leases += read_leases(queue, now, fence, [prefix + id for id in ids], ids, *columns)


def read_leases(
    queue: str,
    now: int,
    fence: bytes,
    tokens: list[bytes],
    ids: list[bytes],
    *columns: list[bytes | None],
) -> list[Lease]:
    """Return the leases of claimed or recovered jobs; a column that nobody has is empty."""
    rise, nothing = int(fence), [None] * len(ids)
    payloads, states, crashes, cancels = (column or nothing for column in columns)
    stamps = stamps_of(payloads, otherwise=now)
    return [
        Lease(
            token,
            queue,
            id,
            None if payload is None else payload[8:],
            state,
            0 if lost is None else _crashes(lost, now),
            enqueued_ms,
            now,
            rise,
            cancel is not None,
        )
        for token, id, payload, state, lost, cancel, enqueued_ms in zip(
            tokens, texts_of(ids), payloads, states, crashes, cancels, stamps, strict=True
        )
    ]


def _crashes(count: bytes, now: int) -> int:
    """Return the lost leases in `count ms`; after 72 h without another they are forgotten."""
    crashes, at = losses_of(count)
    return crashes if now - at < FORGOTTEN_MS else 0


def read_reclaimed(flat: list[bytes]) -> list[Reclaimed]:
    """Return what a reply of token, destination, token, ... says."""
    pairs = zip(flat[::2], flat[1::2], strict=True)
    return [Reclaimed(token, to.decode()) for token, to in pairs]


def limit_told(keys: QueueKeys, limit: DepthLimit | None) -> tuple[object, ...]:
    """Return the command that tells operators the limit of a queue, or that it has none."""
    if limit is None:
        return (b"HDEL", keys.names["meta"], b"max_jobs")
    return (b"HSET", keys.names["meta"], b"max_jobs", limit.max_jobs)


def earliest_ms(stamps: Sequence[bytes | None]) -> int | None:
    """Return the earliest of the times in front of payloads, unix ms."""
    return min((at for stamp in stamps if (at := stamp_ms(stamp)) is not None), default=None)
