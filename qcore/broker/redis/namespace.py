"""All that a namespace holds: whether anything stands there, and its removal."""

from collections.abc import Sequence

from qcore.broker.redis.broker import Broker
from qcore.broker.redis.inspector import Inspector
from qcore.broker.redis.keys import QueueKeys, namespace_keys, queues_key


async def in_use(broker: Broker, queues: Sequence[str]) -> set[str]:
    """Return the names of queues that are or were used, with those of `queues` that hold anything.

    "its supervisors" stands for a registry that is not empty.
    """
    used = set(await Inspector(broker).names())
    for keys in _keys(broker, queues):
        (count,) = await broker._ask([(b"EXISTS", *keys.names.values())])
        used |= {keys.queue or "its supervisors"} if count else set()
    return used


async def remove(broker: Broker, queues: Sequence[str]) -> None:
    """Remove everything that stands in these queues, their names, and those of supervisors."""
    unlinks = [(b"UNLINK", *keys.names.values()) for keys in _keys(broker, queues)]
    await broker._ask([*unlinks, (b"SREM", queues_key(broker.config.namespace), *queues)])


def _keys(broker: Broker, queues: Sequence[str]) -> list[QueueKeys]:
    """Return the keys of the queues, and those of the namespace."""
    return [*map(broker._keys_of, queues), namespace_keys(broker.config.namespace)]


async def drop_ready(broker: Broker, queues: Sequence[str]) -> None:
    """Forget all ready jobs while workers run: none can be claimed any more."""
    await broker._ask([(b"UNLINK", broker._keys_of(queue).names["ready"]) for queue in queues])
