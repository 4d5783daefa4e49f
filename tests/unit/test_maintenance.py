"""The chores of a worker, by a broker that is none: when they are done, and for which queues."""

import asyncio
from collections.abc import Collection, Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from qcore.broker.contract import CHORE_LIMIT, Pruned, Swept
from qcore.errors import BrokerUnavailable
from qcore.model.job import Reclaimed
from qcore.runtime.worker import maintenance
from qcore.runtime.worker.maintenance import Maintenance
from qcore.settings import WorkerConfig
from tests.support.virtual_time import run_in_no_time

QUEUES = ("urgent", "default")
CONFIG = WorkerConfig(queues=QUEUES)


class Redis:
    """Counts what it is asked; `taken` are how many jobs each next sweep finds in `default`."""

    shown_url = "redis://nowhere"

    def __init__(self, *, taken: Sequence[int] = (), away: Collection[str] = ()) -> None:
        self.sweeps: list[tuple[str, ...]] = []
        self.heard: list[int] = []
        self.promoted: list[tuple[str, ...]] = []
        self.pruned: list[tuple[str, int]] = []
        self._taken, self._away = list(taken), away

    async def reclaim(self, queues: Sequence[str], *, heard_ms: int, **_: object) -> Swept:
        self.sweeps.append(tuple(queues))
        self.heard.append(heard_ms)
        if "reclaim" in self._away:
            raise BrokerUnavailable("away")
        count = self._taken.pop(0) if self._taken else 0
        found = [Reclaimed(b"o:1:a", "ready")] * count
        now_ms = round(asyncio.get_running_loop().time() * 1000) + 1_000_000
        return Swept(now_ms, {q: found if q == "default" else [] for q in queues})

    async def promote(self, queues: Sequence[str]) -> tuple[int, int]:
        self.promoted.append(tuple(queues))
        return 0, 3

    async def prune(self, queue: str, *, cursor: int) -> Pruned:
        self.pruned.append((queue, cursor))
        if queue in self._away:
            raise BrokerUnavailable("its node is away")
        return Pruned(200, cursor + 1, len(self.pruned) % 2 == 1)

    async def register(self, queues: Sequence[str]) -> None:
        pass


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing but the chores of its own queues, and no jitter."""

    async def nothing(*_: object) -> list[str]:
        return []

    idle = SimpleNamespace(run=nothing, look=nothing)
    monkeypatch.setattr(maintenance, "Epochs", lambda *_: idle)
    monkeypatch.setattr(maintenance, "UnservedQueues", lambda *_: idle)
    monkeypatch.setattr(maintenance.random, "uniform", lambda _a, b: b)


def kept_up(
    redis: Any,
    sweeps: float,
    *,
    claimable: Collection[str] = QUEUES,
    unrenewed: Collection[str] = (),
) -> list[int]:
    """Let so many intervals of a sweep pass; return how many quarantined jobs were told of."""
    told: list[int] = []

    async def renew() -> Collection[str]:
        return unrenewed

    async def run() -> None:
        chores = Maintenance(redis, CONFIG, lambda: claimable, told.append, renew)
        running = asyncio.ensure_future(chores.run())
        await asyncio.sleep(sweeps * CONFIG.sweep_s)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    run_in_no_time(run())
    return told


def test_queues_are_swept_together_once_an_interval():
    redis = Redis()
    kept_up(redis, 3.5)
    assert redis.sweeps == [QUEUES] * 3
    assert redis.promoted == []


def test_queue_whose_own_leases_could_not_be_renewed_is_not_swept():
    redis = Redis()
    kept_up(redis, 1.5, unrenewed=["urgent"])
    assert redis.sweeps == [("default",)]


def test_queue_with_more_than_one_call_takes_is_swept_again_at_once():
    redis = Redis(taken=[CHORE_LIMIT, CHORE_LIMIT, 1])
    kept_up(redis, 1.5)
    assert redis.sweeps == [QUEUES, ("default",), ("default",)]


def test_queue_that_cannot_be_claimed_from_is_promoted_and_its_quarantine_told():
    redis = Redis()
    assert kept_up(redis, 1.5, claimable=["urgent"]) == [3]
    assert redis.promoted == [("default",)]


def test_sweep_says_when_redis_was_last_heard_of_queues_that_had_their_guard():
    redis = Redis()
    kept_up(redis, 3.5)
    step_ms = round(CONFIG.sweep_s * 1000)
    # the first has heard nothing; the second swept what is guarded by then
    assert redis.heard == [0, 1_000_000 + step_ms, 1_000_000 + 2 * step_ms]


def test_sweep_that_fails_is_left_to_the_next_interval():
    redis = Redis(away=["reclaim"])
    kept_up(redis, 3.5)
    assert redis.sweeps == [QUEUES] * 3


def test_outcomes_are_pruned_each_sixth_sweep_while_there_are_more_from_where_it_ended():
    redis = Redis()
    kept_up(redis, 6.5)
    assert redis.pruned == [("urgent", 0), ("urgent", 1), ("default", 0), ("default", 1)]


def test_queue_that_cannot_be_pruned_does_not_hold_up_the_next():
    redis = Redis(away=["urgent"])
    kept_up(redis, 6.5)
    assert [queue for queue, _ in redis.pruned[:2]] == ["urgent", "default"]
