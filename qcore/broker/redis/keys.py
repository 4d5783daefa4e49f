"""Every Redis key: its name, its type, what it holds.

The keys of one queue share the hash tag `{namespace:queue}`, so that one script may touch them all,
also in a Cluster. No key has a Redis TTL: eviction can pick none, nothing vanishes by itself; but
for the wakeup of one worker, which nobody misses.
"""

from typing import NamedTuple

#: Key -> (type, content). Lua headers, this table and docs/reference/redis-schema.md agree by test.
QUEUE_KEYS: dict[str, tuple[str, str]] = {
    "ready": ("list", "job ids, oldest first"),
    "quarantine": ("list", "ids of ready jobs that lost two leases, oldest first"),
    "scheduled": ("zset", "job id -> due time, unix ms"),
    "active": ("zset", "token -> lease deadline, unix ms"),
    "running": ("hash", "job id -> token"),
    "jobs": ("hash", "job id -> 8 bytes of Redis time + envelope"),
    "state": ("hash", "job id -> mutable record"),
    "crashes": ("hash", "job id -> `count ms`"),
    "cancels": ("hash", "job id -> `keep_ms outcome`, a request to cancel it"),
    "waiters": ("hash", "job id -> channels that hear of its end"),
    "dead": ("zset", "job id -> time of death, unix ms"),
    "done": ("hash", "job id -> `keep_ms outcome`, then the trace of it"),
    "expiry": ("zset", "job id -> when its outcome is forgotten, unix ms"),
    "producers": ("hash", "nonce -> `call ms`, its last call"),
    "answers": (
        "hash",
        "nonce -> `call answers` of its last call that has some, as msgpack",
    ),
    "wakeup": ("zset", 'one member, "come and claim", which an idle worker pops'),
    "meta": (
        "hash",
        "fence, epoch, emptied, paused, closed, cleared, purged, max_jobs, and those of sweeps",
    ),
    "unique": (
        "hash",
        "unique key -> `until_ms first_ms count digest expires_ms id`, the job that holds it",
    ),
    "unique_of": ("hash", "job id -> letter and unique key that it holds"),
    "unique_until": ("zset", "unique key -> end of its window, unix ms"),
}

#: The same of the namespace: its supervisors, and orders to them. They share the tag `{namespace}`.
NAMESPACE_KEYS: dict[str, tuple[str, str]] = {
    "fleet": ("hash", "supervisor id -> 8 bytes of Redis time + record"),
    "control": ("hash", "`restart:HOST:QUEUE` -> `generation exit`"),
}


class QueueKeys(NamedTuple):
    """The keys of one queue, or of the namespace, by name; encoded once."""

    queue: str
    names: dict[str, bytes]
    #: What was picked before.
    picked: dict[tuple[str, ...], list[bytes]]

    def pick(self, wanted: tuple[str, ...]) -> list[bytes]:
        """Return the named keys in order, as a script declares them; not to be changed."""
        keys = self.picked.get(wanted)
        if keys is None:
            keys = self.picked[wanted] = [self.names[name] for name in wanted]
        return keys

    def own_wakeup(self, owner: str) -> bytes:
        """Return the zset by which a worker that serves this queue ends its own wait."""
        return b"%b:%b" % (self.names["wakeup"], owner.encode())


def queue_keys(namespace: str, queue: str) -> QueueKeys:
    """Return the keys of one queue; both names must match `qcore.settings.NAME`."""
    tag = f"{{{namespace}:{queue}}}"
    return QueueKeys(queue, {name: f"{tag}:{name}".encode() for name in QUEUE_KEYS}, {})


def namespace_keys(namespace: str) -> QueueKeys:
    """Return the keys that belong to no queue but `queues`."""
    return QueueKeys("", {name: f"{{{namespace}}}:{name}".encode() for name in NAMESPACE_KEYS}, {})


def queues_key(namespace: str) -> bytes:
    """Return the SET that holds the name of every queue ever used."""
    return f"{namespace}:queues".encode()
