"""One connection that carries one call at a time; every call has a deadline."""

import asyncio
import contextlib
import re
from collections.abc import Callable, Collection, Generator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, Protocol, cast

import hiredis
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import RedisError, ResponseError

from qcore.broker.redis.call_limits import MAX_TIMEOUTS, StallTimeout, moved
from qcore.broker.redis.scripts import Call, error_of, unknown_script
from qcore.errors import BrokerError, BrokerRefused, BrokerUnavailable, ConfigError

#: A command as it goes out: its words.
Command = tuple[object, ...]
_pack = cast(Callable[[Command], bytes], hiredis.pack_command)

#: A call that takes longer looks whether another server has taken over from one that hangs.
LOOK_S = 1.0


class Connector(Protocol):
    """What a pipeline leads to."""

    #: How errors name it; without a password.
    shown: str
    #: Another server takes over when this one fails.
    fails_over: bool

    async def connect(self) -> AbstractConnection:
        """Return a new open connection.

        Raises:
            RedisError, OSError, BrokerError: no connection could be made.
        """
        ...

    async def has_successor(self, connection: AbstractConnection) -> bool:
        """Say whether another server is certainly master instead of the one connected to."""
        ...


class NotAsked(BrokerUnavailable):
    """The call went nowhere, so that this says nothing of the server."""


class Pipeline:
    """One connection, one call at a time, every call with a deadline.

    A call that fails or is cancelled drops the connection, so that no reply is ever taken for
    another's; the next call opens a new one. Nothing is repeated here, except a script that the
    server did not know, which cannot have run.
    """

    def __init__(self, connector: Connector, timeout_s: float) -> None:
        self._connector = connector
        self.timeout_s = timeout_s
        self._connection: AbstractConnection | None = None
        #: Digests of the scripts that went out by source over this connection.
        self._taught: set[bytes] = set()
        self._busy = asyncio.Lock()

    async def send(
        self,
        commands: Sequence[Call | Command],
        *,
        timeout_s: float | None = None,
        blocks: bool = False,
    ) -> list[Any]:
        """Send all commands in one write, and return their replies in order.

        An error reply stands in its place as a BrokerError: one command's error says nothing of
        its neighbours.

        Args:
            commands: Scripts or plain commands.
            timeout_s: For connecting, writing and reading together, `MAX_TIMEOUTS` call timeouts
                by default. A call in which nothing moves for the call timeout ends then.
            blocks: The server may be silent for all of that time, and is not looked after.

        Raises:
            BrokerUnavailable: no connection, or no reply in time. `sent` says whether the
                commands may have run. Cancellation leaves that open too.
            NotAsked: the connection was not free in time.
        """
        began = asyncio.get_running_loop().time()
        max_s = MAX_TIMEOUTS * self.timeout_s if timeout_s is None else timeout_s
        has_turn = sent = False

        async def exchange() -> list[Any]:
            nonlocal sent
            try:
                connection = await self._open()
                sent = True
                replies = await _exchange(connection, commands, self._taught)
            except BaseException:
                await self.drop()
                raise
            if any(isinstance(reply, BrokerUnavailable) for reply in replies):
                # a master that became a replica: its address may lead to the new one by now
                await self.drop()
            return replies

        limit = asyncio.timeout(None)
        still_s = max_s if blocks else self.timeout_s
        patience = StallTimeout(limit, still_s=still_s, max_s=max_s, moved=self._moved)
        try:
            async with limit, self._busy:
                has_turn = True
                with nullcontext() if blocks else self._watching(limit):
                    return await exchange()
        except ConfigError:
            raise
        except TimeoutError as e:
            took_s = asyncio.get_running_loop().time() - began
            raise self._too_late(took_s, has_turn=has_turn, sent=sent) from e
        except Exception as e:
            failure = failure_of(e, self._connector.shown, sent=sent)
            failure.sent = failure.sent and sent  # a wrong password is refused before any call
            raise failure from e
        finally:
            patience.stop()

    def _too_late(self, took_s: float, *, has_turn: bool, sent: bool) -> BrokerUnavailable:
        # not the limit: a call that hangs at a server that was replaced ends earlier
        shown, after = self._connector.shown, f"{took_s:.1f} s"
        if not has_turn:
            return NotAsked(f"other calls to Redis at {shown} took {after}")
        # a server without TLS waits for the rest of what it takes for a command
        doubt = f"; {_NO_TLS}" if not sent and _is_tls(shown) else ""
        return BrokerUnavailable(
            f"Redis at {shown} did not answer within {after}{doubt}", sent=sent
        )

    def _moved(self) -> bytes | None:
        return moved(self._connection)

    @contextmanager
    def _watching(self, limit: asyncio.Timeout) -> Generator[None]:
        """End the call early if it hangs at a server that has been replaced meanwhile."""
        if not self._connector.fails_over:
            yield
            return
        loop = asyncio.get_running_loop()
        watch: asyncio.Task[None] | None = None

        def start() -> None:
            nonlocal watch
            watch = loop.create_task(self._watch(limit))

        timer = loop.call_later(LOOK_S, start)
        try:
            yield
        finally:
            timer.cancel()
            if watch is not None:
                watch.cancel()

    async def _watch(self, limit: asyncio.Timeout) -> None:
        while True:
            connection = self._connection
            if connection is not None and await self._connector.has_successor(connection):
                limit.reschedule(asyncio.get_running_loop().time())
                return
            await asyncio.sleep(LOOK_S)

    async def _open(self) -> AbstractConnection:
        connection = self._connection
        if connection is not None and connection.is_connected:
            with contextlib.suppress(RedisError):
                # something to read that nobody asked for: the server closed it while it was idle
                if not await connection.can_read():
                    return connection
            await self.drop()
        self._taught.clear()
        self._connection = await self._connector.connect()
        return self._connection

    async def close(self) -> None:
        """Close the connection after the call in flight."""
        async with self._busy:
            await self.drop()

    async def drop(self) -> None:
        """Close the connection at once; a call in flight fails."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.disconnect(nowait=True)


_NO_TLS = "if that port does not speak TLS, use redis://, or its TLS port"
_NO_DATABASE = re.compile(r"DB index is out of range|invalid DB index|Invalid Database")
#: What the words of a failure mean.
_REMEDIES = (
    (
        re.compile(r"WRONG_VERSION_NUMBER|RECORD_LAYER|PACKET_LENGTH|record layer", re.IGNORECASE),
        "that port does not speak TLS, so use redis://, or its TLS port",
    ),
    (re.compile(r"got .*\\x15"), "that port speaks TLS, so use rediss://"),
    (re.compile("CERTIFICATE_VERIFY_FAILED"), "name its authority by ?ssl_ca_certs=FILE"),
    (
        re.compile("closed by server"),
        "check the URL, and use rediss:// if that port speaks TLS",
    ),
)


def _is_tls(shown: str) -> bool:
    return shown.startswith("rediss")


def failure_of(error: Exception, shown: str, *, sent: bool = False) -> BrokerError:
    """Return what an error of a connection, or in place of its reply, means to a caller."""
    if isinstance(error, BrokerError):
        return error
    if isinstance(error, RedisError):
        meant = error_of(error)
        if type(meant) is not BrokerError:
            return meant
    why = str(error).rstrip(".") or type(error).__name__
    if _NO_DATABASE.search(why):
        return BrokerRefused(f"Redis at {shown} has no such database; give a smaller number")
    remedy = next((r for sign, r in _REMEDIES if sign.search(why)), "start it, or check the URL")
    if "Timeout connecting" in why and _is_tls(shown):
        remedy = _NO_TLS
    return BrokerUnavailable(f"Redis at {shown} cannot be reached: {why}; {remedy}", sent=sent)


async def _exchange(
    connection: AbstractConnection, commands: Sequence[Call | Command], taught: set[bytes]
) -> list[Any]:
    """Send each script by its source once per connection, so that the order of a write holds.

    One that a server has forgotten runs behind the others of its write.
    """
    words: list[Command] = []
    for command in commands:
        if not isinstance(command, Call):
            words.append(command)
        elif command.teaches or command.script.sha not in taught:
            taught.add(command.script.sha)
            words.append(command.by_source())
        else:
            words.append(command.by_digest())
    replies = await _write_and_read(connection, words)
    again = _to_repeat(commands, replies)
    if again:
        repeated = await _write_and_read(connection, again.values())
        for i, reply in zip(again, repeated, strict=True):
            replies[i] = reply
    return [error_of(r) if isinstance(r, ResponseError) else r for r in replies]


def _to_repeat(commands: Sequence[Call | Command], replies: Sequence[Any]) -> dict[int, Command]:
    """Return what the server could not run for lack of a script; its first use teaches it."""
    again: dict[int, Command] = {}
    taught: set[bytes] = set()
    for i, command in enumerate(commands):
        if isinstance(command, Call) and unknown_script(replies[i]):
            is_known = command.script.sha in taught
            again[i] = command.by_digest() if is_known else command.by_source()
            taught.add(command.script.sha)
    return again


async def _write_and_read(connection: AbstractConnection, words: Collection[Command]) -> list[Any]:
    # the client's own packer for asyncio is written in Python: 2 us for each job
    packed = [_pack(command) for command in words]
    await connection.send_packed_command(packed, check_health=False)
    replies: list[Any] = []
    for _ in words:
        try:
            replies.append(await connection.read_response())
        except ResponseError as e:
            replies.append(e)
    return replies
