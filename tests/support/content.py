"""What stands in Redis, read without the code under test; and its end."""

from collections.abc import Awaitable, Callable
from typing import Any

from qcore.broker.broker import Broker
from qcore.broker.keys import QUEUE_KEYS
from qcore.config import BrokerConfig

Content = dict[str, Any]
Command = Callable[..., Awaitable[Any]]


async def keys_of(broker: Broker, queue: str) -> Content:
    """Return every key of a queue that exists: its short name -> its exact content.

    A list is a list, a hash a dict, a sorted set a dict of member -> score (an int where it is
    whole). Names and values of bytes are text where they can be.
    """
    found: Content = {}
    for name in QUEUE_KEYS:
        value = await _value(broker, broker.keys(queue).names[name])
        if value is not None:
            found[name] = value
    return found


async def _value(broker: Broker, key: bytes) -> Any:
    (kind,) = await broker.ask([(b"TYPE", key)])
    match kind:
        case b"none":
            return None
        case b"list":
            (items,) = await broker.ask([(b"LRANGE", key, 0, -1)])
            return [_text(item) for item in items]
        case b"hash":
            (flat,) = await broker.ask([(b"HGETALL", key)])
            return {_text(k): _text(v) for k, v in zip(flat[::2], flat[1::2], strict=True)}
        case b"zset":
            (flat,) = await broker.ask([(b"ZRANGE", key, 0, -1, b"WITHSCORES")])
            return {_text(k): _score(v) for k, v in zip(flat[::2], flat[1::2], strict=True)}
        case b"set":
            (items,) = await broker.ask([(b"SMEMBERS", key)])
            return {_text(item) for item in items}
        case other:
            raise AssertionError(f"{key!r} is a {other!r}")


def _text(value: bytes) -> str | bytes:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value


def _score(value: bytes) -> int | float:
    score = float(value)
    return int(score) if score.is_integer() else score


async def names_in(broker: Broker, namespace: str) -> set[str]:
    """Return the full names of all keys of a namespace."""
    names: set[str] = set()
    for pattern in (f"{{{namespace}:*", f"{namespace}:*"):
        cursor: bytes = b"0"
        while True:
            ((cursor, page),) = await broker.ask([(b"SCAN", cursor, b"MATCH", pattern)])
            names |= {name.decode() for name in page}
            if cursor == b"0":
                break
    return names


async def forget_namespace(url: str, namespace: str) -> None:
    """Delete all keys of a namespace."""
    broker = Broker(BrokerConfig(url=url, namespace=namespace))
    try:
        names = await names_in(broker, namespace)
        await broker.ask([(b"UNLINK", name) for name in names])
    finally:
        await broker.close()
