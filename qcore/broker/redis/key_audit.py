"""Whose unique keys a queue holds: no key of a job that has ended, and no two live jobs of one."""

import re
import shlex
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence

from qcore.broker.redis.broker import Broker
from qcore.broker.redis.keys import QueueKeys
from qcore.broker.redis.queue_checks import PAGE, scan
from qcore.model.admission import parts_of_key
from qcore.model.findings import Finding, fault
from qcore.model.reading import text_of
from qcore.model.reference import reference

#: What `unique` holds of a key.
_ENTRY = re.compile(rb"([0-9]{1,16}) [0-9]{1,16} [0-9]{1,16} \S+ [0-9]{1,16} (?P<id>.+)", re.DOTALL)
#: A job may take the key meanwhile: then it is its own, and is left alone.
_WHILE_SAME = (
    'return redis.call("HGET", KEYS[1], ARGV[1]) == ARGV[2] '
    'and redis.call("HDEL", KEYS[1], ARGV[1])'
)


async def keys_in_disorder(
    broker: Broker, keys: QueueKeys, check: str
) -> AsyncIterator[tuple[str, Finding]]:
    """Yield what is wrong with the unique keys of a queue: the kind of it, and the finding.

    A queue is live while it is looked at: that a job is gone is read before that a key is still
    its own, and no job comes back.

    Redis: pages of at most 500 keys, and as many of jobs that hold one; two short reads of each.
    """
    names = keys.names
    async for page in scan(broker, b"HSCAN", names["unique"], PAGE):
        for kind, finding in await _stale(broker, keys, check, page[::2], page[1::2]):
            yield kind, finding
    holders = defaultdict[bytes, list[bytes]](list)
    async for page in scan(broker, b"HSCAN", names["unique_of"], PAGE):
        ids, held = page[::2], page[1::2]
        for kind, finding in await _leaked(broker, keys, check, ids, held):
            yield kind, finding
        for id, name in zip(ids, held, strict=True):
            if name[:1] == b"d":
                holders[name[1:]].append(id)
    for name, ids in holders.items():
        if len(ids) > 1 and len(live := await _live(broker, keys, ids)) > 1:
            yield "key of two", _shared(check, keys, name, live)


async def _stale(
    broker: Broker, keys: QueueKeys, check: str, names: Sequence[bytes], texts: Sequence[bytes]
) -> list[tuple[str, Finding]]:
    """Return the keys that nobody holds any more, and those that cannot be read."""
    entries = [_ENTRY.fullmatch(text) for text in texts]
    held = [(n, e) for n, e in zip(names, entries, strict=True) if e and int(e[1]) == 0]
    dead = await broker._ask([(b"ZSCORE", keys.names["dead"], e["id"]) for _, e in held])
    there = await broker._ask([(b"HEXISTS", keys.names["jobs"], e["id"]) for _, e in held])
    now = await broker._ask([(b"HGET", keys.names["unique"], n) for n, _ in held])
    found = list[tuple[str, Finding]]()
    for (name, entry), died, is_there, text in zip(held, dead, there, now, strict=True):
        same = _ENTRY.fullmatch(text or b"")
        if same and same["id"] == entry["id"] and (died is not None or not is_there):
            said = f"{_shown(name)} is held by job {text_of(entry['id'])}, which has ended"
            remedy = "The next enqueue with it frees it, or this does."
            found.append(("key of nobody", fault(check, said, remedy, _free(keys, name, same[0]))))
    for name, entry, text in zip(names, entries, texts, strict=True):
        if entry is None:
            said = f"what {_shown(name)} holds cannot be read: {text_of(text)[:80]!r}"
            forget = _free(keys, name, text)
            found.append(("unreadable key", fault(check, said, "It counts as free.", forget)))
    return found


async def _leaked(
    broker: Broker, keys: QueueKeys, check: str, ids: Sequence[bytes], held: Sequence[bytes]
) -> list[tuple[str, Finding]]:
    """Return the jobs that are gone, and are still noted as holders of a key."""
    noted = [(id, name) for id, name in zip(ids, held, strict=True) if name[:1] != b"w"]
    there = await broker._ask([(b"HEXISTS", keys.names["jobs"], id) for id, _ in noted])
    now = await broker._ask([(b"HGET", keys.names["unique_of"], id) for id, _ in noted])
    return [
        (
            "key of a job that is gone",
            fault(
                check,
                f"job {text_of(id)} has ended and is noted to hold {_shown(name[1:])}",
                "Remove it; it does no harm but for its memory.",
                redis_cli("HDEL", keys, "unique_of", id),
            ),
        )
        for (id, name), is_there, same in zip(noted, there, now, strict=True)
        if not is_there and same == name
    ]


async def _live(broker: Broker, keys: QueueKeys, ids: Sequence[bytes]) -> list[bytes]:
    """Return which jobs wait or run."""
    there = await broker._ask([(b"HEXISTS", keys.names["jobs"], id) for id in ids])
    dead = await broker._ask([(b"ZSCORE", keys.names["dead"], id) for id in ids])
    return [
        id for id, is_there, died in zip(ids, there, dead, strict=True) if is_there and died is None
    ]


def _shared(check: str, keys: QueueKeys, name: bytes, ids: Sequence[bytes]) -> Finding:
    refs = [reference(keys.queue, text_of(id)) for id in sorted(ids)]
    said = f"{_shown(name)} has {len(refs)} live jobs: {', '.join(refs[:5])}"
    return fault(check, said, "Cancel all but one.", f"qcore jobs cancel {' '.join(refs[1:5])}")


def _shown(name: bytes) -> str:
    kind, task, value = parts_of_key(text_of(name))
    return f"{kind} key {value!r} of task {task}"


def _free(keys: QueueKeys, name: bytes, text: bytes) -> str:
    key = keys.names["unique"].decode()
    return shlex.join(["redis-cli", "EVAL", _WHILE_SAME, "1", key, text_of(name), text_of(text)])


def redis_cli(command: str, keys: QueueKeys, name: str, *words: bytes) -> str:
    """Return a command on a key of a queue as an operator may copy it."""
    return shlex.join(["redis-cli", command, keys.names[name].decode(), *map(text_of, words)])
