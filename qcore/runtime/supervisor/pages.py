"""A small HTTP server for probes and scrapes: GET of a few pages, nothing else."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from http import HTTPStatus

from qcore.errors import ConfigError

#: A request must be there within this, and its answer be made and taken within that.
_REQUEST_S, _ANSWER_S = 2.0, 5.0
_REQUEST_BYTES = 8192
#: Connections at a time, and those of one address: the supervisor needs its descriptors.
_MAX, _MAX_OF_ONE = 32, 8


@dataclass(frozen=True, slots=True)
class Page:
    """One answer."""

    body: bytes
    status: HTTPStatus = HTTPStatus.OK
    kind: str = "text/plain; charset=utf-8"


#: Path -> what makes the page.
Routes = Mapping[str, Callable[[], Awaitable[Page]]]


class _Door:
    """Who is in. Where it is full, who has asked for nothing yet and came first makes room."""

    def __init__(self) -> None:
        self._inside: dict[asyncio.StreamWriter, str] = {}
        self._silent: dict[asyncio.StreamWriter, str] = {}

    def enter(self, writer: asyncio.StreamWriter) -> bool:
        """Say whether there is room for another connection, or was made."""
        peer = str((writer.get_extra_info("peername") or ("",))[0])
        same = list(self._inside.values()).count(peer)
        if same >= _MAX_OF_ONE or len(self._inside) >= _MAX:
            silent = [w for w, p in self._silent.items() if p == peer or same < _MAX_OF_ONE]
            if not silent:
                return False
            silent[0].transport.abort()
            self.leave(silent[0])
        self._inside[writer] = self._silent[writer] = peer
        return True

    def heard(self, writer: asyncio.StreamWriter) -> None:
        """Its request is there: it is not shown out for another one."""
        self._silent.pop(writer, None)

    def leave(self, writer: asyncio.StreamWriter) -> None:
        """Make room for another one."""
        self._inside.pop(writer, None)
        self._silent.pop(writer, None)


@asynccontextmanager
async def serving(
    port: int, routes: Routes, *, address: str | None = None
) -> AsyncGenerator[None, None]:
    """Answer GET and HEAD, one request a connection.

    Args:
        port: Where.
        routes: What there is.
        address: Of this machine, the only one that is served; None for all.

    Raises:
        ConfigError: the port or the address cannot be had.
    """
    door = _Door()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if door.enter(writer):
                async with asyncio.timeout(_REQUEST_S):
                    head = await reader.readuntil(b"\r\n\r\n")
                door.heard(writer)
                async with asyncio.timeout(_ANSWER_S):
                    await _answer(head, writer, routes)
                writer.close()
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # whoever asked is gone or too slow, or does not speak HTTP
        finally:
            door.leave(writer)
            if not writer.is_closing():
                writer.transport.abort()  # what was not taken is not kept

    try:
        server = await asyncio.start_server(answer, address, port, limit=_REQUEST_BYTES)
    except OSError as e:
        where = f"port {port}" if address is None else f"port {port} of {address}"
        raise ConfigError(
            f"{where} cannot be served: {e.strerror or e}; free it, or choose another one for "
            "--health-port or --metrics-port, or another address for --bind"
        ) from e
    try:
        yield
    finally:
        server.close()


async def _answer(head: bytes, writer: asyncio.StreamWriter, routes: Routes) -> None:
    match head.partition(b"\r\n")[0].split():
        case [b"GET" | b"HEAD" as method, target, _]:
            page = await _page(target.partition(b"?")[0].decode("latin-1"), routes)
        case [method, _, _]:
            page = Page(b"only GET and HEAD\n", HTTPStatus.METHOD_NOT_ALLOWED)
        case _:
            method, page = b"", Page(b"not HTTP\n", HTTPStatus.BAD_REQUEST)
    allow = "Allow: GET, HEAD\r\n" if page.status is HTTPStatus.METHOD_NOT_ALLOWED else ""
    writer.transport.set_write_buffer_limits(high=0)  # to drain is to send all
    writer.write(
        f"HTTP/1.1 {page.status.value} {page.status.phrase}\r\nContent-Type: {page.kind}\r\n"
        f"Content-Length: {len(page.body)}\r\n{allow}Connection: close\r\n\r\n".encode()
    )
    if method != b"HEAD":
        writer.write(page.body)
    await writer.drain()


async def _page(path: str, routes: Routes) -> Page:
    make = routes.get(path)
    if make is None:
        known = ", ".join(sorted(routes))
        return Page(f"there are {known}\n".encode(), HTTPStatus.NOT_FOUND)
    return await make()
