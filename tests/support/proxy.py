"""A TCP proxy in front of a server, which delays, holds or loses what a test wants."""

import asyncio
import socket
import struct
from contextlib import suppress
from typing import Self

from qcore.broker.redis.scripts import SCRIPTS

_RESET_ON_CLOSE = struct.pack("ii", 1, 0)
#: So much the kernel and a reader take in ahead of a link with a rate, which is to be felt at the
#: other end.
_AHEAD_BYTES = 8 * 1024


class Talk:
    """One connection through a proxy; a subclass may listen to what passes."""

    def __init__(self) -> None:
        #: The connection is to be cut instead of the next reply.
        self.losing = False

    def asked(self, data: bytes) -> None:
        """Hear what goes to the server."""

    def answered(self, data: bytes) -> None:
        """Hear what comes from it."""


class Proxy:
    """Passes bytes between clients and a port of this machine."""

    def __init__(self, target_port: int, *, rate: int = 0) -> None:
        self._target_port = target_port
        self._server: asyncio.Server | None = None
        #: Each open connection, with the client's end of it.
        self._pipes: dict[asyncio.Task[None], asyncio.StreamWriter] = {}
        self._lost_words: tuple[bytes, ...] = ()
        self._lost_times = 0
        self.port = 0
        #: Connections that were accepted so far.
        self.accepted = 0
        #: Set while bytes pass: in both directions, to the server, to the client.
        self.open, self.asks, self.answers = asyncio.Event(), asyncio.Event(), asyncio.Event()
        for way in (self.open, self.asks, self.answers):
            way.set()
        #: Each piece waits for so long before it is passed on.
        self.delay_s = 0.0
        #: Bytes pass in pieces of at most this size; 0 for no limit.
        self.slice_bytes = 0
        #: Bytes a second of all connections together, each way; 0 for no limit.
        self.rate = rate
        self._free_at: dict[str, float] = {}

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def serving(self) -> int:
        """How many connections are open."""
        return len(self._pipes)

    def lose_reply(self, word: bytes, times: int = 1) -> None:
        """Cut the connection instead of the next replies to a request that contains `word`.

        The digest of a script stands for its source, too: it goes out once per connection.
        Requests of the same write lose their replies too.
        """
        sources = [
            script.source.partition("\n")[0].encode() for script in SCRIPTS if script.sha == word
        ]
        self._lost_words, self._lost_times = (word, *sources), times

    @property
    def lost_all(self) -> bool:
        """Whether every reply that was to be lost has been."""
        return self._lost_times == 0

    async def listen(self) -> None:
        """Accept connections, at the port of before if there was one."""
        listener = socket.create_server(("127.0.0.1", self.port))
        self._limit(listener)
        limit = _AHEAD_BYTES if self.rate else 1 << 16
        self._server = await asyncio.start_server(self._accept, sock=listener, limit=limit)
        self.port = self._server.sockets[0].getsockname()[1]

    def _limit(self, end: socket.socket) -> None:
        if self.rate:
            for way in (socket.SO_RCVBUF, socket.SO_SNDBUF):
                end.setsockopt(socket.SOL_SOCKET, way, _AHEAD_BYTES)

    async def refuse(self) -> None:
        """Cut all connections and accept no more."""
        assert self._server is not None
        self._server.close()
        self.cut()
        await self._server.wait_closed()

    def cut(self, *, reset: bool = False) -> None:
        """Cut all connections, with an RST if wanted; new ones are accepted."""
        for pipe, writer in self._pipes.items():
            if reset:
                end: socket.socket = writer.get_extra_info("socket")
                with suppress(OSError):
                    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
            pipe.cancel()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        # known from here on: a task that is cancelled before its first step closes nothing itself
        pipe = asyncio.ensure_future(self._pipe(reader, writer))
        self._pipes[pipe] = writer
        pipe.add_done_callback(lambda pipe: self._pipes.pop(pipe).transport.abort())

    async def _pipe(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_writer = None
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._target_port)
            talk = self._begin()
            ways = (self._ask(reader, far_writer, talk), self._reply(far_reader, writer, talk))
            tasks = [asyncio.ensure_future(way) for way in ways]
            try:
                await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for one in tasks:
                    one.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            if far_writer is not None:
                far_writer.transport.abort()

    def _begin(self) -> Talk:
        return Talk()

    async def _ask(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, talk: Talk
    ) -> None:
        while data := await reader.read(1 << 20):
            await self.open.wait()
            await self.asks.wait()
            if self._lost_times and any(word in data for word in self._lost_words):
                self._lost_times -= 1
                talk.losing = True
            talk.asked(data)
            await self._pass(data, writer, "asks")

    async def _reply(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, talk: Talk
    ) -> None:
        while data := await reader.read(1 << 20):
            await self.open.wait()
            await self.answers.wait()
            if talk.losing:
                return
            talk.answered(data)
            await self._pass(data, writer, "answers")

    async def _pass(self, data: bytes, writer: asyncio.StreamWriter, way: str) -> None:
        step = self.slice_bytes or (_AHEAD_BYTES if self.rate else len(data))
        for at in range(0, len(data), step):
            if self.delay_s:
                await asyncio.sleep(self.delay_s)
            if self.rate:
                await self._turn(way, len(data[at : at + step]))
            writer.write(data[at : at + step])
            await writer.drain()
            if self.slice_bytes:
                await asyncio.sleep(0)  # or the kernel would be given it all at once

    async def _turn(self, way: str, size: int) -> None:
        """Wait until the link is through with so many bytes, after those of others."""
        now = asyncio.get_running_loop().time()
        self._free_at[way] = max(now, self._free_at.get(way, 0.0)) + size / self.rate
        await asyncio.sleep(self._free_at[way] - now)

    async def __aenter__(self) -> Self:
        await self.listen()
        return self

    async def __aexit__(self, *_exc: object) -> None:
        with suppress(AssertionError):
            await self.refuse()
        for _ in range(5):  # what was just being accepted
            await asyncio.sleep(0)
            self.cut()
        if self._pipes:
            await asyncio.wait(self._pipes)
