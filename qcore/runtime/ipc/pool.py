"""What a worker and a process of its pool tell each other, over a socket."""

import msgspec

from qcore.context import Facts
from qcore.settings import BrokerConfig

#: The environment variable in which a process of the pool finds its PoolStart.
POOL_START = "QCORE_POOL"
LENGTH_BYTES = 4
REMEDY = "restart the worker if its code was changed"


class PoolStart(msgspec.Struct, frozen=True):
    """What a worker tells a process of its pool, as JSON."""

    broker: BrokerConfig
    #: A socket: requests come in, replies go out.
    requests_fd: int
    #: A pipe that ends when the worker does.
    lifeline_fd: int


class Request(msgspec.Struct, array_like=True):
    """One call of a task, which the process finds by its name in the facts."""

    facts: Facts
    args: msgspec.Raw
    #: Of the encoded result; -1: it is not kept, and not sent.
    result_limit_bytes: int


class Reply(msgspec.Struct, array_like=True):
    """How it ended: a result, or an exception described."""

    result: msgspec.Raw = msgspec.Raw(b"\xc0")
    kind: str = ""
    text: str = ""
    #: For RetryLater.
    delay_s: float = 0.0
    charge: bool = True
    #: What the job has changed for good, so that the process is of no more use; empty: nothing.
    left: str = ""
    #: The exception in one line.
    reason: str = ""


class RemoteError(Exception):
    """An exception that was raised in another process; it carries that one's kind and trace."""

    def __init__(self, kind: str, trace: str, reason: str) -> None:
        super().__init__(reason)
        self.kind = kind
        self.trace = trace
        self.reason = reason


encode = msgspec.msgpack.Encoder().encode


def frame(message: bytes) -> bytes:
    """Return a message with its length in front, as both directions of the pipe carry it."""
    return len(message).to_bytes(LENGTH_BYTES) + message
