"""One connection that carries one call at a time; every call has a deadline."""

import asyncio
import re
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol, cast

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ConnectionError as ConnectionLost
from redis.exceptions import RedisError, ResponseError

from qcore.broker.redis.call_limits import MAX_TIMEOUTS, StallTimeout, moved
from qcore.broker.redis.scripts import Call, error_of, unknown_script
from qcore.broker.redis.wire import Command, Wire, pack
from qcore.errors import BrokerError, BrokerRefused, BrokerUnavailable, ConfigError

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


#: Hears the replies of a call in order, or why there are none; once, and not before it has begun.
Heard = Callable[[list[Any] | BrokerError], None]


class _Flight:
    """The call that is on its way."""

    __slots__ = ("began", "commands", "heard", "verdict")

    def __init__(self, commands: Sequence[Call | Command], heard: Heard, began: float) -> None:
        self.commands = commands
        self.heard = heard
        #: Loop time of its beginning.
        self.began = began
        #: Why it is ended before its replies are there.
        self.verdict: BrokerError | None = None


class Pipeline:
    """One connection, one call at a time, every call with a deadline.

    A call that fails or is cancelled drops the connection, so that no reply is ever taken for
    another's; the next call opens a new one. Nothing is repeated here, except a script that the
    server did not know, which cannot have run.
    """

    def __init__(self, connector: Connector, timeout_s: float) -> None:
        self._connector = connector
        self.timeout_s = timeout_s
        self._wire: Wire | None = None
        self._flight: _Flight | None = None
        #: Who is next waits for the end of the flight.
        self._landed: asyncio.Future[None] | None = None
        #: Ends the flight; those who wait for their turn have limits of their own.
        self._stall = StallTimeout(self._moved)
        #: Looks whether the server of the flight has been replaced.
        self._watch: asyncio.TimerHandle | asyncio.Task[None] | None = None
        #: Digests of the scripts that went out by source over this connection.
        self._taught: set[bytes] = set()
        #: Held by who goes next.
        self._next = asyncio.Lock()

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
        if not commands:
            return []
        max_s = MAX_TIMEOUTS * self.timeout_s if timeout_s is None else timeout_s
        end: asyncio.Future[list[Any]] = asyncio.get_running_loop().create_future()
        heard = partial(_set, end)
        if not self.begin(commands, heard, max_s=max_s, blocks=blocks):
            await self._begin_in_turn(commands, heard, max_s=max_s, blocks=blocks)
        try:
            return await end
        except asyncio.CancelledError:
            if self._flight is not None and self._flight.heard is heard:
                self.drop()  # nobody hears it any more
            raise

    def begin(
        self,
        commands: Sequence[Call | Command],
        heard: Heard,
        *,
        max_s: float,
        blocks: bool = False,
    ) -> bool:
        """Send all commands now, if a connection is open and free, and nobody waits for it.

        Args:
            commands: As of `send`.
            heard: Hears what `send` returns or raises, where the replies are read; it may begin
                the next call.
            max_s: As `timeout_s`.
            blocks: As of `send`.

        Returns:
            False: nothing was sent, and nothing will be heard.
        """
        wire = self._wire
        if wire is None or self._flight is not None or self._next.locked() or not wire.is_open():
            return False
        self._take_off(wire, commands, heard, max_s=max_s, blocks=blocks)
        return True

    def _take_off(
        self,
        wire: Wire,
        commands: Sequence[Call | Command],
        heard: Heard,
        *,
        max_s: float,
        blocks: bool,
    ) -> None:
        sources = set[bytes]()
        # the client's own packer for asyncio is written in Python: 2 us for each job
        packed = [
            pack(self._words(command, sources) if isinstance(command, Call) else command)
            for command in commands
        ]
        self._taught |= sources
        loop = asyncio.get_running_loop()
        self._flight = flight = _Flight(commands, heard, loop.time())
        still_s = max_s if blocks else self.timeout_s
        self._stall.start(loop, self._too_late, still_s=still_s, max_s=max_s)
        if self._connector.fails_over and not blocks:
            self._watch = loop.call_later(LOOK_S, self._start_watch)
        try:
            wire.request(packed, partial(self._land, flight))
        except Exception as e:  # noqa: BLE001 - whatever a transport raises, it is out of order
            loop.call_soon(wire.fail, e)

    def _words(self, call: Call, sources: set[bytes]) -> Command:
        """Return a script as it goes out: by its source at first, which is noted in `sources`.

        That is once per connection, so that the order of a write holds: a script that the server
        has forgotten runs behind the others of its write.
        """
        sha = call.script.sha
        if (sha in self._taught or sha in sources) and not call.teaches:
            return call.by_digest()
        sources.add(sha)
        return call.by_source()

    def _land(self, flight: _Flight, end: list[Any] | Exception) -> None:
        """Take in the replies; scripts that the server has forgotten go out again first."""
        if isinstance(end, list) and not [r for r in end if isinstance(r, RedisError)]:
            self._tell(flight, end)  # nearly always
            return
        again = _to_repeat(flight.commands, end) if isinstance(end, list) else {}
        if not again or self._wire is None:
            self._conclude(flight, end)
            return

        def land_again(repeated: list[Any] | Exception) -> None:
            if isinstance(repeated, Exception):
                self._conclude(flight, repeated)
                return
            replies = cast(list[Any], end)
            for i, reply in zip(again, repeated, strict=True):
                replies[i] = reply
            self._conclude(flight, replies)

        self._wire.request([pack(command) for command in again.values()], land_again)

    def _conclude(self, flight: _Flight, end: list[Any] | Exception) -> None:
        """Tell what came instead of replies, or of some of them."""
        try:
            told = flight.verdict or self._meaning(end)
        except Exception as e:  # noqa: BLE001 - who waits is told in any case
            why = f"what Redis at {self._connector.shown} said cannot be read: {e}"
            told = BrokerUnavailable(why, sent=True)
        if isinstance(told, BrokerError) or any(isinstance(r, BrokerUnavailable) for r in told):
            # a master that became a replica: its address may lead to the new one by now
            self.drop()
        self._tell(flight, told)

    def _meaning(self, end: list[Any] | Exception) -> list[Any] | BrokerError:
        if isinstance(end, list):
            # what is an answer to whatever is asked: the server loads, or wants a password
            end = next((reply for reply in end if isinstance(reply, ConnectionLost)), end)
        if isinstance(end, Exception):
            return failure_of(end, self._connector.shown, sent=True)
        return [error_of(reply) if isinstance(reply, ResponseError) else reply for reply in end]

    def _tell(self, flight: _Flight, end: list[Any] | BrokerError) -> None:
        """End the flight."""
        self._stall.stop()
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
        self._flight = None
        if self._landed is not None:
            self._landed.set_result(None)
            self._landed = None
        try:
            flight.heard(end)
        except Exception as e:  # noqa: BLE001 - the transport would take it for its own
            told = {"message": "what hears the replies of Redis has failed", "exception": e}
            asyncio.get_running_loop().call_exception_handler(told)

    def _too_late(self) -> None:
        flight = self._flight
        if flight is not None:
            took_s = asyncio.get_running_loop().time() - flight.began
            flight.verdict = self._late(took_s, sent=True)
        self.drop()

    def _moved(self) -> bytes | None:
        return moved(self._wire)

    def _start_watch(self) -> None:
        self._watch = asyncio.get_running_loop().create_task(self._look_for_successor())

    async def _look_for_successor(self) -> None:
        """End the flight early if it hangs at a server that has been replaced meanwhile."""
        while self._wire is not None:
            if await self._connector.has_successor(self._wire.connection):
                self._watch = None  # this
                self._too_late()
                return
            await asyncio.sleep(LOOK_S)

    # -- those who have to wait -----------------------------------------------------------------

    async def _begin_in_turn(
        self, commands: Sequence[Call | Command], heard: Heard, *, max_s: float, blocks: bool
    ) -> None:
        """Send all commands when those before have landed, over a new connection if need be."""
        loop = asyncio.get_running_loop()
        began, has_turn = loop.time(), False
        limit = asyncio.timeout(None)
        stall = StallTimeout(self._moved)
        still_s = max_s if blocks else self.timeout_s
        stall.start(loop, lambda: limit.reschedule(loop.time()), still_s=still_s, max_s=max_s)
        try:
            async with limit, self._next:
                await self._settle_down()
                has_turn = True
                wire = await self._open()
        except ConfigError:
            raise
        except TimeoutError as e:
            took_s = loop.time() - began
            if has_turn:
                raise self._late(took_s, sent=False) from e
            shown = self._connector.shown
            raise NotAsked(f"other calls to Redis at {shown} took {took_s:.1f} s") from e
        except Exception as e:
            failure = failure_of(e, self._connector.shown)
            failure.sent = False  # a wrong password is refused before any call
            raise failure from e
        finally:
            stall.close()
        left_s = began + max_s - loop.time()
        self._take_off(wire, commands, heard, max_s=left_s, blocks=blocks)

    async def _settle_down(self) -> None:
        """Wait until the flight has landed."""
        while self._flight is not None:
            self._landed = self._landed or asyncio.get_running_loop().create_future()
            await asyncio.wait([self._landed])

    async def _open(self) -> Wire:
        if self._wire is not None and self._wire.is_open():
            return self._wire
        self.drop()
        self._taught.clear()
        wire = self._wire = Wire(await self._connector.connect())
        if not wire.is_open():
            raise ConnectionLost("Connection closed by server.")
        return wire

    def _late(self, took_s: float, *, sent: bool) -> BrokerUnavailable:
        # not the limit: a call that hangs at a server that was replaced ends earlier
        shown = self._connector.shown
        # a server without TLS waits for the rest of what it takes for a command
        doubt = f"; {_NO_TLS}" if not sent and _is_tls(shown) else ""
        return BrokerUnavailable(
            f"Redis at {shown} did not answer within {took_s:.1f} s{doubt}", sent=sent
        )

    async def close(self) -> None:
        """Close the connection after the call in flight."""
        async with self._next:
            await self._settle_down()
            self.drop()

    def drop(self) -> None:
        """Close the connection at once; a call in flight fails."""
        self._stall.close()
        wire, self._wire = self._wire, None
        if wire is not None:
            wire.close()


def _set(waiting: "asyncio.Future[list[Any]]", end: list[Any] | BrokerError) -> None:
    if waiting.done():  # it was cancelled
        return
    if isinstance(end, BrokerError):
        waiting.set_exception(end)
    else:
        waiting.set_result(end)


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
