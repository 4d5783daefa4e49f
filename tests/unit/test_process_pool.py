"""The pool at its edges: a second cancellation, and a group that may not be killed."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec
import pytest

from qcore.config import BrokerConfig
from qcore.context import Facts
from qcore.errors import ProcessDied
from qcore.runtime.processes import PoolProcess, ProcessPool, Request

DEAF = (sys.executable, "-c", "import time; time.sleep(3600)")
REQUEST = Request(Facts("id", "task", "default", 1, 0, 0, None, 0), msgspec.Raw(b"\x80"), -1)


@pytest.fixture
async def pool() -> AsyncIterator[ProcessPool]:
    pool = ProcessPool(1, BrokerConfig(url="redis://nowhere"), DEAF)
    yield pool
    await pool.close()


def stubborn(kill: Callable[[int, int], None]) -> Callable[[int, int], None]:
    """Return a `killpg` that is refused where the process itself is gone."""

    def killpg(group: int, number: int) -> None:
        try:
            kill(group, number)
        except ProcessLookupError:
            raise PermissionError from None

    return killpg


async def test_run_that_is_cancelled_twice_leaves_no_dying_process_to_the_next(pool: ProcessPool):
    called: asyncio.Future[PoolProcess] = asyncio.get_running_loop().create_future()

    async def run() -> None:
        async with pool.process() as process:
            called.set_result(process)
            await process.call(REQUEST)

    running = asyncio.create_task(run())
    first = await called
    await asyncio.sleep(0)
    for _ in range(2):  # by the timeout, and since its lease is lost while that kills the process
        running.cancel()
        await asyncio.sleep(0)
    with pytest.raises(asyncio.CancelledError):
        await running
    async with pool.process() as second:
        assert second.pid != first.pid


async def test_end_of_a_process_is_told_although_its_group_may_not_be_killed(
    pool: ProcessPool, monkeypatch: pytest.MonkeyPatch
):
    """Of another account is what `sudo` has started."""
    monkeypatch.setattr(os, "killpg", stubborn(os.killpg))
    async with pool.process() as process:
        calling: asyncio.Task[Any] = asyncio.create_task(process.call(REQUEST))
        await asyncio.sleep(0)
        os.kill(process.pid, signal.SIGKILL)
        with pytest.raises(ProcessDied, match="was ended by SIGKILL"):
            await calling
