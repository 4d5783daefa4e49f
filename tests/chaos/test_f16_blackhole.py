"""F16: nothing passes between some workers and Redis for two leases, in either direction."""

import random

from tests.support.checker import assert_sound
from tests.support.fleet import LEASE_S, Fleet
from tests.support.load import load_on
from tests.support.nemesis import RECONNECT_S, Nemesis
from tests.support.proxy import Proxy
from tests.support.servers import Server
from tests.support.waiting import eventually

#: What is held, and for how long; 6.5 s are also more than a call may take.
HOLES = (("open", 2 * LEASE_S), ("asks", 2 * LEASE_S), ("answers", 2 * LEASE_S), ("open", 6.5))


async def test_workers_cut_off_for_two_leases_lose_jobs_to_others_and_come_back(
    fleet: Fleet, durable_server: Server, dice: random.Random
):
    nemesis = Nemesis(fleet, durable_server, dice)
    async with Proxy(durable_server.port) as proxy:
        near = fleet.start(processes=1, concurrency=100)
        far = fleet.start(processes=1, concurrency=100, url=proxy.url)
        await near.ready(1)
        (far_pid,) = await far.ready(1)
        async with load_on(fleet, dice, pause_s=0.03, seconds=(0.0, 0.05, 1.0, 3.0)):
            for way, for_s in HOLES:
                mark = fleet.history.number()
                await eventually(lambda n=mark: has_run(fleet, far_pid, n), RECONNECT_S)
                await nemesis.blackhole(proxy, [far], way, for_s)
            mark = fleet.history.number()
            await eventually(lambda n=mark: has_run(fleet, far_pid, n), RECONNECT_S)
        await fleet.emptied(30)
        for command in (near, far):
            command.signal()
            assert await command.ended(15) == 0
            assert command.exit_codes() == [0]
    findings = assert_sound(fleet.history, fleet.runs(), faults=fleet.faults)
    # it was cut off indeed: others took its jobs, and it learned that
    assert findings.runs > findings.done
    assert near.events("job.reclaimed")
    assert far.events("lease.lost")


def has_run(fleet: Fleet, pid: int, since: int) -> bool:
    """Say whether a worker runs jobs that were enqueued after number `since`."""
    return any(r.pid == pid for n, found in fleet.runs().items() if n > since for r in found)


async def test_worker_cut_off_for_two_leases_drops_the_jobs_that_it_lost(
    fleet: Fleet, durable_server: Server, dice: random.Random
):
    nemesis = Nemesis(fleet, durable_server, dice)
    async with Proxy(durable_server.port) as proxy, fleet.producer() as producer:
        near = fleet.start(processes=1)
        far = fleet.start(processes=1, url=proxy.url)
        await near.ready(1)
        (far_pid,) = await far.ready(1)
        while not has_run(fleet, far_pid, -1):
            await producer.send("work", 9.0)  # it would end long after the hole
        await eventually(lambda: len(fleet.runs()) == len(fleet.history.outcomes), 10)
        there = [n for n, (run,) in fleet.runs().items() if run.pid == far_pid]
        await nemesis.blackhole(proxy, [far], "open", 2 * LEASE_S)
        await fleet.emptied(40)
        for command in (near, far):
            command.signal()
            assert await command.ended(15) == 0
    runs = fleet.runs()
    assert_sound(fleet.history, runs, faults=fleet.faults)
    assert {n for n, found in runs.items() if len(found) > 1} == set(there)
    assert not [n for n in there if runs[n][0].ended_at is not None]
    assert len(far.events("lease.lost")) == len(there)
