"""The small HTTP server: what it answers, and to whom it does not listen."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator

import pytest

from qcore.errors import ConfigError
from qcore.runtime.supervisor import pages
from qcore.runtime.supervisor.pages import Page, serving
from qcore.settings import SupervisorConfig
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
    monkeypatch.setattr(pages, "_REQUEST_S", 0.1)
    assert await ask(port, b"GET /page HTTP/1.1\r\n") == b""
    assert await get(port, "/page") == (200, "grüße\n")


async def test_connections_that_say_nothing_keep_nobody_out(port: int):
    held = [await asyncio.open_connection("127.0.0.1", port) for _ in range(pages._MAX + 8)]
    for _ in range(3):
        assert await get(port, "/page") == (200, "grüße\n")
    for _, writer in held:
        writer.close()


async def test_who_has_asked_is_not_shown_out_and_has_room_for_few_of_one_address():
    gate, port = asyncio.Event(), free_port()

    async def page() -> Page:
        await gate.wait()
        return Page(b"late")

    async with serving(port, {"/page": page}):
        asking = [asyncio.create_task(get(port, "/page")) for _ in range(pages._MAX_OF_ONE + 1)]
        done, waiting = await asyncio.wait(asking, return_when=asyncio.FIRST_COMPLETED)
        assert [one.result()[0] for one in done] == [0]
        gate.set()
        assert {(await one)[0] for one in waiting} == {200}


async def test_answer_that_nobody_takes_is_dropped(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(pages, "_ANSWER_S", 0.1)
    size, port = 30_000_000, free_port()

    async def page() -> Page:
        return Page(bytes(size))

    async with serving(port, {"/page": page}):
        before = len(asyncio.all_tasks())
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1024)
        writer.write(b"GET /page HTTP/1.1\r\n\r\n")
        await eventually(lambda: len(asyncio.all_tasks()) > before)
        await eventually(lambda: len(asyncio.all_tasks()) == before)
        taken = 0
        with contextlib.suppress(ConnectionError):
            while part := await reader.read(65536):
                taken += len(part)
        assert taken < size
        writer.close()


async def test_only_the_address_that_is_named_is_served():
    port = free_port()

    async def page() -> Page:
        return Page(b"here")

    async with serving(port, {"/page": page}, address="127.0.0.1"):
        assert (await get(port, "/page"))[0] == 200
        assert (await get(port, "/page", host="127.0.0.2"))[0] == 0


def test_one_port_for_both_needs_an_address():
    with pytest.raises(ConfigError, match="are both 9000: give --bind the address"):
        SupervisorConfig(processes=1, health_port=9000, metrics_port=9000)


async def test_port_that_is_taken_is_a_clear_error():
    with socket.create_server(("127.0.0.1", 0)) as other:
        number = other.getsockname()[1]
        with pytest.raises(
            ConfigError, match=f"^port {number} cannot be served: .*in use.*--health"
        ):
            async with serving(number, {}):
                pass
