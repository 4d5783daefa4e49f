"""Standard streams of the `qcore` command that are full or closed."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator

import pytest

from qcore import App


@pytest.fixture
async def app(redis_url: str, namespace: str) -> AsyncIterator[App]:
    async with App(redis_url, namespace=namespace) as app:
        yield app


@pytest.mark.skipif(sys.platform != "linux", reason="/dev/full is a full disk")
@pytest.mark.parametrize("words", ["queues", "status --json", "pause --all", "doctor", "top"])
async def test_output_that_cannot_be_written_is_one_line(
    app: App, environment: dict[str, str], words: str
):
    await app.broker.register(["default"])
    process = await asyncio.create_subprocess_shell(
        f"{sys.executable} -m qcore_cli {words} >/dev/full",
        stderr=subprocess.PIPE,
        env=environment,
    )
    _, err = await asyncio.wait_for(process.communicate(), 20)
    assert process.returncode == 1
    assert err == b"qcore: the output cannot be written: No space left on device\n"


@pytest.mark.parametrize("stream", ["<&-", ">&-", "2>&-"])
@pytest.mark.parametrize(
    ("words", "code"), [("queues", 0), ("status", 4), ("top", 0), ("clear default", 1)]
)
async def test_stream_that_is_closed_changes_nothing(
    app: App, environment: dict[str, str], words: str, code: int, stream: str
):
    await app.broker.register(["default"])
    process = await asyncio.create_subprocess_shell(
        f"{sys.executable} -m qcore_cli {words} {stream}",
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
    )
    _, err = await asyncio.wait_for(process.communicate(), 20)
    assert process.returncode == code
    assert b"Traceback" not in err
