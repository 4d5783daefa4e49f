"""F30: many want the one place there is: in the pool, on a producer's connection."""

import asyncio
import random

from tests.support.checker import assert_sound
from tests.support.fleet import Fleet
from tests.support.proxy import Proxy
from tests.support.servers import Server
from tests.support.waiting import eventually

ENQUEUES = 1_000


async def test_one_pool_process_for_a_hundred_slots_starves_nobody(
    fleet: Fleet, dice: random.Random
):
    command = fleet.start(processes=1, concurrency=100)  # a pool of one, leases of 1.5 s
    await command.ready(1)
    kinds = ["work_in_process", "work_in_process_only"] * 150 + ["work", "work_in_thread"] * 200
    dice.shuffle(kinds)
    async with fleet.producer() as producer:
        for kind in kinds:
            await producer.send(kind, 0.02 if "process" in kind else dice.choice((0.0, 0.05)))
    # they wait for the pool for several leases, and all of that time their leases are renewed
    await fleet.emptied(60)
    command.signal()
    assert await command.ended(15) == 0
    findings = assert_sound(fleet.history, fleet.runs())
    assert findings.runs == findings.done == len(kinds)
    assert not command.events("job.reclaimed")


async def test_thousand_enqueues_at_a_time_on_one_app_all_arrive_once(
    fleet: Fleet, durable_server: Server, dice: random.Random
):
    async with Proxy(durable_server.port) as proxy:
        command = fleet.start(processes=1)
        await command.ready(1)  # it is done with some before their enqueue is repeated
        async with fleet.producer(proxy.url) as producer:
            for _ in range(5):
                async with asyncio.TaskGroup() as group:
                    for _ in range(ENQUEUES):
                        kind = dice.choice(("work", "work", "work_in_thread"))
                        group.create_task(producer.send(kind))
                    await asyncio.sleep(dice.uniform(0, 0.05))
                    proxy.cut()
            assert set(fleet.history.outcomes.values()) == {"ok"}
            # one connection at a time, however many callers wait for it
            assert proxy.serving <= 1
        await eventually(lambda: len(fleet.done()) == 5 * ENQUEUES, 40)
    command.signal()
    assert await command.ended(15) == 0
    findings = assert_sound(fleet.history, fleet.runs())
    assert findings.runs == findings.done == 5 * ENQUEUES
