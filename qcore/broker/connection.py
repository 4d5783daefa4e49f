"""Connections: one URL, lines that carry one call at a time, and how long to wait in between."""

import asyncio
import contextlib
import random
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from redis.asyncio.connection import AbstractConnection, ConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError, ResponseError

from qcore.broker.embedded import EmbeddedServer
from qcore.broker.scripts import Call, error_of, unknown_script
from qcore.config import BrokerConfig
from qcore.errors import BrokerError, BrokerUnavailable, ConfigError

_SCHEMES = "redis://host:6379/0, rediss://, unix:///path, embedded://PATH"

#: A command as it goes out: its words.
Command = tuple[object, ...]


class Backoff:
    """Delays between tries: full jitter under a bound that doubles from `least_s` to `most_s`."""

    def __init__(self, least_s: float, most_s: float) -> None:
        self._least_s = least_s
        self._most_s = most_s
        self._bound_s = least_s

    def next_s(self) -> float:
        """Return the next delay in seconds."""
        bound_s, self._bound_s = self._bound_s, min(self._bound_s * 2, self._most_s)
        return random.uniform(0, bound_s)

    def reset(self) -> None:
        """Start again from `least_s`: something worked."""
        self._bound_s = self._least_s


class Endpoint:
    """Where Redis is: makes connections, and keeps the embedded server up where one is named."""

    def __init__(self, config: BrokerConfig) -> None:
        self._timeout_s = config.call_timeout_s
        self._folder: Path | None = None
        self._server: EmbeddedServer | None = None
        self._joining = asyncio.Lock()
        self._pool: ConnectionPool | None = None
        self.shown = shown_url(config.url)
        scheme, _, rest = config.url.partition("://")
        if scheme == "embedded":
            if not rest:
                raise ConfigError("embedded:// needs a folder: embedded://PATH")
            self._folder = Path(rest)
        elif scheme in ("redis", "rediss", "unix"):
            self._pool = self._make_pool(config.url)
        else:
            raise ConfigError(f"{self.shown!r} is no Redis URL; use one of {_SCHEMES}")

    def _make_pool(self, url: str) -> ConnectionPool:
        # A pool only for its knowledge of URLs. What its defaults would do: replay scripts up to
        # ten times when a reply is late, and (RESP3) not replace a connection that the server
        # closed while it was idle.
        try:
            return ConnectionPool.from_url(  # pyright: ignore[reportUnknownMemberType]
                url,
                protocol=2,
                retry=Retry(NoBackoff(), 0),
                retry_on_error=[],
                socket_timeout=None,
                socket_connect_timeout=self._timeout_s,
                decode_responses=False,
                client_name="qcore",
            )
        except (ValueError, TypeError) as e:
            raise ConfigError(f"{self.shown!r} is no Redis URL ({e}); use one of {_SCHEMES}") from e

    async def open(self) -> None:
        """Join the embedded server, if one is named; it is started if it does not run.

        Raises:
            ConfigError: there is no server program, or the folder cannot be used.
            BrokerUnavailable: the server did not come up in time.
        """
        if self._folder is not None and self._server is None:
            await self._join(self._folder)

    async def connect(self) -> AbstractConnection:
        """Return a new open connection.

        Raises:
            RedisError, OSError: no connection could be made.
            BrokerUnavailable: the embedded server did not come up again.
        """
        await self.open()
        try:
            return await self._open()
        except (RedisError, OSError):
            if self._server is None:
                raise
            await self._revive(self._server)
            return await self._open()

    async def _revive(self, server: EmbeddedServer) -> None:
        """Start the embedded server again if it died: any of its users does."""
        try:
            await asyncio.to_thread(server.ensure_running)
        except ConfigError as e:
            # it ran before: what is wrong now may pass, and is no mistake of the settings
            raise BrokerUnavailable(str(e)) from e
        self._pool = self._make_pool(f"unix://{server.socket_path}")

    async def _open(self) -> AbstractConnection:
        assert self._pool is not None
        connection: AbstractConnection = self._pool.make_connection()
        await connection.connect()
        return connection

    async def _join(self, folder: Path) -> None:
        async with self._joining:
            if self._server is not None:
                return
            joining = asyncio.create_task(asyncio.to_thread(EmbeddedServer.join, folder))
            try:
                server = await asyncio.shield(joining)
            except asyncio.CancelledError:
                # the thread goes on; who joins must leave
                joining.add_done_callback(_leave_again)
                raise
            self._server = server
            self._pool = self._make_pool(f"unix://{server.socket_path}")

    async def close(self) -> None:
        """Leave the embedded server, if one was joined; the last user out stops it."""
        server, self._server = self._server, None
        if server is not None:
            await asyncio.to_thread(server.leave)


def _leave_again(joining: "asyncio.Task[EmbeddedServer]") -> None:
    if not joining.cancelled() and joining.exception() is None:
        joining.result().leave()


class Line:
    """One connection, one call at a time, every call with a deadline.

    A call that fails or is cancelled drops the connection, so that no reply is ever taken for
    another's; the next call opens a new one. Nothing is repeated here, except a script that the
    server did not know, which cannot have run.
    """

    def __init__(self, endpoint: Endpoint, timeout_s: float) -> None:
        self._endpoint = endpoint
        self.timeout_s = timeout_s
        self._connection: AbstractConnection | None = None
        self._busy = asyncio.Lock()

    async def send(
        self, commands: Sequence[Call | Command], *, timeout_s: float | None = None
    ) -> list[Any]:
        """Send all commands in one write, and return their replies in order.

        An error reply stands in its place as a BrokerError: one command's error says nothing of
        its neighbours.

        Args:
            commands: Scripts or plain commands.
            timeout_s: For connecting, writing and reading together; the configured call timeout
                by default.

        Raises:
            BrokerUnavailable: no connection, or no reply in time. `sent` says whether the
                commands may have run. Cancellation leaves that open too.
        """
        limit_s = self.timeout_s if timeout_s is None else timeout_s
        sent = False

        async def exchange() -> list[Any]:
            nonlocal sent
            try:
                connection = await self._open()
                sent = True
                replies = await _exchange(connection, commands)
            except BaseException:
                await self._drop()
                raise
            if any(isinstance(reply, BrokerUnavailable) for reply in replies):
                # a master that became a replica: its address may lead to the new one by now
                await self._drop()
            return replies

        try:
            async with asyncio.timeout(limit_s), self._busy:
                return await exchange()
        except ConfigError:
            raise
        except TimeoutError as e:
            raise BrokerUnavailable(
                f"Redis at {self._endpoint.shown} did not answer within {limit_s:g} s",
                sent=sent,
            ) from e
        except Exception as e:
            raise self._failure(e, sent=sent) from e

    async def _open(self) -> AbstractConnection:
        connection = self._connection
        if connection is not None and connection.is_connected:
            with contextlib.suppress(RedisError):
                # something to read that nobody asked for: the server closed it while it was idle
                if not await connection.can_read():
                    return connection
            await self._drop()
        self._connection = await self._endpoint.connect()
        return self._connection

    def _failure(self, error: Exception, *, sent: bool) -> BrokerError:
        if isinstance(error, BrokerError):
            return error
        if isinstance(error, RedisError):
            meant = error_of(error)
            if type(meant) is not BrokerError:
                return meant
        return BrokerUnavailable(
            f"Redis at {self._endpoint.shown} cannot be reached: "
            f"{error or type(error).__name__}; start it, or check the URL",
            sent=sent,
        )

    async def run(self, command: Call | Command) -> Any:
        """Send one command and return its reply.

        Raises:
            BrokerUnavailable: see `send`.
            BrokerError: the error that Redis answered with.
        """
        (reply,) = await self.send([command])
        if isinstance(reply, BrokerError):
            raise reply
        return reply

    async def close(self) -> None:
        """Close the connection after the call in flight."""
        async with self._busy:
            await self._drop()

    async def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.disconnect(nowait=True)


async def _exchange(
    connection: AbstractConnection, commands: Sequence[Call | Command]
) -> list[Any]:
    words = [c.by_digest() if isinstance(c, Call) else c for c in commands]
    replies = await _write_and_read(connection, words)
    for i, command in enumerate(commands):
        if isinstance(command, Call) and unknown_script(replies[i]):
            (replies[i],) = await _write_and_read(connection, [command.by_source()])
    return [error_of(r) if isinstance(r, ResponseError) else r for r in replies]


async def _write_and_read(connection: AbstractConnection, words: Sequence[Command]) -> list[Any]:
    packed = connection.pack_commands(words)  # type: ignore[arg-type]
    await connection.send_packed_command(packed, check_health=False)
    replies: list[Any] = []
    for _ in words:
        try:
            replies.append(await connection.read_response())
        except ResponseError as e:
            replies.append(e)
    return replies


def shown_url(url: str) -> str:
    """Return the URL as it may be shown: without its password, however it was written."""
    try:
        urlsplit(url)
    except ValueError:  # nobody knows what its parts are
        return url.partition("://")[0] + "://***"
    scheme, separator, rest = url.partition("://")
    secret, at, place = rest.rpartition("@")
    if at:
        user = secret.partition(":")[0]
        rest = f"{user}:***@{place}" if ":" in secret else f"{user}@{place}"
    return scheme + separator + re.sub(r"(?i)(password=)[^&]*", r"\1***", rest)
