"""F23: the server forgets its scripts all the time."""

import random

from tests.support.checker import assert_sound
from tests.support.fleet import Fleet
from tests.support.load import load_on
from tests.support.nemesis import Nemesis
from tests.support.servers import Server


async def test_scripts_flushed_every_20_ms_cost_no_run(
    fleet: Fleet, durable_server: Server, dice: random.Random
):
    nemesis = Nemesis(fleet, durable_server, dice)
    command = fleet.start(processes=2, concurrency=20, lease=10)
    await command.ready(2)
    async with load_on(fleet, dice, producers=3, streams=3):
        await nemesis.flush_scripts(0.02, 150)
    await fleet.emptied(30)
    command.signal()
    assert await command.ended(15) == 0
    findings = assert_sound(fleet.history, fleet.runs())
    assert findings.runs == findings.done > 50
    assert not fleet.history.errors
    assert not command.events("broker.lost")
