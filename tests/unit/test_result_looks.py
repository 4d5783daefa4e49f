"""Looks for results over a slow link: how many go out in one write, and whose turn it is."""

import asyncio
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from qcore.broker.redis import results
from qcore.broker.redis.keys import queue_keys
from qcore.broker.redis.results import Ending, ResultWaiter
from qcore.broker.redis.scripts import Call
from qcore.errors import BrokerUnavailable
from qcore.settings import BrokerConfig
from tests.support.virtual_time import run_in_no_time

KEYS = queue_keys("shop", "default")
CALL_S = 5.0

both = pytest.mark.parametrize("is_cluster", [False, True], ids=["one", "cluster"])


class SlowLine:
    """Stands for the connection: a write that brings too many results takes too long.

    Args:
        carries: So many results arrive in time.
        huge: Jobs whose results never do.
        is_cluster: The failure stands in the place of each reply.
    """

    timeout_s = CALL_S

    def __init__(
        self, carries: int, *, huge: Collection[str] = (), is_cluster: bool = False
    ) -> None:
        self._carries, self._huge, self._is_cluster = carries, huge, is_cluster
        self.done: set[str] = set()
        #: The ids that each write looked at.
        self.writes: list[list[str]] = []
        #: Which of them failed.
        self.failed: list[int] = []

    async def send(self, commands: list[Call]) -> list[Any]:
        ids = [str(call.args[0]) for call in commands]
        self.writes.append(ids)
        results = self.done.intersection(ids)
        if len(results) > self._carries or results.intersection(self._huge):
            self.failed.append(len(self.writes) - 1)
            await asyncio.sleep(4 * CALL_S)
            error = BrokerUnavailable("too late", sent=True)
            if self._is_cluster:
                return [error] * len(commands)
            raise error
        await asyncio.sleep(0.1 + len(results))
        return [[b"done" if id in self.done else b"ready"] for id in ids]


class Ears:
    """Stands for the connection that listens: of every job that is in `said` something is heard."""

    def __init__(self) -> None:
        self.said: asyncio.Queue[str] = asyncio.Queue()
        #: What asks takes all the link, so that nothing arrives here.
        self.is_deaf = False

    async def next(self, timeout_s: float) -> bytes | None:
        try:
            async with asyncio.timeout(timeout_s):
                return (await self.said.get()).encode() + b" completed"
        except TimeoutError:
            return None if self.is_deaf else b""

    async def ping(self) -> None: ...


Wait = Callable[[str], "asyncio.Task[Ending]"]


@pytest.fixture
def ears(monkeypatch: pytest.MonkeyPatch) -> Ears:
    ears = Ears()

    @asynccontextmanager
    async def subscribed(*_: object) -> AsyncIterator[Ears]:
        yield ears

    monkeypatch.setattr(results, "subscribed", subscribed)
    return ears


@asynccontextmanager
async def waiters(line: SlowLine) -> AsyncIterator[Wait]:
    """Yield what begins to wait for a job."""
    endpoint: Any = SimpleNamespace(shown="redis://nowhere")
    here = ResultWaiter(endpoint, line, BrokerConfig(url="redis://nowhere"))  # type: ignore[arg-type]
    yield lambda id: asyncio.create_task(here.ended(KEYS, id))
    await here.close()


def names(count: int, kind: str = "job") -> list[str]:
    return [f"{kind}-{n}" for n in range(count)]


@both
def test_results_that_are_too_much_for_one_call_arrive_in_several(ears: Ears, is_cluster: bool):
    line, ids = SlowLine(carries=3, is_cluster=is_cluster), names(50)

    async def work() -> None:
        async with waiters(line) as wait:
            tasks = [wait(id) for id in ids]
            await asyncio.sleep(60)
            line.done.update(ids)
            for id in ids:
                ears.said.put_nowait(id)
            async with asyncio.timeout(600):
                await asyncio.gather(*tasks)

    run_in_no_time(work())


def test_results_arrive_also_where_the_connection_that_listens_is_lost_over_them(ears: Ears):
    """Nothing is heard for 10 s, so that the call which fills the link is cut off."""
    line, ids = SlowLine(carries=3), names(50)

    async def work() -> None:
        async with waiters(line) as wait:
            tasks = [wait(id) for id in ids]
            await asyncio.sleep(60)
            line.done.update(ids)
            ears.is_deaf = True
            async with asyncio.timeout(600):
                await asyncio.gather(*tasks)

    run_in_no_time(work())


@both
def test_results_arrive_also_among_many_jobs_that_have_not_ended(ears: Ears, is_cluster: bool):
    """Looks at those are fast all the time, which says nothing of what results take."""
    line, ids = SlowLine(carries=3, is_cluster=is_cluster), names(50)

    async def work() -> None:
        async with waiters(line) as wait:
            tasks = [wait(id) for id in ids]
            others = [wait(id) for id in names(900, "other")]
            await asyncio.sleep(60)
            line.done.update(ids)
            async with asyncio.timeout(1200):
                await asyncio.gather(*tasks)
            assert not any(task.done() for task in others)

    run_in_no_time(work())


def test_result_that_never_arrives_leaves_the_others_their_turn(ears: Ears):
    line, ids = SlowLine(carries=3, huge=["job-0"]), names(8)

    async def work() -> None:
        async with waiters(line) as wait:
            first, *others = [wait(id) for id in ids]
            await asyncio.sleep(60)
            line.done.update(ids)
            async with asyncio.timeout(600):
                await asyncio.gather(*others)
            assert not first.done()

    run_in_no_time(work())


def test_looks_that_failed_go_behind_the_others_and_make_the_next_write_smaller(ears: Ears):
    line, ids, others = SlowLine(carries=3), names(results.LOOKS), names(results.LOOKS, "other")

    async def work() -> None:
        async with waiters(line) as wait:
            tasks = [wait(id) for id in (*ids, *others)]
            await asyncio.sleep(3)
            line.done.update(ids)
            for id in ids:
                ears.said.put_nowait(id)
            await asyncio.sleep(4 * CALL_S + 3)
            for task in tasks:
                task.cancel()

    run_in_no_time(work())
    assert line.writes[line.failed[0]] == ids
    # while that write was under way all were to be looked at again
    assert line.writes[line.failed[0] + 1] == others[: results.LOOKS // 2]


def test_many_looks_go_out_in_one_write_where_the_link_is_fast(ears: Ears):
    line = SlowLine(carries=1000)

    async def work() -> None:
        async with waiters(line) as wait:
            tasks = [wait(id) for id in names(1000)]
            await asyncio.sleep(4)
            for task in tasks:
                task.cancel()

    run_in_no_time(work())
    assert max(map(len, line.writes)) == results.LOOKS
