"""F03: a whole host is killed in a burst of acks."""

import asyncio
import random
from pathlib import Path

from tests.support.checker import assert_sound
from tests.support.fleet import Fleet
from tests.support.nemesis import Nemesis
from tests.support.servers import Server
from tests.support.waiting import eventually

ROUNDS = 5
#: In flight, or ended and not settled, when the host dies.
CONCURRENCY = 100
BURST = 800


async def test_host_killed_in_a_burst_of_acks_loses_no_job(
    fleet: Fleet, durable_server: Server, dice: random.Random, tmp_path: Path
):
    nemesis = Nemesis(fleet, durable_server, dice)
    async with fleet.producer() as producer:
        for kill in range(ROUNDS):
            command = fleet.start(processes=2, concurrency=CONCURRENCY)
            await command.ready(2)
            gate = tmp_path / f"gate-{kill}"
            held = await producer.send("hold", str(gate))
            await eventually(lambda n=held: n in fleet.runs(), 10)
            async with asyncio.TaskGroup() as group:
                for _ in range(BURST):
                    group.create_task(producer.send("work", dice.choice((0.0, 0.0, 0.01))))
                before = len(fleet.done())
                await eventually(lambda n=before: len(fleet.done()) > n + 50, 20)
                await asyncio.sleep(dice.uniform(0, 0.1))
                nemesis.kill_group(command)
                gate.touch()
        command = fleet.start(processes=2, concurrency=CONCURRENCY)
        await command.ready(2)  # the last one that was killed may have left nothing to do
        await fleet.emptied(60)
        command.signal()
        assert await command.ended(15) == 0
    findings = assert_sound(fleet.history, fleet.runs(), faults=fleet.faults)
    assert findings.done == ROUNDS * (BURST + 1)
    # every time one was running at the least
    assert findings.runs - findings.done >= ROUNDS
    reclaimed = [e for command in fleet.commands for e in command.events("job.reclaimed")]
    assert reclaimed
    assert not [e for e in reclaimed if e["to"] == "dead"]


async def test_host_killed_gives_its_jobs_to_another_one(
    fleet: Fleet, durable_server: Server, dice: random.Random
):
    nemesis = Nemesis(fleet, durable_server, dice)
    survivor = fleet.start(processes=1, concurrency=CONCURRENCY)
    await survivor.ready(1)
    async with fleet.producer() as producer:
        for _ in range(3):
            victim = fleet.start(processes=2, concurrency=20)
            pids = await victim.ready(2)
            while not any(run.pid in pids for run in all_runs(fleet)):
                await producer.send("work", 0.4)
            nemesis.kill_group(victim)
            await fleet.emptied(15)
    survivor.signal()
    assert await survivor.ended(15) == 0
    assert_sound(fleet.history, fleet.runs(), faults=fleet.faults)


def all_runs(fleet: Fleet):
    return [run for found in fleet.runs().values() for run in found]
