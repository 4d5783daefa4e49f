"""The pool at its edges: a second cancellation, and a group that may not be killed."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec
import pytest

from qcore.context import Facts
from qcore.errors import Parked, ProcessDied
from qcore.runtime.ipc.pool import Request
from qcore.runtime.worker import process_pool
from qcore.runtime.worker.process_pool import PoolProcess, ProcessPool
from qcore.settings import BrokerConfig

#: Says that it has loaded its app, as a member does, and nothing more.
DEAF = (
    *(sys.executable, "-c"),
    """
import os, time
import msgspec
from qcore.environment import child_variable
from qcore.runtime.worker.process_pool import encode
from qcore.runtime.ipc.pool import POOL_START, PoolStart, Reply, frame
start = msgspec.json.decode(child_variable(POOL_START), type=PoolStart)
os.write(start.requests_fd, frame(encode(Reply())))
time.sleep(3600)
""",
)
#: Never comes to an end of its imports.
LOADING = (sys.executable, "-c", "import time; time.sleep(3600)")
#: As a C library that its app imports may do.
SEGFAULTS = (sys.executable, "-c", "import os; os.kill(os.getpid(), 11)")
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


@pytest.mark.parametrize(
    ("command", "why"),
    [
        (("/no/such/python",), "no process of the task could be started: .*/no/such/python"),
        (SEGFAULTS, "was ended by SIGSEGV while it loaded the app"),
        (LOADING, "within 0.5 s"),
    ],
)
async def test_job_waits_for_another_worker_where_no_process_has_its_app(
    monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...], why: str
):
    monkeypatch.setattr(process_pool, "LOAD_S", 0.5 if command is LOADING else 60.0)
    pool = ProcessPool(1, BrokerConfig(url="redis://nowhere"), command)
    with pytest.raises(Parked, match=why):
        async with pool.process():
            pass
    assert pool.taken == 0
    await pool.close()
