"""An idle worker waits for wakeups while it has room, and hands back those it cannot use."""

import asyncio
import math
from collections.abc import Awaitable, Callable, Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from qcore.broker.backoff import Backoff
from qcore.broker.contract import Turn
from qcore.broker.redis.claiming_wait import Woken
from qcore.errors import BrokerUnavailable
from qcore.runtime.worker.capacity import ClaimBudget
from qcore.runtime.worker.wakeup import WakeupListener
from qcore.settings import WorkerConfig
from tests.support.virtual_time import run_in_no_time

QUEUES = ("urgent", "default")
ROOM = ClaimBudget(dict.fromkeys(QUEUES, 10), 10)
CLAIMED = Turn(claimed=True)


class Redis:
    """Its waits end as told, each after 100 ms; the last one for ever after."""

    def __init__(self, *ends: str | Woken | Exception | None, claims: bool = False) -> None:
        self._ends = list(ends)
        self._claims = claims
        self.waits: list[tuple[str, ...]] = []
        self.handed_back: list[str] = []
        self.wakeups = SimpleNamespace(wait=self._wait, set=self._set)
        #: It answers when it is told to end a wait.
        self.obeys = True
        self._over = asyncio.Event()

    def backoff(self, min_s: float, max_s: float) -> Backoff:
        return Backoff(min_s, max_s)

    async def _wait(self, queues: Sequence[str], block_s: float) -> Any:
        self.waits.append(tuple(queues))
        self._over.clear()
        try:
            await asyncio.wait_for(self._over.wait(), 0.1 if self._ends else block_s)
        except TimeoutError:
            pass
        else:
            return Woken(turn=CLAIMED)
        end = self._ends.pop(0) if self._ends else None
        if isinstance(end, Exception):
            raise end
        return end

    async def _set(self, queues: Sequence[str]) -> None:
        self.handed_back += queues

    # -- as a session ---------------------------------------------------------------------------

    def can_wait(self, budget: ClaimBudget) -> bool:
        return self._claims and budget.is_idle and len(budget.queues) == len(QUEUES)

    async def wait(self, budget: ClaimBudget) -> Woken:
        return await self._wait(list(budget.queues), 5.0) or Woken(turn=CLAIMED)

    async def end_wait(self) -> None:
        if not self.obeys:
            await asyncio.sleep(math.inf)
        self._over.set()


def listener_of(
    redis: Redis,
    *,
    claimable: Callable[[], set[str]] = lambda: set(QUEUES),
    accept: Callable[[Turn], None] = lambda turn: None,
    look: Callable[[], None] = lambda: None,
) -> WakeupListener:
    fake: Any = redis
    config = WorkerConfig(queues=QUEUES)
    return WakeupListener(fake, fake, config, claimable=claimable, accept=accept, look=look)


async def during(seconds: float, *services: Callable[[], Awaitable[None]]) -> None:
    running = [asyncio.ensure_future(service()) for service in services]
    await asyncio.sleep(seconds)
    for service in running:
        service.cancel()
    await asyncio.wait(running)


def listen(
    redis: Redis, claimable: set[str], *, for_s: float, room_again_at_s: float = math.inf
) -> list[bool]:
    """Return for each look whether a wakeup came with it; the worker listens again after each."""
    looks: list[bool] = []

    async def run() -> None:
        def look() -> None:
            looks.append(listener.woken)
            listener.listen(ROOM)

        listener = listener_of(redis, claimable=lambda: claimable, look=look)
        listener.listen(ROOM)
        if room_again_at_s < for_s:
            asyncio.get_running_loop().call_later(room_again_at_s, claimable.update, QUEUES)
        await during(for_s, listener.run)
        del looks[-1]  # one more look at the end of it, whatever it was

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

    run_in_no_time(during(60, listener_of(redis, claimable=set).run))

    assert redis.waits == []


# -- with a claim behind the wait ------------------------------------------------------------------


def test_claim_behind_a_wait_is_the_only_one_until_it_has_come_back():
    heard: list[tuple[Turn, bool, bool]] = []
    redis = Redis(Woken(called=True, turn=CLAIMED), claims=True)

    async def run() -> None:
        def accept(turn: Turn) -> None:
            heard.append((turn, listener.woken, listener.is_claiming))

        listener = listener_of(redis, accept=accept)
        listener.listen(ROOM)
        assert listener.is_claiming
        await during(1.0, listener.run)

    run_in_no_time(run())
    assert heard == [(CLAIMED, True, False)]


def test_wait_is_without_a_claim_where_some_queue_has_no_room():
    redis = Redis("default", claims=True)
    listener = listener_of(redis)

    listener.listen(ClaimBudget({"default": 10}, 10))

    assert not listener.is_claiming


def test_wait_while_jobs_run_is_short_where_a_claim_could_follow():
    ends: list[float] = []
    redis = Redis(claims=True)

    async def run() -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        listener = listener_of(redis, look=lambda: ends.append(loop.time() - began))
        listener.listen(ClaimBudget(dict.fromkeys(QUEUES, 10), 10, is_idle=False))
        assert not listener.is_claiming
        await during(3.0, listener.run)

    run_in_no_time(run())
    assert ends[0] == pytest.approx(1.0)


@pytest.mark.parametrize(
    "end", [BrokerUnavailable("away", sent=True), Woken(error=BrokerUnavailable("odd"))]
)
def test_claiming_wait_that_fails_is_a_reason_to_look_at_once(end: Exception | Woken):
    looks: list[float] = []
    redis = Redis(end, claims=True)

    async def run() -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        listener = listener_of(redis, look=lambda: looks.append(loop.time() - began))
        listener.listen(ROOM)
        await during(3.0, listener.run)

    run_in_no_time(run())
    assert looks[0] == pytest.approx(0.1)  # what its claim took is to be looked for
    assert len(looks) == 3  # and when it may wait again; the last as it ends


@pytest.mark.parametrize("obeys", [True, False])
def test_wait_that_is_to_end_is_told_so_and_cut_off_where_that_is_not_answered(*, obeys: bool):
    ends: list[float] = []
    redis = Redis(claims=True)
    redis.obeys = obeys

    async def run() -> None:
        loop = asyncio.get_running_loop()

        def note(_: object = None) -> None:
            ends.append(loop.time() - began)

        began = loop.time()
        listener = listener_of(redis, accept=note, look=note)
        listener.end()  # there is none yet
        listener.listen(ROOM)
        loop.call_later(0.5, listener.end)
        await during(3.0, listener.run, listener.end_waits)

    run_in_no_time(run())
    assert ends[0] == pytest.approx(0.5 if obeys else 1.0, abs=0.05)
