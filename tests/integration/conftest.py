"""The `qcore` command, as a user runs it, and fleets of real workers."""

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest
import redis.asyncio

from tests.support.commands import Command, Said
from tests.support.fleet import ROOT, Fleet, fleet_on
from tests.support.servers import Server, free_port


@pytest.fixture
def environment(redis_url: str, namespace: str) -> dict[str, str]:
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("QCORE_")}
    return inherited | {
        "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "cli"))),
        "QCORE_URL": redis_url,
        "QCORE_NAMESPACE": namespace,
        "COLUMNS": "200",
    }


@pytest.fixture
def qcore(environment: dict[str, str], tmp_path: Path) -> Command:
    """Run the command in an empty folder, away from a terminal."""

    async def run(*words: str, **env: str) -> Said:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "qcore_cli", *words),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment | env,
            cwd=tmp_path,
        )
        out, err = await asyncio.wait_for(process.communicate(), 60)
        assert process.returncode is not None
        return Said(process.returncode, out.decode(), err.decode())

    return run


@pytest.fixture
def fleet_url(redis_url: str) -> str:
    """The server of `fleet`; tests that do harm to it name one of their own."""
    return redis_url


@pytest.fixture
def fleet(tmp_path: Path, fleet_url: str, namespace: str) -> Iterator[Fleet]:
    with fleet_on(tmp_path, fleet_url, namespace) as fleet:
        yield fleet


@pytest.fixture
def port() -> int:
    return free_port()


Hear = Callable[[int], Awaitable[list[str]]]


@pytest.fixture
async def hear(own_server: Server) -> AsyncIterator[Hear]:
    """Return the next so many messages, `channel: text`, and see that no more came before."""
    client = redis.asyncio.Redis(port=own_server.port, decode_responses=True)
    heard = client.pubsub(ignore_subscribe_messages=True)
    await heard.subscribe("c1", "c2", "end")
    await heard.get_message(timeout=5)

    async def hear(count: int) -> list[str]:
        await client.publish("end", "end")
        found: list[str] = []
        while True:
            message = await heard.get_message(ignore_subscribe_messages=True, timeout=5)
            if message is None:
                continue
            if message["channel"] == "end":
                assert len(found) == count, found
                return found
            found.append(f"{message['channel']}: {message['data']}")

    yield hear
    await heard.aclose()
    await client.aclose()
