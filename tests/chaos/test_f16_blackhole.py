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
            assert [e["exit_code"] for e in command.events("worker.exited")] == [0]
    findings = assert_sound(fleet.history, fleet.runs(), faults=fleet.faults)
    # it was cut off indeed: others took its jobs, and it learned that
    assert findings.runs > findings.done
    assert near.events("job.reclaimed")
    assert far.events("lease.lost")


def has_run(fleet: Fleet, pid: int, since: int) -> bool:
    """Say whether a worker runs jobs that were enqueued after number `since`."""
    return any(r.pid == pid for n, found in fleet.runs().items() if n > since for r in found)
