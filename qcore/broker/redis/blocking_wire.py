"""The bytes of one connection, for a caller that blocks."""

# imported by the first connection else, beside which a fork would leave the child with their locks
import encodings.idna  # pyright: ignore[reportUnusedImport]  # noqa: F401
import secrets  # pyright: ignore[reportUnusedImport]  # noqa: F401
import select
import socket
import time
from typing import Any, cast

import hiredis
from redis.backoff import NoBackoff
from redis.connection import Connection, ConnectionPool
from redis.exceptions import ConnectionError as ConnectionLost
from redis.exceptions import InvalidResponse
from redis.retry import Retry

from qcore.broker.redis.connectors import connection_options
from qcore.broker.redis.urls import plain_url
from qcore.broker.redis.wire import POLL_AFTER_S

#: Nearly all replies are a few bytes; a large buffer is dear to have.
_READ_BYTES = 8 * 1024
#: What connecting waits for at most: the server, a password, a name, a database. Each step has its
#: share of the time, but this much where there is little.
_STEPS, _STEP_S = 4, 0.5


class BlockingWire:
    """One connection, one request at a time.

    The connection is made by redis-py, which knows URLs and passwords. After any failure, an
    interruption too, it is not to be used again: a reply may be on its way.

    Args:
        url: A plain URL without TLS.
        timeout_s: For connecting.

    Raises:
        RedisError, OSError: no connection could be made.
    """

    def __init__(self, url: str, *, timeout_s: float) -> None:
        step_s = max(0.05, timeout_s / _STEPS, min(timeout_s, _STEP_S))
        pool = ConnectionPool.from_url(  # pyright: ignore[reportUnknownMemberType]
            plain_url(url),
            **connection_options(step_s),
            retry=Retry(NoBackoff(), 0),
            socket_timeout=step_s,
            driver_info=None,  # two commands more for each connection
        )
        self._connection = cast(Connection, pool.make_connection())
        self._connection.connect()
        inner = cast(Any, self._connection)
        self._socket: socket.socket = inner._sock
        self._socket.setblocking(False)
        self._poll = select.poll()
        #: What it looks for; to say so costs as much as to look.
        self._event = 0
        self._reader = hiredis.Reader(
            protocolError=InvalidResponse, replyError=inner._parser.parse_error
        )
        self._heard_at = time.monotonic()
        #: Its server has the script that enqueues.
        self.has_script = False

    def is_open(self) -> bool:
        """Whether the next request can go out, as far as this side can know."""
        if time.monotonic() - self._heard_at < POLL_AFTER_S:
            return True
        return not self._polled(select.POLLIN, 0)

    def request(self, packed: bytes, count: int, *, still_s: float, until: float) -> list[Any]:
        """Send commands in one write, and return their `count` replies.

        Args:
            packed: The commands.
            count: How many.
            still_s: At most so long without a byte.
            until: At most until then, by `time.monotonic`.

        Raises:
            TimeoutError: it took too long.
            RedisError, OSError: the connection is lost, or answers nonsense.
        """
        rest = memoryview(packed)
        while rest:
            try:
                rest = rest[self._socket.send(rest) :]
            except BlockingIOError:
                self._wait(select.POLLOUT, still_s, until)
        replies: list[Any] = []
        while len(replies) < count:
            self._wait(select.POLLIN, still_s, until)
            try:
                data = self._socket.recv(_READ_BYTES)
            except BlockingIOError:
                continue
            if not data:
                raise ConnectionLost("Connection closed by server.")
            self._reader.feed(data)
            while (reply := self._reader.gets()) is not False:
                replies.append(reply)
        if len(replies) > count:
            raise InvalidResponse("the server said what it was not asked")
        self._heard_at = time.monotonic()
        return replies

    def _wait(self, event: int, still_s: float, until: float) -> None:
        """Wait until the socket is ready; signals do not make it longer."""
        wait_s = min(still_s, until - time.monotonic())
        if wait_s <= 0 or not self._polled(event, 1000 * wait_s):
            raise TimeoutError

    def _polled(self, event: int, wait_ms: float) -> bool:
        if self._event != event:
            self._poll.register(self._socket, event)
            self._event = event
        return bool(self._poll.poll(wait_ms))

    def close(self) -> None:
        """Close it."""
        self._connection.disconnect()  # pyright: ignore[reportUnknownMemberType]
