"""F13: connections are killed all the time, or by a middlebox that resets and slices."""

import asyncio
import random

from tests.support.checker import assert_sound
from tests.support.fleet import Command, Fleet
from tests.support.load import load_on
from tests.support.nemesis import Nemesis
from tests.support.proxy import Proxy
from tests.support.servers import Server
from tests.support.waiting import eventually

KILLS, RESETS = 70, 20
#: No lease ends while a loaded machine reconnects: what is not recovered would run much later.
LEASE_S = 20.0


async def assert_each_ran_once(fleet: Fleet, command: Command) -> None:
    command.signal()
    assert await command.ended(15) == 0
    findings = assert_sound(fleet.history, fleet.runs())
    assert findings.runs == findings.done > 50
    # nothing waited for the end of its lease: what a lost claim took was found
    assert not command.events("job.reclaimed")
    assert sum(e["done"] for e in command.events("worker.stopped")) == findings.done


async def test_connections_killed_every_100_ms_cost_no_run(
    fleet: Fleet, durable_server: Server, dice: random.Random
):
    nemesis = Nemesis(fleet, durable_server, dice)
    command = fleet.start(processes=2, concurrency=20, lease=LEASE_S)
    await command.ready(2)
    async with load_on(fleet, dice, producers=3, streams=3):
        await nemesis.kill_connections(0.1, KILLS)
        while not command.events("job.recovered"):  # until a claim was on its way
            await nemesis.kill_connections(0.1, 1)
    await fleet.emptied(30)
    await assert_each_ran_once(fleet, command)


async def test_connections_reset_and_sliced_cost_no_run(
    durable_server: Server, fleet: Fleet, dice: random.Random
):
    async with Proxy(durable_server.port) as proxy:
        nemesis = Nemesis(fleet, durable_server, dice)
        command = fleet.start(processes=2, concurrency=20, lease=LEASE_S, url=proxy.url)
        await command.ready(2)
        proxy.slice_bytes = 200
        async with load_on(fleet, dice, url=proxy.url, streams=3):
            for _ in range(RESETS):
                nemesis.reset(proxy)
                # not faster than they come back, or nothing would be on its way
                done = fleet.journal.done_count()
                await eventually(lambda n=done: fleet.journal.done_count() > n + 20, 10)
                await asyncio.sleep(dice.uniform(0, 0.2))
        proxy.slice_bytes = 0
        await fleet.emptied(30)
        await assert_each_ran_once(fleet, command)
