"""Why a running job is stopped, and how often."""

import asyncio

import pytest

from qcore.model.job import Lease
from qcore.runtime.worker.running_job import Running, Stop


@pytest.fixture
async def stubborn() -> "tuple[Running, list[int]]":
    """A job that swallows every cancellation but counts them."""
    running = Running(Lease(b"o:1:x", "default", "x", b"", None, 0, 0, 0), 0.0, 30.0)
    swallowed: list[int] = []

    async def work() -> None:
        for n in range(10):
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                swallowed.append(n)

    running.task = asyncio.create_task(work())
    running.started_ms = 1
    await asyncio.sleep(0)
    return running, swallowed


@pytest.mark.parametrize(
    ("reasons", "delivered", "stands"),
    [
        ([Stop.TIMEOUT, Stop.TIMEOUT], 1, Stop.TIMEOUT),
        ([Stop.CANCELLED, Stop.TIMEOUT], 2, Stop.CANCELLED),
        ([Stop.TIMEOUT, Stop.CANCELLED], 1, Stop.TIMEOUT),
        ([Stop.TIMEOUT, Stop.SHUTDOWN], 1, Stop.TIMEOUT),
        ([Stop.CANCELLED, Stop.UNTRUSTED], 2, Stop.CANCELLED),
        ([Stop.TIMEOUT, Stop.UNTRUSTED, Stop.LEASE_LOST], 3, Stop.LEASE_LOST),
        ([Stop.SHUTDOWN, Stop.LEASE_LOST, Stop.TIMEOUT], 2, Stop.LEASE_LOST),
    ],
)
async def test_only_a_reason_that_weighs_more_stops_a_job_again(
    stubborn: "tuple[Running, list[int]]", reasons: list[Stop], delivered: int, stands: Stop
):
    running, swallowed = stubborn
    for why in reasons:
        running.cancel(why)
        await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert len(swallowed) == delivered
    assert running.stop is stands
    assert running.task is not None
    while not running.task.done():
        running.task.cancel()
        await asyncio.sleep(0)
