"""The bytes of one connection: requests out, replies in, without a task or a stream between."""

import asyncio
import select
import socket
from collections.abc import Callable, Sequence
from typing import Any, cast

import hiredis
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ConnectionError as ConnectionLost
from redis.exceptions import InvalidResponse, RedisError

from qcore.errors import BrokerUnavailable

#: Who has heard nothing for so long asks the kernel, before it writes, whether the server has
#: closed the connection meanwhile: an event loop that is held up does not know it yet.
POLL_AFTER_S = 0.05

#: A command as it goes out: its words.
Command = tuple[object, ...]
#: A command in the bytes of the protocol.
pack = cast(Callable[[Command], bytes], hiredis.pack_command)

#: The replies to one request, in order, or why there are none.
Landing = Callable[[list[Any] | Exception], None]


class Wire(asyncio.Protocol):
    """One connection, one request in flight; its replies are handed on where the bytes arrive.

    The connection is made by redis-py, which knows URLs, TLS and passwords; from then on its
    transport belongs to this. A request costs no task, lock, timer or stream of its own.

    Whatever is out of order closes it: bytes that nobody asked for, replies that are none.

    Args:
        connection: Open, with nothing left to read.
    """

    def __init__(self, connection: AbstractConnection) -> None:
        self.connection = connection
        # its streams are taken away, so that they do not close what is not theirs any more
        inner = cast(Any, connection)
        self._writer: asyncio.StreamWriter = inner._writer
        unread: asyncio.StreamReader = inner._reader
        inner._writer = inner._reader = None
        self._reader = hiredis.Reader(
            protocolError=InvalidResponse, replyError=inner._parser.parse_error
        )
        self._loop = asyncio.get_running_loop()
        self._transport = cast(asyncio.Transport, self._writer.transport)
        self._land: Landing | None = None
        self._replies: list[Any] = []
        self._expected = 0
        self._heard_at = self._loop.time()
        self._lost = self._transport.is_closing() or unread.at_eof()
        self._transport.set_protocol(self)
        if cast(Any, unread)._buffer:
            self.fail(InvalidResponse("the server said what it was not asked"))

    def is_open(self) -> bool:
        """Whether the next request can go out, as far as this side can know."""
        if self._lost:
            return False
        if self._loop.time() - self._heard_at > POLL_AFTER_S and self._has_news():
            self.close()
            return False
        return True

    def _has_news(self) -> bool:
        """Say whether there is something to read, or an end."""
        poll = select.poll()
        poll.register(self.socket(), select.POLLIN)
        return bool(poll.poll(0))

    def socket(self) -> socket.socket:
        """Return the socket, to look at."""
        return self._writer.get_extra_info("socket")

    def request(self, packed: Sequence[bytes], land: Landing) -> None:
        """Send commands in one write; `land` hears the reply to each, or an error once.

        The event loop calls `land` while the replies are read; it may send the next request. Only
        one may be in flight.
        """
        self._land = land
        self._expected = len(packed)
        if len(packed) == 1:
            self._transport.write(packed[0])
        else:
            self._transport.writelines(packed)

    def close(self) -> None:
        """Close it at once; a request in flight lands with an error."""
        self.fail(BrokerUnavailable("its connection to Redis was closed here", sent=True))

    def fail(self, why: Exception) -> None:
        """Close it at once for a reason; a request in flight lands with it."""
        self._lost = True
        if self._land is None:
            self._transport.close()  # TLS says goodbye
        else:
            self._transport.abort()
        self._end(why)

    def _end(self, end: list[Any] | Exception) -> None:
        land, self._land = self._land, None
        if land is not None:
            land(end)

    # -- what the event loop calls --------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        """Take in bytes; hand on the replies when all of a request are there."""
        if self._land is None:
            self.fail(InvalidResponse("the server said what it was not asked"))
            return
        try:
            self._reader.feed(data)
            replies = self._replies
            while (reply := self._reader.gets()) is not False:
                replies.append(reply)
        except (RedisError, ValueError) as e:
            self.fail(e)
            return
        if len(replies) < self._expected:
            return
        self._replies = []
        if len(replies) > self._expected:
            self.fail(InvalidResponse("the server said what it was not asked"))
            return
        self._heard_at = self._loop.time()
        self._end(replies)

    def eof_received(self) -> bool:
        """Hear that the server has closed its side."""
        self._lost = True
        self._end(ConnectionLost("Connection closed by server."))
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """Hear that the connection is gone."""
        self._lost = True
        self._end(exc or ConnectionLost("Connection closed by server."))
