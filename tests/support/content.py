"""What stands in Redis, read without the code under test; and its end."""

from collections.abc import Awaitable, Callable
from typing import Any

from qcore.broker.redis.broker import Broker
from qcore.broker.redis.keys import QUEUE_KEYS
from qcore.settings import BrokerConfig

Content = dict[str, Any]
Command = Callable[..., Awaitable[Any]]


async def keys_of(broker: Broker, queue: str) -> Content:
    """Return every key of a queue that exists: its short name -> its exact content.

    A list is a list, a hash a dict, a sorted set a dict of member -> score (an int where it is
    whole). Names and values of bytes are text where they can be.
    """
    return shown(await broker._ask(reads(broker, queue)))


def reads(broker: Broker, queue: str) -> list[tuple[object, ...]]:
    """Return the commands whose replies `shown` takes, to be sent beside others."""
    names = broker._keys_of(queue).names
    return [
        (verb, names[name], *rest)
        for name, (kind, _) in QUEUE_KEYS.items()
        for verb, *rest in [_READ[kind]]
    ]


def shown(replies: list[Any]) -> Content:
    """Return what `keys_of` does, from the replies to `reads`."""
    kinds = [kind for kind, _ in QUEUE_KEYS.values()]
    values = [_READERS[kind](reply) for kind, reply in zip(kinds, replies, strict=True)]
    return {name: value for name, value in zip(QUEUE_KEYS, values, strict=True) if value}


def _text(value: bytes) -> str | bytes:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value


def _score(value: bytes) -> int | float:
    score = float(value)
    return int(score) if score.is_integer() else score


#: How each kind of key is read: the words around its name, and what becomes of the reply. A key of
#: another kind is an error.
_READ: dict[str, tuple[Any, ...]] = {
    "list": (b"LRANGE", 0, -1),
    "hash": (b"HGETALL",),
    "zset": (b"ZRANGE", 0, -1, b"WITHSCORES"),
}
_READERS: dict[str, Callable[[list[bytes]], Any]] = {
    "list": lambda items: [_text(item) for item in items],
    "hash": lambda flat: {_text(k): _text(v) for k, v in zip(flat[::2], flat[1::2], strict=True)},
    "zset": lambda flat: {_text(k): _score(v) for k, v in zip(flat[::2], flat[1::2], strict=True)},
}


async def names_in(broker: Broker, namespace: str) -> set[str]:
    """Return the full names of all keys of a namespace."""
    names: set[str] = set()
    for pattern in (f"{{{namespace}:*", f"{{{namespace}}}:*", f"{namespace}:*"):
        cursor: bytes = b"0"
        while True:
            ((cursor, page),) = await broker._ask([(b"SCAN", cursor, b"MATCH", pattern)])
            names |= {name.decode() for name in page}
            if cursor == b"0":
                break
    return names


async def forget_namespace(url: str, namespace: str) -> None:
    """Delete all keys of a namespace."""
    broker = Broker(BrokerConfig(url=url, namespace=namespace))
    try:
        names = await names_in(broker, namespace)
        await broker._ask([(b"UNLINK", name) for name in names])
    finally:
        await broker.close()
