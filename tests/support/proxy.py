"""A TCP proxy in front of a server, which loses what a test wants lost."""

import asyncio
from contextlib import suppress
from typing import Self


class Proxy:
    """Passes bytes between clients and a port of this machine."""

    def __init__(self, target_port: int) -> None:
        self._target_port = target_port
        self._server: asyncio.Server | None = None
        self._pipes: set[asyncio.Task[None]] = set()
        self._lost_word: bytes | None = None
        self._lost_times = 0
        self.port = 0
        #: Connections that were accepted so far.
        self.accepted = 0
        #: Set while bytes pass; cleared they wait, in both directions.
        self.open = asyncio.Event()
        self.open.set()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def serving(self) -> int:
        """How many connections are open."""
        return len(self._pipes)

    def lose_reply(self, word: bytes, times: int = 1) -> None:
        """Cut the connection instead of the next replies to a request that contains `word`."""
        self._lost_word, self._lost_times = word, times

    @property
    def lost_all(self) -> bool:
        """Whether every reply that was to be lost has been."""
        return self._lost_times == 0

    async def listen(self) -> None:
        """Accept connections, at the port of before if there was one."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def refuse(self) -> None:
        """Cut all connections and accept no more."""
        assert self._server is not None
        self._server.close()
        self.cut()
        await self._server.wait_closed()

    def cut(self) -> None:
        """Cut all connections; new ones are accepted."""
        for pipe in self._pipes:
            pipe.cancel()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        task = asyncio.current_task()
        assert task is not None
        self._pipes.add(task)
        far_writer = None
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._target_port)
            losing = asyncio.Event()
            ways = (self._ask(reader, far_writer, losing), self._reply(far_reader, writer, losing))
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
            self._pipes.discard(task)
            for end in (writer, far_writer):
                if end is not None:
                    end.transport.abort()

    async def _ask(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, losing: asyncio.Event
    ) -> None:
        while data := await reader.read(1 << 20):
            await self.open.wait()
            if self._lost_times and self._lost_word is not None and self._lost_word in data:
                self._lost_times -= 1
                losing.set()
            writer.write(data)
            await writer.drain()

    async def _reply(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, losing: asyncio.Event
    ) -> None:
        while data := await reader.read(1 << 20):
            await self.open.wait()
            if losing.is_set():
                return
            writer.write(data)
            await writer.drain()

    async def __aenter__(self) -> Self:
        await self.listen()
        return self

    async def __aexit__(self, *_exc: object) -> None:
        with suppress(AssertionError):
            await self.refuse()
        if self._pipes:
            await asyncio.wait(self._pipes)
