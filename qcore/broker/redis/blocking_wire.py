"""The bytes of one connection, for a caller that blocks."""

import select
import socket
import struct
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

_READ_BYTES = 64 * 1024


class BlockingWire:
    """One connection, one request at a time; the kernel keeps the time.

    The connection is made by redis-py, which knows URLs and passwords. After any failure, an
    interruption too, it is to be closed: a reply may be on its way.

    Args:
        url: A plain URL without TLS.
        timeout_s: For each step of connecting.

    Raises:
        RedisError, OSError: no connection could be made.
    """

    def __init__(self, url: str, *, timeout_s: float) -> None:
        options = connection_options(timeout_s)
        pool = ConnectionPool.from_url(  # pyright: ignore[reportUnknownMemberType]
            plain_url(url), **options, retry=Retry(NoBackoff(), 0), socket_timeout=timeout_s
        )
        self._connection = cast(Connection, pool.make_connection())
        self._connection.connect()
        inner = cast(Any, self._connection)
        self._socket: socket.socket = inner._sock
        self._socket.settimeout(None)  # Python would ask before each step whether it is ready
        self._limit_s = 0.0
        self._reader = hiredis.Reader(
            protocolError=InvalidResponse, replyError=inner._parser.parse_error
        )
        self._heard_at = time.monotonic()

    def is_open(self) -> bool:
        """Whether the next request can go out, as far as this side can know."""
        if time.monotonic() - self._heard_at < POLL_AFTER_S:
            return True
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        return not poll.poll(0)

    def limit(self, still_s: float) -> None:
        """End a request in which nothing moves for so many seconds, give or take a tenth."""
        if not 0.9 * self._limit_s < still_s < 1.1 * self._limit_s:  # it costs a system call
            self._limit_s = max(0.05, still_s)
            seconds = int(self._limit_s)
            limit = struct.pack("ll", seconds, int((self._limit_s - seconds) * 1_000_000))
            for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
                self._socket.setsockopt(socket.SOL_SOCKET, option, limit)

    def request(self, packed: bytes, count: int, *, until: float) -> list[Any]:
        """Send commands in one write, and return their `count` replies.

        Raises:
            TimeoutError: nothing has moved for the timeout, or it is past `until`, by
                `time.monotonic`.
            RedisError, OSError: the connection is lost, or answers nonsense.
        """
        rest = memoryview(packed)
        replies: list[Any] = []
        try:
            while rest:
                rest = rest[self._socket.send(rest) :]
                self._check(until)
            while len(replies) < count:
                data = self._socket.recv(_READ_BYTES)
                if not data:
                    raise ConnectionLost("Connection closed by server.")
                self._reader.feed(data)
                while (reply := self._reader.gets()) is not False:
                    replies.append(reply)
                if len(replies) < count:
                    self._check(until)
        except BlockingIOError as e:
            raise TimeoutError from e
        if len(replies) > count:
            raise InvalidResponse("the server said what it was not asked")
        self._heard_at = time.monotonic()
        return replies

    def _check(self, until: float) -> None:
        if time.monotonic() > until:
            raise TimeoutError

    def close(self) -> None:
        """Close it."""
        self._connection.disconnect()  # pyright: ignore[reportUnknownMemberType]
