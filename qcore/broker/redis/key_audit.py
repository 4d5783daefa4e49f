"""Whose unique keys a queue holds: no key of a job that has ended, and no two live jobs of one."""

import shlex
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from typing import Any

from qcore.broker.redis import scripts
from qcore.broker.redis.broker import Broker
from qcore.broker.redis.keys import QueueKeys
from qcore.broker.redis.queue_checks import PAGE, scan
from qcore.model.admission import parts_of_key
from qcore.model.findings import Finding, fault
from qcore.model.reading import text_of
from qcore.model.reference import reference

#: What is stale is judged once more where it is removed: a job may have taken the key meanwhile.
_FREE = (
    'local of = redis.call("HGET", KEYS[2], ARGV[3]) '
    "local is_live = of and string.sub(of, 2) == ARGV[1] "
    'and redis.call("HEXISTS", KEYS[3], ARGV[3]) == 1 '
    'and not redis.call("ZSCORE", KEYS[4], ARGV[3]) '
    'return redis.call("HGET", KEYS[1], ARGV[1]) == ARGV[2] and not is_live '
    'and redis.call("HDEL", KEYS[1], ARGV[1])'
)
_FORGET = (
    'return redis.call("HGET", KEYS[1], ARGV[1]) == ARGV[2] '
    'and redis.call("HEXISTS", KEYS[2], ARGV[1]) == 0 and redis.call("HDEL", KEYS[1], ARGV[1])'
)


async def keys_in_disorder(
    broker: Broker, keys: QueueKeys, check: str
) -> AsyncIterator[tuple[str, Finding]]:
    """Yield what is wrong with the unique keys of a queue: the kind of it, and the finding.

    A queue is live while it is looked at: what a page shows is judged by one script, at one moment.

    Redis: pages of at most 500 keys, and as many of jobs that hold one; judge_keys.lua for each.
    """
    async for page in scan(broker, b"HSCAN", keys.names["unique"], PAGE):
        names = page[::2]
        for name, row in zip(names, await _judge(broker, keys, names, []), strict=True):
            if found := _of_key(check, keys, name, *row):
                yield found
    holders = defaultdict[bytes, list[bytes]](list)
    async for page in scan(broker, b"HSCAN", keys.names["unique_of"], PAGE):
        ids = page[::2]
        for id, (held, has_payload, is_live) in zip(
            ids, await _judge(broker, keys, [], ids), strict=True
        ):
            if held and held[:1] in b"ds" and not has_payload:
                yield "key of a job that is gone", _of_job(check, keys, id, held)
            if held and held[:1] == b"d" and is_live:
                holders[held[1:]].append(id)
    for name, ids in holders.items():
        # a page is of another moment than the next
        if len(ids) > 1 and len(live := await _live(broker, keys, name, ids)) > 1:
            yield "key of two", _shared(check, keys, name, live)


async def _judge(
    broker: Broker, keys: QueueKeys, names: Sequence[bytes], ids: Sequence[bytes]
) -> list[list[Any]]:
    if not names and not ids:
        return []
    (rows,) = await broker._ask([scripts.JUDGE_KEYS.call(keys, len(names), *names, *ids)])
    return rows


async def _live(broker: Broker, keys: QueueKeys, name: bytes, ids: Sequence[bytes]) -> list[bytes]:
    rows = await _judge(broker, keys, [], ids[:PAGE])
    return [id for id, row in zip(ids, rows, strict=False) if row[0] == b"d" + name and row[2]]


def _of_key(
    check: str, keys: QueueKeys, name: bytes, text: bytes | None, id: bytes, is_held: int
) -> tuple[str, Finding] | None:
    if text is None or is_held or (id and not text.startswith(b"0 ")):
        return None  # a window lasts whatever becomes of its job
    commands = [keys.names[key].decode() for key in ("unique", "unique_of", "jobs", "dead")]
    free = shlex.join(["redis-cli", "EVAL", _FREE, "4", *commands, *map(text_of, (name, text, id))])
    if not id:
        said = f"what {_shown(name)} holds cannot be read: {text_of(text)[:80]!r}"
        return "unreadable key", fault(check, said, "It counts as free.", free)
    said = f"{_shown(name)} is held by job {text_of(id)}, which has ended"
    remedy = "The next enqueue with it frees it, or this does."
    return "key of nobody", fault(check, said, remedy, free)


def _of_job(check: str, keys: QueueKeys, id: bytes, held: bytes) -> Finding:
    names = [keys.names[key].decode() for key in ("unique_of", "jobs")]
    return fault(
        check,
        f"job {text_of(id)} has ended and is noted to hold {_shown(held[1:])}",
        "Remove it; it does no harm but for its memory.",
        shlex.join(["redis-cli", "EVAL", _FORGET, "2", *names, text_of(id), text_of(held)]),
    )


def _shared(check: str, keys: QueueKeys, name: bytes, ids: Sequence[bytes]) -> Finding:
    refs = [reference(keys.queue, text_of(id)) for id in sorted(ids)]
    said = f"{_shown(name)} has {len(refs)} live jobs: {', '.join(refs[:5])}"
    cancel = shlex.join(["qcore", "jobs", "cancel", *refs[1:5]])
    return fault(check, said, "Cancel all but one.", cancel)


def _shown(name: bytes) -> str:
    kind, task, value = parts_of_key(text_of(name))
    return f"{kind} key {value!r} of task {task}"


def redis_cli(command: str, keys: QueueKeys, name: str, *words: bytes) -> str:
    """Return a command on a key of a queue as an operator may copy it."""
    return shlex.join(["redis-cli", command, keys.names[name].decode(), *map(text_of, words)])
