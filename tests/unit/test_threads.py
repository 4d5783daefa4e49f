"""Places among the threads: given back when their function has ended, or cannot begin."""

import asyncio
import subprocess
import sys
import threading

import pytest

from qcore.runtime.worker.threads import Threads
from tests.support.waiting import eventually


@pytest.fixture
def freed() -> list[str]:
    return []


@pytest.fixture
def threads(freed: list[str]) -> Threads:
    return Threads(1, freed=lambda: freed.append("freed"))


async def test_place_is_free_when_the_function_has_ended_or_raised(threads: Threads):
    async with threads.thread() as thread:
        assert await thread.call(lambda: 1) == 1
    with pytest.raises(ZeroDivisionError):
        async with threads.thread() as thread:
            await thread.call(lambda: 1 // 0)
    async with asyncio.timeout(10), threads.thread():
        assert threads.hanging == 0


async def test_place_of_what_never_began_is_free(threads: Threads):
    with pytest.raises(ValueError, match="stopped"):
        async with threads.thread():
            raise ValueError("stopped")
    ran: list[int] = []

    async def use() -> None:
        async with threads.thread() as thread:
            task.cancel()
            await thread.call(lambda: ran.append(1))

    task = asyncio.create_task(use())
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(task, 10)
    async with asyncio.timeout(10), threads.thread():
        assert (threads.hanging, ran) == (0, [])


async def test_place_of_what_was_given_up_is_taken_until_it_ends(
    threads: Threads, freed: list[str]
):
    began, end = threading.Event(), threading.Event()

    async def use() -> None:
        async with threads.thread() as thread:
            await thread.call(lambda: (began.set(), end.wait(20)))

    task = asyncio.create_task(use())
    await eventually(began.is_set)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert threads.hanging == 1

    async def wait() -> None:
        async with threads.thread():
            assert threads.hanging == 0

    waiting = asyncio.create_task(wait())
    await eventually(lambda: threads.waiting == 1)
    assert freed == []
    end.set()
    await asyncio.wait_for(waiting, 10)
    assert freed == ["freed"]


LEAVE = """
import threading, time
from qcore.runtime.worker.process import leave
threading.Thread(target=time.sleep, args=({seconds},)).start()
leave(7)
"""


@pytest.mark.parametrize(("seconds", "is_warned"), [(0.05, False), (60, True)])
def test_only_threads_that_do_not_end_are_abandoned(seconds: float, is_warned: bool):
    """Those that are idle were told to end, and need a moment for it."""
    program = LEAVE.format(seconds=seconds)
    command = [sys.executable, "-c", program]
    left = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert ("threads.abandoned" in left.stdout) is is_warned
    assert left.returncode == (7 if is_warned else 0), left.stderr
