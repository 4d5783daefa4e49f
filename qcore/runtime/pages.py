"""A small HTTP server for probes and scrapes: GET of a few pages, nothing else."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from http import HTTPStatus

import anyio

from qcore.errors import ConfigError

#: A request must be there within this, and an answer be taken.
_PATIENCE_S = 5.0
_REQUEST_BYTES = 8192
#: More connections at a time are closed unanswered: the supervisor needs its descriptors.
_MOST = 32


@dataclass(frozen=True, slots=True)
class Page:
    """One answer."""

    body: bytes
    status: HTTPStatus = HTTPStatus.OK
    kind: str = "text/plain; charset=utf-8"


#: Path -> what makes the page.
Routes = Mapping[str, Callable[[], Awaitable[Page]]]


@asynccontextmanager
async def serving(port: int, routes: Routes) -> AsyncGenerator[None, None]:
    """Answer GET and HEAD on every address of this machine, one request a connection.

    Raises:
        ConfigError: the port cannot be had.
    """
    open_now = 0

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal open_now
        open_now += 1
        try:
            if open_now <= _MOST:
                with anyio.move_on_after(_PATIENCE_S):
                    await _answer(reader, writer, routes)
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # whoever asked is gone, or does not speak HTTP
        finally:
            open_now -= 1
            writer.close()

    try:
        server = await asyncio.start_server(answer, port=port, limit=_REQUEST_BYTES)
    except OSError as e:
        raise ConfigError(
            f"port {port} cannot be served: {e.strerror or e}; free it, or choose another one for "
            "--health-port or --metrics-port"
        ) from e
    try:
        yield
    finally:
        server.close()


async def _answer(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, routes: Routes
) -> None:
    head = await reader.readuntil(b"\r\n\r\n")
    match head.partition(b"\r\n")[0].split():
        case [b"GET" | b"HEAD" as method, target, _]:
            page = await _page(target.partition(b"?")[0].decode("latin-1"), routes)
        case [method, _, _]:
            page = Page(b"only GET and HEAD\n", HTTPStatus.METHOD_NOT_ALLOWED)
        case _:
            method, page = b"", Page(b"not HTTP\n", HTTPStatus.BAD_REQUEST)
    allow = "Allow: GET, HEAD\r\n" if page.status is HTTPStatus.METHOD_NOT_ALLOWED else ""
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
