"""Where a connection may lead: one server, the embedded server, the master that Sentinels name."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast
from urllib.parse import quote

from redis.asyncio.connection import AbstractConnection, ConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, RedisError

from qcore.broker.embedded.folder import check_socket
from qcore.broker.embedded.server import EmbeddedServer
from qcore.broker.redis.urls import Address, Hosts, bad_url, plain_url, shown_url
from qcore.errors import BrokerUnavailable, ConfigError

#: A server that is asked who is master, and one that is said to be it, has so long to answer: one
#: that hangs must not use up the time of the call that looks for the others.
STEP_S = 1.0


def connection_options(timeout_s: float) -> dict[str, Any]:
    """Return how redis-py is to make connections; a pool of it serves for its knowledge of URLs.

    What its defaults would do: replay scripts up to ten times when a reply is late, and (RESP3) not
    replace a connection that the server closed while it was idle.
    """
    return {
        "protocol": 2,
        "retry_on_error": [],
        "socket_connect_timeout": timeout_s,
        "decode_responses": False,
        "client_name": "qcore",
    }


class Server:
    """One server, by a plain URL."""

    fails_over = False

    def __init__(self, url: str, *, timeout_s: float) -> None:
        self.shown = shown_url(url)
        try:
            self._pool = ConnectionPool.from_url(  # pyright: ignore[reportUnknownMemberType]
                plain_url(url),
                **connection_options(timeout_s),
                retry=Retry(NoBackoff(), 0),
                socket_timeout=None,
            )
            self._pool.make_connection()  # an option that nobody knows shows only here
        except (ValueError, TypeError, RedisError):
            # not with its words: they may hold part of a password
            raise bad_url(url, "redis-py refuses one of its options") from None

    async def connect(self) -> AbstractConnection:
        """Return a new open connection."""
        connection: AbstractConnection = self._pool.make_connection()
        await connection.connect()
        return connection

    async def has_successor(self, connection: AbstractConnection) -> bool:
        """Say no: there is only this one."""
        return False

    async def ask(self, *words: object) -> Any:
        """Return the reply to one command, over a connection of its own, within STEP_S.

        Raises:
            RedisError, OSError, TimeoutError: there is none.
        """
        async with asyncio.timeout(STEP_S):
            connection = await self.connect()
            try:
                return await exchange(connection, *words)
            finally:
                await connection.disconnect(nowait=True)

    async def open(self) -> None:
        """Do nothing: a server is connected to when it is needed."""

    async def close(self) -> None:
        """Do nothing: whoever asked for a connection closes it."""


async def exchange(connection: AbstractConnection, *words: object) -> Any:
    """Send one command and return its reply; an error reply raises."""
    packed = connection.pack_command(*words)  # type: ignore[arg-type]
    await connection.send_packed_command(packed, check_health=False)
    return cast(Any, await connection.read_response())


class Embedded:
    """The server of a folder; it is started when nobody uses it yet, and again when it died."""

    fails_over = False

    def __init__(self, url: str, *, timeout_s: float) -> None:
        self.shown = shown_url(url)
        self._timeout_s = timeout_s
        folder = url.partition("://")[2]
        if not folder:
            raise ConfigError("embedded:// needs a folder: embedded://PATH")
        self._folder = Path(folder)
        self._joining = asyncio.Lock()
        self._joined: tuple[EmbeddedServer, Server] | None = None

    async def open(self) -> None:
        """Join the server; it is started if it does not run.

        Raises:
            ConfigError: there is no server program, or the folder cannot be used.
            BrokerUnavailable: the server did not come up in time.
        """
        await self._join()

    async def connect(self) -> AbstractConnection:
        """Return a new open connection.

        Raises:
            RedisError, OSError: no connection could be made.
            BrokerUnavailable: the server did not come up again.
        """
        embedded, server = await self._join()
        try:
            check_socket(Path(embedded.socket_path))
            return await server.connect()
        except (RedisError, OSError, ConfigError):
            return await (await self._revive(embedded)).connect()

    async def has_successor(self, connection: AbstractConnection) -> bool:
        """Say no: there is only this one."""
        return False

    async def _revive(self, embedded: EmbeddedServer) -> Server:
        """Start the server again if it died: any of its users does."""
        try:
            await asyncio.to_thread(embedded.ensure_running)
        except ConfigError as e:
            # it ran before: what is wrong now may pass, and is no mistake of the settings
            raise BrokerUnavailable(str(e)) from e
        return self._note(embedded)

    def _note(self, embedded: EmbeddedServer) -> Server:
        server = Server(f"unix://{quote(embedded.socket_path)}", timeout_s=self._timeout_s)
        self._joined = embedded, server
        return server

    async def _join(self) -> tuple[EmbeddedServer, Server]:
        async with self._joining:
            if self._joined is not None:
                return self._joined
            joining = asyncio.create_task(asyncio.to_thread(EmbeddedServer.join, self._folder))
            try:
                embedded = await asyncio.shield(joining)
            except asyncio.CancelledError:
                # the thread goes on; who joins must leave
                joining.add_done_callback(_leave_again)
                raise
            return embedded, self._note(embedded)

    async def close(self) -> None:
        """Leave the server; the last user out stops it."""
        joined, self._joined = self._joined, None
        if joined is not None:
            await asyncio.to_thread(joined[0].leave)


def _leave_again(joining: "asyncio.Task[EmbeddedServer]") -> None:
    if not joining.cancelled() and joining.exception() is None:
        joining.result().leave()


class Sentinels:
    """The master of a service; its Sentinels are asked who that is at each connect.

    All are asked at once and most are believed, if the server says itself that it is a master: a
    Sentinel that was away, or is cut off, names an old one.
    """

    fails_over = True

    def __init__(self, url: str, *, timeout_s: float) -> None:
        self.shown = shown_url(url)
        self._timeout_s = timeout_s
        self._hosts = hosts = Hosts.parse(url, port=26379)
        if not 1 <= len(hosts.path) <= 2 or not (hosts.path[1:] or ("0",))[0].isdecimal():
            raise bad_url(url, "after the hosts it reads /SERVICE or /SERVICE/DB")
        self._service, self._db = hosts.path[0], (hosts.path[1:] or ("0",))[0]
        # A Sentinel has users of its own, and as a rule none: it gets the password if it asks.
        self._sentinels = [
            [Server(hosts.url(a, credentials=c), timeout_s=STEP_S) for c in (False, True)]
            for a in hosts.addresses
        ]

    async def open(self) -> None:
        """Do nothing: the Sentinels are asked when a connection is needed."""

    async def close(self) -> None:
        """Do nothing: whoever asked for a connection closes it."""

    async def connect(self) -> AbstractConnection:
        """Return a new open connection to the master.

        Raises:
            BrokerUnavailable: no Sentinel names a server that says that it is the master.
            AuthenticationError: the master, or every Sentinel, refuses user or password.
        """
        votes, failures = await self._votes()
        for address, count in votes.most_common():
            if count < max(votes.values()):
                break
            try:
                return await self._master_at(address)
            except (RedisError, OSError) as e:
                failures.append(e)
        raise self._nobody(failures)

    async def _votes(self) -> tuple[Counter[Address], list[Exception]]:
        """Ask all Sentinels, until most name the same master; return also what failed."""
        asking = [asyncio.create_task(self._named_by(s)) for s in self._sentinels]
        votes: Counter[Address] = Counter()
        failures: list[Exception] = []
        try:
            for answer in asyncio.as_completed(asking):
                try:
                    address = await answer
                except (RedisError, OSError) as e:
                    failures.append(e)
                    continue
                if address is not None:
                    votes[address] += 1
                    if 2 * votes[address] > len(asking):
                        break
        finally:
            for task in asking:
                task.cancel()
            await asyncio.gather(*asking, return_exceptions=True)
        return votes, failures

    async def has_successor(self, connection: AbstractConnection) -> bool:
        """Say whether most Sentinels name another master than the one connected to."""
        votes, _ = await self._votes()
        here = Address(getattr(connection, "host", ""), getattr(connection, "port", 0))
        del votes[here]
        return 2 * votes.total() > len(self._sentinels)

    def _nobody(self, failures: list[Exception]) -> Exception:
        for failure in failures:
            if isinstance(failure, AuthenticationError):
                return failure
        said = "; ".join(dict.fromkeys(str(f) or type(f).__name__ for f in failures))
        return BrokerUnavailable(
            f"no Sentinel of {self.shown} leads to a master of {self._service!r}: "
            f"{said or 'they do not know this service'}; check the hosts and the service's name"
        )

    async def _named_by(self, sentinel: Sequence[Server]) -> Address | None:
        """Ask one Sentinel for the master's address; None when it does not know the service."""
        words = ("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._service)
        open_door, locked_door = sentinel
        try:
            found: Any = await open_door.ask(*words)
        except AuthenticationError:
            found = await locked_door.ask(*words)
        return None if found is None else Address(found[0].decode(), int(found[1]))

    async def _master_at(self, address: Address) -> AbstractConnection:
        server = Server(self._hosts.url(address, db=self._db), timeout_s=self._timeout_s)
        async with asyncio.timeout(STEP_S):
            connection = await server.connect()
            try:
                role = (await exchange(connection, "ROLE"))[0]
                if role == b"master":
                    return connection
            except BaseException:
                await connection.disconnect(nowait=True)
                raise
        await connection.disconnect(nowait=True)
        raise ConnectionError(f"{address} is no master, it is a {role.decode()}")
