"""F02: the supervisor is killed while jobs run: its workers finish them, and leave."""

import random
import signal

from tests.support.checker import assert_sound
from tests.support.fleet import Fleet
from tests.support.load import load_on
from tests.support.waiting import eventually

KILLS = 3
#: None may end here, nor a worker be killed for a loop that a loaded machine has held up.
LEASE_S = 30


async def test_workers_of_a_killed_supervisor_finish_what_they_run_and_leave(
    fleet: Fleet, dice: random.Random
):
    async with load_on(fleet, dice, seconds=(0.0, 0.02, 0.1, 1.5)):
        command = fleet.start(processes=2, lease=LEASE_S)
        for _ in range(KILLS):
            await command.ready(2)
            command.signal(signal.SIGKILL)
            next_one = fleet.start(processes=2, lease=LEASE_S)
            await next_one.ready(2)
            workers = command.spawned()
            await eventually(lambda pids=workers: not pids & set(fleet.left_behind()), 20)
            command = next_one
    await fleet.emptied(30)
    command.signal()
    assert await command.ended(15) == 0
    findings = assert_sound(fleet.history, fleet.runs())
    assert findings.runs == findings.done == len(fleet.history.outcomes)


async def test_supervisor_killed_in_the_middle_of_a_roll_leaves_no_orphan(
    fleet: Fleet, dice: random.Random
):
    """Then there are three: one leaves, one is new, one has yet to be replaced."""
    async with load_on(fleet, dice, seconds=(0.0, 0.02, 2.0)):
        command = fleet.start(processes=2, lease=LEASE_S)
        await command.ready(2)
        command.signal(signal.SIGHUP)
        await eventually(lambda: command.events("worker.replaced"), 20)
        command.signal(signal.SIGKILL)
        await eventually(lambda: not set(command.spawned()) & set(fleet.left_behind()), 20)
        again = fleet.start(processes=2, lease=LEASE_S)
        await again.ready(2)
    await fleet.emptied(30)
    again.signal()
    assert await again.ended(15) == 0
    findings = assert_sound(fleet.history, fleet.runs())
    assert findings.runs == findings.done == len(fleet.history.outcomes)
