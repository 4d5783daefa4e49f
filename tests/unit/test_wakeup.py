"""An idle worker waits for wakeups while it has room, and hands back those it cannot use."""

import asyncio
import math
from collections.abc import Sequence
from typing import Any

from qcore.broker.backoff import Backoff
from qcore.errors import BrokerUnavailable
from qcore.runtime.worker.wakeup import WakeupListener
from qcore.settings import WorkerConfig
from tests.support.virtual_time import run_in_no_time

QUEUES = ("urgent", "default")


class Redis:
    """Its waits end as told, each after 100 ms; the last one for ever after."""

    def __init__(self, *ends: str | Exception | None) -> None:
        self._ends = list(ends)
        self.waits: list[tuple[str, ...]] = []
        self.handed_back: list[str] = []

    def backoff(self, min_s: float, max_s: float) -> Backoff:
        return Backoff(min_s, max_s)

    async def wait_for_jobs(self, queues: Sequence[str], block_s: float) -> str | None:
        self.waits.append(tuple(queues))
        await asyncio.sleep(0.1 if self._ends else block_s)
        end = self._ends.pop(0) if self._ends else None
        if isinstance(end, Exception):
            raise end
        return end

    async def wake(self, queues: Sequence[str]) -> None:
        self.handed_back += queues


def listen(
    redis: Redis, claimable: set[str], *, for_s: float, room_again_at_s: float = math.inf
) -> list[bool]:
    """Return for each look whether a wakeup came with it; the worker listens again after each."""
    looks: list[bool] = []

    async def run() -> None:
        def look() -> None:
            looks.append(listener.woken)
            listener.listen()

        broker: Any = redis
        listener = WakeupListener(
            broker, WorkerConfig(queues=QUEUES), claimable=lambda: claimable, look=look
        )
        listener.listen()
        running = asyncio.ensure_future(listener.run())
        if room_again_at_s < for_s:
            asyncio.get_running_loop().call_later(room_again_at_s, claimable.update, QUEUES)
        await asyncio.sleep(for_s)
        count = len(looks)
        running.cancel()
        await asyncio.wait([running])
        del looks[count:]  # one more look at the end of it, whatever it was

    run_in_no_time(run())
    return looks


def test_wakeup_makes_the_worker_look():
    redis = Redis("default", None)

    assert listen(redis, set(QUEUES), for_s=0.3) == [True, False]
    assert redis.waits[0] == QUEUES


def test_wakeup_of_a_queue_without_room_is_handed_back_and_not_waited_for_again():
    redis = Redis("urgent")

    listen(redis, {"default"}, for_s=0.5)

    assert redis.handed_back == ["urgent"]
    assert redis.waits[:2] == [QUEUES, ("default",)]


def test_queue_that_has_room_again_is_waited_for_again():
    redis, claimable = Redis("urgent"), {"default"}

    listen(redis, claimable, for_s=6.0, room_again_at_s=1.0)

    assert redis.waits[:3] == [QUEUES, ("default",), QUEUES]


def test_wait_that_fails_is_a_reason_to_look():
    redis = Redis(BrokerUnavailable("away"), BrokerUnavailable("away"))

    assert listen(redis, set(QUEUES), for_s=4.0)[:2] == [False, False]
    assert len(redis.waits) >= 3


def test_nothing_is_waited_for_until_the_worker_has_room():
    redis = Redis("default")
    broker: Any = redis
    listener = WakeupListener(broker, WorkerConfig(queues=QUEUES), claimable=set, look=lambda: None)

    async def run() -> None:
        running = asyncio.ensure_future(listener.run())
        await asyncio.sleep(60)
        running.cancel()
        await asyncio.wait([running])

    run_in_no_time(run())
    assert redis.waits == []
