"""F04: a worker is stopped for three leases, alone or with its supervisor."""

import random

from tests.support.checker import assert_sound
from tests.support.fleet import LEASE_S, Fleet
from tests.support.load import load_on
from tests.support.nemesis import Nemesis
from tests.support.servers import Server
from tests.support.waiting import eventually

STOPS = 3


async def test_worker_stopped_for_three_leases_with_its_supervisor_settles_nothing_late(
    fleet: Fleet, durable_server: Server, dice: random.Random
):
    nemesis = Nemesis(fleet, durable_server, dice)
    command = fleet.start(processes=2, concurrency=100)
    await command.ready(2)
    # shorter and longer than the stop: some end at once after it, some go on
    async with load_on(fleet, dice, pause_s=0.03, seconds=(0.0, 0.05, 0.5, 1.0, 3.0)):
        await eventually(lambda: len(fleet.done()) > 50, 20)
        for _ in range(STOPS):
            await nemesis.stop_worker(command, 3 * LEASE_S, unseen=True)
            mark = fleet.history.number()
            await eventually(lambda n=mark: max(fleet.done()) > n, 10)
    # those that were stopped twice run alone, one after the other
    await fleet.emptied(60)
    command.signal()
    assert await command.ended(15) == 0
    findings = assert_sound(fleet.history, fleet.runs(), faults=fleet.faults)
    # the jobs of the stopped worker went to the other one, and ended in both
    assert len(findings.duplicated) >= STOPS
    assert command.events("lease.lost")
    # yet every job was settled once
    assert command.exit_codes() == [0, 0]
    assert sum(e["done"] for e in command.events("worker.stopped")) == findings.done
