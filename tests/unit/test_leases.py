"""Renewals of a worker's leases, by a broker that is none: when, which, and what fails."""

import asyncio
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from qcore.broker.backoff import Backoff
from qcore.errors import BrokerError, BrokerUnavailable
from qcore.model.job import Lease
from qcore.runtime.worker.leases import LeaseKeeper
from qcore.settings import WorkerConfig
from tests.support.virtual_time import run_in_no_time

CONFIG = WorkerConfig(queues=("default", "other"))
EXTEND_S = CONFIG.extend_s


def lease(id: str, queue: str = "default") -> Lease:
    return Lease(f"o:1:{id}".encode(), queue, id, b"", None, 0, 0, 0)


class Redis:
    """Writes down when it is asked to renew what; `end` says how a renewal of queues ends."""

    config = SimpleNamespace(call_timeout_s=5.0)

    def __init__(self, end: Callable[[float, set[str]], BrokerError | None] | None = None) -> None:
        self._end = end
        self.renewed: list[tuple[float, list[str]]] = []
        self.lost: set[bytes] = set()
        self.wanted_no_more: set[bytes] = set()

    def backoff(self, min_s: float, max_s: float) -> Backoff:
        return Backoff(min_s, max_s)

    def groups(self, queues: Sequence[str]) -> list[Sequence[str]]:
        return [queues]

    async def extend(
        self, leases: Sequence[Lease], lease_ms: int, *, timeout_s: float
    ) -> set[bytes]:
        assert lease_ms == CONFIG.lease_s * 1000
        now = asyncio.get_running_loop().time()
        error = self._end(now, {one.queue for one in leases}) if self._end else None
        if error is not None:
            raise error
        self.renewed.append((now, [one.id for one in leases]))
        return self.lost

    async def cancel_requested(self, leases: Sequence[Lease]) -> set[bytes]:
        return self.wanted_no_more & {one.token for one in leases}


def kept(redis: Any, held: list[Lease], for_s: float) -> tuple[list[bytes], list[bytes]]:
    """Keep leases for so long; return the tokens that were lost, and those not wanted."""
    lost, unwanted = list[bytes](), list[bytes]()

    async def run() -> None:
        keeper = LeaseKeeper(
            redis,
            CONFIG,
            held=lambda: list(held),
            renewed=lambda *_: None,
            lost=lost.append,
            unwanted=unwanted.append,
        )
        tasks = [asyncio.ensure_future(part) for part in (keeper.run(), keeper.heed())]
        await asyncio.sleep(for_s)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    run_in_no_time(run())
    return lost, unwanted


def test_all_leases_are_renewed_by_one_call_each_interval():
    redis = Redis()
    kept(redis, [lease("a"), lease("b", "other")], 2.5 * EXTEND_S)
    assert redis.renewed == [(EXTEND_S, ["a", "b"]), (2 * EXTEND_S, ["a", "b"])]


def test_lease_that_redis_no_longer_knows_is_told_of():
    redis = Redis()
    redis.lost = {b"o:1:a"}
    assert kept(redis, [lease("a")], 1.5 * EXTEND_S)[0] == [b"o:1:a"]


def test_job_that_is_not_wanted_is_told_of_at_a_heartbeat():
    redis = Redis()
    redis.wanted_no_more = {b"o:1:a"}
    _, unwanted = kept(redis, [lease("a"), lease("b")], 1.5 * CONFIG.heartbeat_s)
    assert unwanted == [b"o:1:a"]


def test_renewal_that_fails_is_tried_again_long_before_the_next_interval():
    def end(now: float, queues: set[str]) -> BrokerError | None:
        return BrokerUnavailable("away") if now < EXTEND_S + 1 else None

    redis = Redis(end)
    kept(redis, [lease("a")], 2 * EXTEND_S)
    assert EXTEND_S + 1 <= redis.renewed[0][0] < EXTEND_S + 6


@pytest.mark.parametrize("odd", ["default", "other"])
def test_queue_that_is_odd_does_not_hold_up_the_leases_of_others(odd: str):
    def end(now: float, queues: set[str]) -> BrokerError | None:
        return BrokerError("a key of another type") if odd in queues else None

    redis = Redis(end)
    kept(redis, [lease("default"), lease("other", "other")], 1.1 * EXTEND_S)
    sound = "other" if odd == "default" else "default"
    assert {id for _, ids in redis.renewed for id in ids} == {sound}
