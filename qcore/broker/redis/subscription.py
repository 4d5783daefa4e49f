"""A connection that listens to one channel."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager
from typing import Any, cast

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import RedisError

from qcore.broker.redis.endpoint import Endpoint
from qcore.broker.redis.pipeline import failure_of


class Subscription:
    """What comes over one channel, since the moment it was made."""

    def __init__(self, connection: AbstractConnection, endpoint: Endpoint) -> None:
        self._connection = connection
        self._endpoint = endpoint

    async def next(self, timeout_s: float) -> bytes | None:
        """Return the next message; empty for the answer to a ping; None when none came in time.

        Raises:
            BrokerUnavailable: the connection is lost, and with it perhaps messages.
        """
        with _told(self._endpoint):
            # the layout of RESP2: ["message", channel, text], ["pong", ""]
            reply = cast(Any, await self._connection.read_response(timeout=timeout_s))
            return None if reply is None else reply[-1]

    async def ping(self) -> None:
        """Ask for a sign of life.

        Raises:
            BrokerUnavailable: the connection is lost.
        """
        with _told(self._endpoint):
            await self._connection.send_command(b"PING", check_health=False)


@asynccontextmanager
async def subscribed(
    endpoint: Endpoint, channel: bytes, timeout_s: float
) -> AsyncGenerator[Subscription, None]:
    """Listen to a channel; Redis has confirmed it when this is entered.

    Args:
        endpoint: Where Redis is. In a Cluster any node will do: each passes on what is published
            at another.
        channel: Its name.
        timeout_s: For connecting and subscribing together.

    Raises:
        BrokerUnavailable: Redis cannot be reached, or is late.
        BrokerRefused: this user may not listen to the channel.
    """
    async with contextlib.AsyncExitStack() as stack:
        with _told(endpoint):
            async with asyncio.timeout(timeout_s):
                connection = await endpoint.connect()
                stack.push_async_callback(connection.disconnect, nowait=True)
                await connection.send_command(b"SUBSCRIBE", channel, check_health=False)
                await connection.read_response()
        yield Subscription(connection, endpoint)


@contextlib.contextmanager
def _told(endpoint: Endpoint) -> Generator[None]:
    """Raise errors of the connection as what they mean to a caller."""
    try:
        yield
    except (RedisError, OSError, TimeoutError) as e:
        raise failure_of(e, endpoint.shown) from e
