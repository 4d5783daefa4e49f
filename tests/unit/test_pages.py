"""The small HTTP server: what it answers, and to whom it does not listen."""

import asyncio
import socket
from collections.abc import AsyncIterator

import pytest

from qcore.errors import ConfigError
from qcore.runtime import pages
from qcore.runtime.pages import Page, serving
from tests.support.http import ask, get
from tests.support.servers import free_port
from tests.support.waiting import eventually


@pytest.fixture
async def port() -> AsyncIterator[int]:
    async def page() -> Page:
        return Page("grüße\n".encode())

    number = free_port()
    async with serving(number, {"/page": page}):
        yield number


async def test_page_is_served_whatever_its_query(port: int):
    assert await get(port, "/page") == (200, "grüße\n")
    assert await get(port, "/page?verbose") == (200, "grüße\n")
    assert await get(port, "/page", host="localhost") == (200, "grüße\n")


async def test_head_is_a_page_without_its_body(port: int):
    head, _, body = (await ask(port, b"HEAD /page HTTP/1.1\r\n\r\n")).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"\r\nContent-Length: 8\r\n" in head
    assert body == b""


async def test_unknown_page_names_those_that_there_are(port: int):
    assert await get(port, "/") == (404, "there are /page\n")


@pytest.mark.parametrize(
    ("request_line", "status"),
    [(b"POST /page HTTP/1.1", 405), (b"hello", 400), (b"GET /page", 400), (b"", 400)],
)
async def test_what_is_no_get_is_refused(port: int, request_line: bytes, status: int):
    said = await ask(port, request_line + b"\r\n\r\n")
    assert said.startswith(f"HTTP/1.1 {status} ".encode())
    assert (b"\r\nAllow: GET, HEAD\r\n" in said) == (status == 405)


async def test_endless_request_is_cut_off(port: int):
    assert await ask(port, b"GET /page HTTP/1.1\r\n" + b"a: b\r\n" * 100_000) == b""
    assert await get(port, "/page") == (200, "grüße\n")


async def test_silent_client_is_cut_off(port: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(pages, "_PATIENCE_S", 0.1)
    assert await ask(port, b"GET /page HTTP/1.1\r\n") == b""
    assert await get(port, "/page") == (200, "grüße\n")


async def test_too_many_connections_at_a_time_are_closed_and_then_there_is_room(
    port: int, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(pages, "_MOST", 2)
    held = [await asyncio.open_connection("127.0.0.1", port) for _ in range(2)]

    async def status() -> int:
        return (await get(port, "/page"))[0]

    async def is_closed() -> bool:
        return await status() == 0

    async def is_open() -> bool:
        return await status() == 200

    await eventually(is_closed)
    for _, writer in held:
        writer.close()
    await eventually(is_open)


async def test_port_that_is_taken_is_a_clear_error():
    with socket.create_server(("127.0.0.1", 0)) as other:
        number = other.getsockname()[1]
        with pytest.raises(
            ConfigError, match=f"^port {number} cannot be served: .*in use.*--health"
        ):
            async with serving(number, {}):
                pass
