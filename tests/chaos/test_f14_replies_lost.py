"""F14: the reply of each script is lost in turn; the script itself was executed."""

import asyncio
import random
from collections.abc import AsyncIterator

import pytest

from qcore.broker.redis import scripts
from qcore.broker.redis.scripts import Script
from tests.support.checker import Findings, assert_sound
from tests.support.fleet import BENCHMARK, LEASE_S, Command, Fleet
from tests.support.load import backlog_on, load_on
from tests.support.nemesis import Nemesis
from tests.support.proxy import Proxy
from tests.support.servers import Server
from tests.support.waiting import eventually

#: In this order, each so many times, while jobs run.
TURNS = (
    ((scripts.ENQUEUE, 20), (scripts.CLAIM, 20), (scripts.ACK, 20)),
    ((scripts.EXTEND, 6), (scripts.RECLAIM, 10), (scripts.PROMOTE, 6), (scripts.PRUNE, 4)),
)
#: Workers renew and sweep often, and no lease ends on a loaded machine.
LONG_S = 4.0


@pytest.fixture
async def proxy(durable_server: Server) -> AsyncIterator[Proxy]:
    async with Proxy(durable_server.port) as proxy:
        yield proxy


async def stopped(fleet: Fleet, command: Command, timeout_s: float = 30) -> Findings:
    await fleet.emptied(timeout_s)
    command.signal()
    assert await command.ended(15) == 0
    return assert_sound(fleet.history, fleet.runs(), faults=fleet.faults)


def assert_each_ran_once(command: Command, findings: Findings) -> None:
    assert findings.runs == findings.done
    # what a lost claim took was found, and did not wait for the end of its lease
    assert not command.events("job.reclaimed")
    assert sum(e["done"] for e in command.events("worker.stopped")) == findings.done


@pytest.mark.parametrize("turns", TURNS, ids=["turns", "chores"])
async def test_replies_lost_under_load_cost_no_run(
    fleet: Fleet,
    durable_server: Server,
    proxy: Proxy,
    dice: random.Random,
    turns: tuple[tuple[Script, int], ...],
):
    nemesis = Nemesis(fleet, durable_server, dice)
    command = fleet.start(processes=2, concurrency=10, lease=LONG_S, url=proxy.url)
    await command.ready(2)
    # more than they can do: a worker promotes only where it cannot claim
    async with load_on(
        fleet, dice, streams=2, url=proxy.url, seconds=(0.0, 0.1, 0.1, 1.0), max_open=80
    ):
        for script, times in turns:
            assert await nemesis.lose_replies(proxy, script, times, 45) == times, script.name
    assert_each_ran_once(command, await stopped(fleet, command))
    assert set(fleet.history.outcomes.values()) == {"ok"}


async def test_replies_lost_at_full_speed_cost_no_run(
    fleet: Fleet, durable_server: Server, proxy: Proxy, dice: random.Random
):
    """A write that is not answered settles a hundred jobs and claims a hundred."""
    nemesis = Nemesis(fleet, durable_server, dice)
    command = fleet.start(processes=2, **BENCHMARK, url=proxy.url)
    async with (
        fleet.producer() as producer,
        backlog_on(fleet, producer),  # a claim finds as many as it asks for
        load_on(fleet, dice, tasks=("work",), seconds=(0.0,), max_open=20_000, url=proxy.url),
    ):
        await command.ready(2)
        for script in (scripts.CLAIM, scripts.ENQUEUE) * 8:
            assert await nemesis.lose_replies(proxy, script) == 1
    assert_each_ran_once(command, await stopped(fleet, command))
    assert set(fleet.history.outcomes.values()) == {"ok"}
    assert len(command.events("job.recovered")) >= BENCHMARK["concurrency"]


async def test_replies_of_claim_and_of_its_recovery_lost_cost_no_run(
    fleet: Fleet, durable_server: Server, proxy: Proxy, dice: random.Random
):
    nemesis = Nemesis(fleet, durable_server, dice)
    command = fleet.start(processes=2, concurrency=10, lease=10, url=proxy.url)
    await command.ready(2)
    async with (
        fleet.producer() as producer,
        backlog_on(fleet, producer),  # else many a claim is that of an idle worker, and in vain
        load_on(fleet, dice),
    ):
        for _ in range(12):
            assert await nemesis.lose_replies(proxy, scripts.CLAIM)
            await nemesis.lose_replies(proxy, scripts.RECOVER, dice.choice((1, 2)), 3)
            # after that the jobs are given back; they are recovered where the first look is heard
            assert await nemesis.lose_replies(proxy, scripts.CLAIM)
    assert_each_ran_once(command, await stopped(fleet, command))
    assert command.events("job.recovered")


async def test_replies_lost_to_an_idle_worker_cost_no_run(
    fleet: Fleet, proxy: Proxy, dice: random.Random
):
    command = fleet.start(processes=1, lease=10, url=proxy.url)
    await command.ready(1)
    async with fleet.producer(proxy.url) as producer:
        for script in (scripts.ENQUEUE, scripts.CLAIM, scripts.ACK) * 8:
            proxy.lose_reply(script.sha)
            n = await producer.send("work")
            await eventually(lambda n=n: n in fleet.done() and proxy.lost_all, 10)
            await fleet.emptied(5)
            await asyncio.sleep(dice.uniform(0, 0.1))
    assert set(fleet.history.outcomes.values()) == {"ok"}
    assert_each_ran_once(command, await stopped(fleet, command))


async def test_reply_of_reclaim_owner_lost_leaves_no_job_to_its_lease(
    fleet: Fleet, durable_server: Server, proxy: Proxy, dice: random.Random
):
    nemesis = Nemesis(fleet, durable_server, dice)
    # one queue: the first reply that is lost is the one that counts
    command = fleet.start(processes=2, concurrency=20, lease=60, url=proxy.url, queues="default")
    async with fleet.producer() as producer:
        for _ in range(4):
            await command.ready(2)
            for _ in range(50):
                await producer.send("work", dice.uniform(0.2, 0.4))
            running = set(fleet.history.outcomes) - fleet.done()
            await eventually(lambda r=running: r & set(fleet.runs()), 10)
            nemesis.kill_worker(command)
            assert await nemesis.lose_replies(proxy, scripts.RECLAIM_OWNER, 2) == 2
            await fleet.emptied(20)
    await stopped(fleet, command)


async def test_reply_of_reclaim_lost_reclaims_once(
    fleet: Fleet, durable_server: Server, proxy: Proxy, dice: random.Random
):
    nemesis = Nemesis(fleet, durable_server, dice)
    survivor = fleet.start(
        processes=1, concurrency=50, lease=LEASE_S, url=proxy.url, queues="default"
    )
    await survivor.ready(1)
    async with fleet.producer() as producer:
        for _ in range(2):
            victim = fleet.start(processes=1, concurrency=50)
            (pid,) = await victim.ready(1)
            for _ in range(100):
                await producer.send("work", 0.3)
            await eventually(
                lambda p=pid: any(r.pid == p for found in fleet.runs().values() for r in found), 10
            )
            nemesis.kill_group(victim)
            await nemesis.lose_replies(proxy, scripts.RECLAIM, 6)
            await fleet.emptied(20)
    await stopped(fleet, survivor)
