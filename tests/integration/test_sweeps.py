"""Sweeps of a worker over more queues than one call takes."""

import asyncio
import contextlib
from collections.abc import Collection

import pytest

from qcore.broker.broker import Broker
from qcore.config import WorkerConfig
from qcore.runtime import maintenance
from qcore.runtime.maintenance import Maintenance
from tests.support.moves import ask, leased
from tests.support.waiting import eventually

HOUR_MS = 3600 * 1000
QUEUES = ("q1", "q2", "q3")


async def _nothing_to_renew() -> Collection[str]:
    return ()


async def last_sweep(broker: Broker, queue: str) -> int:
    return int(await ask(broker, b"HGET", broker.keys(queue).names["meta"], b"last_sweep"))


async def test_live_owners_of_all_queues_get_to_renew_when_redis_is_back(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
):
    """Also of those that a later call of the first round sweeps."""
    monkeypatch.setattr(maintenance, "_CALL_QUEUES", 1)
    now = int((await ask(broker, b"TIME"))[0]) * 1000
    for queue in QUEUES:
        await leased(broker, "a", queue=queue, now_ms=now - HOUR_MS)
        await ask(broker, b"HSET", broker.keys(queue).names["meta"], "last_sweep", now - HOUR_MS)
    sweeper = Maintenance(
        broker,
        WorkerConfig(queues=QUEUES, sweep_s=0.05),
        claimable=lambda: QUEUES,
        suspects=lambda count: None,
        renew=_nothing_to_renew,
    )
    running = asyncio.create_task(sweeper.run())
    swept = [await eventually(lambda q=q: _swept_since(broker, q, now)) for q in QUEUES]
    # a second round, of a Redis that has answered
    await eventually(lambda: _swept_since(broker, QUEUES[-1], swept[-1] + 1))
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running
    held = [await ask(broker, b"ZCARD", broker.keys(q).names["active"]) for q in QUEUES]
    assert held == [1, 1, 1]


async def _swept_since(broker: Broker, queue: str, at_ms: int) -> int:
    at = await last_sweep(broker, queue)
    return at if at >= at_ms else 0
