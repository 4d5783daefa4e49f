"""Sweeps of a worker over more queues than one call takes."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import Collection, Sequence
from typing import Any

import pytest

from qcore import App
from qcore.broker.contract import ClaimRequest, Swept
from qcore.broker.redis.broker import Broker
from qcore.runtime.worker import maintenance
from qcore.runtime.worker.maintenance import Maintenance
from qcore.settings import WorkerConfig
from tests.support.moves import ask, leased
from tests.support.proxy import Proxy
from tests.support.servers import Server
from tests.support.waiting import eventually
from tests.support.workers import working

HOUR_MS = 3600 * 1000
QUEUES = ("q1", "q2", "q3")
MANY = tuple(f"q{n}" for n in range(400))


async def _nothing_to_renew() -> Collection[str]:
    return ()


async def last_sweep(broker: Broker, queue: str) -> int:
    return int(await ask(broker, b"HGET", broker._keys_of(queue).names["meta"], b"last_sweep"))


async def test_live_owners_of_all_queues_get_to_renew_when_redis_is_back(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
):
    """Also of those that a later call of the first round sweeps."""
    monkeypatch.setattr(maintenance, "_CALL_QUEUES", 1)
    now = int((await ask(broker, b"TIME"))[0]) * 1000
    for queue in QUEUES:
        await leased(broker, "a", queue=queue, now_ms=now - HOUR_MS)
        await ask(
            broker, b"HSET", broker._keys_of(queue).names["meta"], "last_sweep", now - HOUR_MS
        )
    sweeper = Maintenance(
        broker,
        WorkerConfig(queues=QUEUES, sweep_s=0.05),
        claimable=lambda: QUEUES,
        quarantined=lambda count: None,
        renew=_nothing_to_renew,
    )
    running = asyncio.create_task(sweeper.run())
    swept = [await eventually(lambda q=q: _swept_since(broker, q, now)) for q in QUEUES]
    # a second round, of a Redis that has answered
    await eventually(lambda: _swept_since(broker, QUEUES[-1], swept[-1] + 1))
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running
    held = [await ask(broker, b"ZCARD", broker._keys_of(q).names["active"]) for q in QUEUES]
    assert held == [1, 1, 1]


async def _swept_since(broker: Broker, queue: str, at_ms: int) -> int:
    at = await last_sweep(broker, queue)
    return at if at >= at_ms else 0


async def test_jobs_of_a_killed_host_come_back_over_a_link_that_is_slow_for_many_queues(
    own_server: Server, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
):
    """A call for each queue, 50 ms away, would take 20 s a round: an outage of Redis, for ever."""
    near, far = (App(url, queues=list(MANY)) for url in (own_server.url, proxy.url))
    held, lease_s = (MANY[0], MANY[150], MANY[-1]), 3.0
    loop, ran = asyncio.get_running_loop(), set[str]()

    async def work(queue: str) -> None:
        ran.add(queue)

    for app in (near, far):
        app.task(name="work")(work)
    rounds, late, back = Counter[str](), Counter[str](), set[str]()
    lost_at = float("inf")

    async def count(queues: Sequence[str], **how: Any) -> Swept:
        asked_at = loop.time()
        swept = await reclaim(queues, **how)
        rounds.update(queues)
        back.update(q for q in queues if swept.taken[q])
        late.update(set(queues) - back if asked_at > lost_at else ())
        return swept

    async with near, far:
        reclaim = far.broker.reclaim
        monkeypatch.setattr(far.broker, "reclaim", count)
        proxy.delay_s = 0.025
        times: dict[str, Any] = {"lease_s": lease_s, "extend_s": lease_s / 3}
        async with working(far, **times, sweep_s=lease_s / 4, shutdown_timeout_s=20) as worker:
            worker.quiet()
            await eventually(lambda: rounds.keys() >= set(MANY), 60)  # each has had its guard
            for queue in held:
                await near.tasks["work"].options(queue=queue).enqueue(queue)
            claim = ClaimRequest(held, 9, round(lease_s * 1000), f"{'0' * 16}:1:")
            assert len((await near.broker.turn([], claim)).leases) == len(held)
            lost_at = loop.time() + lease_s
            worker.resume()
            await eventually(lambda: ran == set(held), 60)
    # those that came too late for the deadline, or were on their way then
    assert all(late[queue] <= 3 for queue in held), late
