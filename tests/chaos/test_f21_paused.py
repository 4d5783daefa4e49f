"""F21: the server holds every command for two leases."""

import random

from tests.support.checker import assert_sound
from tests.support.fleet import LEASE_S, Fleet
from tests.support.load import load_on
from tests.support.nemesis import Nemesis
from tests.support.servers import Server
from tests.support.waiting import eventually

PAUSES = 3


async def test_server_paused_for_two_leases_costs_no_run(
    fleet: Fleet, durable_server: Server, dice: random.Random
):
    nemesis = Nemesis(fleet, durable_server, dice)
    command = fleet.start(processes=2, concurrency=100)
    await command.ready(2)
    async with load_on(fleet, dice, pause_s=0.02, seconds=(0.0, 0.05, 1.0, 5.0)):
        await eventually(lambda: len(fleet.done()) > 50, 20)
        for _ in range(PAUSES):
            await nemesis.pause_server(2 * LEASE_S)
            mark = fleet.history.number()
            await eventually(lambda n=mark: max(fleet.done()) > n, 10)
    await fleet.emptied(30)
    command.signal()
    assert await command.ended(15) == 0
    findings = assert_sound(fleet.history, fleet.runs())
    assert findings.runs == findings.done > 50
