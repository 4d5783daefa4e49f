"""A TCP proxy in front of Redis that makes the way longer, or counts what goes over it.

It runs in a thread of the harness, which does nothing else meanwhile: client and server are
processes of their own. What is counted here was sent, whichever way the client sends it; Redis' own
counters would include what scripts call.
"""

import asyncio
import selectors
import threading
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import Self

import hiredis


@dataclass
class Traffic:
    """What went over a proxy, all connections together."""

    #: Of the client, by name.
    commands: Counter[str] = field(default_factory=Counter)
    #: How often a client wrote after it had read. At most: a write of several segments may be
    #: answered in parts.
    round_trips: int = 0
    bytes_sent: int = 0
    bytes_received: int = 0

    def __sub__(self, other: "Traffic") -> "Traffic":
        return Traffic(
            self.commands - other.commands,
            self.round_trips - other.round_trips,
            self.bytes_sent - other.bytes_sent,
            self.bytes_received - other.bytes_received,
        )

    def copy(self) -> "Traffic":
        return self - Traffic()

    def per_job(self, jobs: int) -> dict[str, float]:
        """Return commands, round trips and bytes a job."""
        return {
            "commands": self.commands.total() / jobs,
            "round_trips": self.round_trips / jobs,
            "bytes_sent": self.bytes_sent / jobs,
            "bytes_received": self.bytes_received / jobs,
        }


class Proxy:
    """Passes bytes between clients and a port of this machine.

    Args:
        target_port: Where the server is.
        delay_s: How much later bytes arrive, each way.
        counts: Read the commands that pass, for `traffic`.
    """

    def __init__(self, target_port: int, *, delay_s: float = 0.0, counts: bool = False) -> None:
        self.target_port = target_port
        self.delay_s = delay_s
        self.counts = counts
        self.seen = Traffic()
        self.port = 0
        self.transports: set[asyncio.Transport] = set()
        #: Timers come late, by 0.1 to 0.2 ms here: they are set so much earlier.
        self.lead_s = 0.0
        # the timers of epoll and uvloop have whole milliseconds, those of select() microseconds
        self.loop = asyncio.SelectorEventLoop(selectors.SelectSelector())
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def learn(self, late_s: float) -> None:
        """Take in how late a timer came; a stall of the machine is not held against the next."""
        self.lead_s += (min(late_s, self.delay_s / 2) - self.lead_s) / 20

    def traffic(self) -> Traffic:
        """Return what has passed so far; exact while nobody sends."""

        async def read() -> Traffic:
            return self.seen.copy()

        return asyncio.run_coroutine_threadsafe(read(), self.loop).result()

    def __enter__(self) -> Self:
        self._thread.start()
        listening = self.loop.create_server(lambda: _Client(self), "127.0.0.1", 0)
        self._server = asyncio.run_coroutine_threadsafe(listening, self.loop).result()
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    def __exit__(self, *_exc: object) -> None:
        async def cut() -> None:
            self._server.close()
            for transport in self.transports:
                transport.abort()
            await asyncio.sleep(0)  # in which they close

        asyncio.run_coroutine_threadsafe(cut(), self.loop).result()
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()


class _End(asyncio.Protocol):
    """One end of a connection: what it hears is written to the other end, after the delay."""

    def __init__(self, proxy: Proxy) -> None:
        self.proxy = proxy
        self.other: _End | None = None
        self.transport: asyncio.Transport | None = None
        #: What came before the other end was there.
        self.early: list[bytes] = []
        #: Bytes, and the loop time of their timer.
        self._waiting: deque[tuple[bytes, float]] = deque()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.proxy.transports.add(transport)

    def data_received(self, data: bytes) -> None:
        self.note(data)
        if not self.proxy.delay_s:
            self._write(data)
            return
        at = self.proxy.loop.time() + self.proxy.delay_s - self.proxy.lead_s
        self._waiting.append((data, at))
        self.proxy.loop.call_at(at, self._pass)

    def _pass(self) -> None:
        data, at = self._waiting.popleft()
        self.proxy.learn(self.proxy.loop.time() - at)
        self._write(data)

    def _write(self, data: bytes) -> None:
        if self.other is not None and self.other.transport is not None:
            self.other.transport.write(data)
        else:
            self.early.append(data)

    def connection_lost(self, exc: Exception | None) -> None:
        assert self.transport is not None
        self.proxy.transports.discard(self.transport)
        if self.other is not None and self.other.transport is not None:
            self.other.transport.close()

    def note(self, data: bytes) -> None:
        """Count what was heard."""


class _Client(_End):
    """The end of a client; it makes the other one, that of the server."""

    def __init__(self, proxy: Proxy) -> None:
        super().__init__(proxy)
        self.has_read = True
        self._reader = hiredis.Reader()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        assert self.transport is not None
        self._connecting = self.proxy.loop.create_task(self._connect(self.transport))

    async def _connect(self, transport: asyncio.Transport) -> None:
        loop, port = self.proxy.loop, self.proxy.target_port
        try:
            _, self.other = await loop.create_connection(lambda: _Server(self), "127.0.0.1", port)
        except OSError:
            transport.abort()
        else:
            for data in self.early:
                self._write(data)

    def note(self, data: bytes) -> None:
        if not self.proxy.counts:
            return
        seen = self.proxy.seen
        seen.bytes_sent += len(data)
        seen.round_trips += self.has_read
        self.has_read = False
        self._reader.feed(data)
        while (words := self._reader.gets()) is not False:
            seen.commands[words[0].decode()] += 1


class _Server(_End):
    """The end of the server."""

    def __init__(self, client: _Client) -> None:
        super().__init__(client.proxy)
        self.other = self._client = client

    def note(self, data: bytes) -> None:
        self._client.has_read = True
        self.proxy.seen.bytes_received += len(data)
