"""F25: Redis is at its memory limit while jobs are in flight."""

import asyncio

from qcore import QueueFull
from tests.support.checker import assert_sound
from tests.support.fleet import Fleet, Producer
from tests.support.servers import Server, used_bytes
from tests.support.waiting import eventually

BALLAST = "x" * 10_000
ROOM_BYTES = 5_000_000


def refused(fleet: Fleet) -> int:
    return sum(isinstance(error, QueueFull) for error in fleet.history.errors)


async def fill(fleet: Fleet, producer: Producer) -> None:
    """Enqueue until Redis takes no more."""
    before = refused(fleet)
    while refused(fleet) == before:
        async with asyncio.TaskGroup() as group:
            for _ in range(50):
                group.create_task(producer.send("carry", 0.05, BALLAST))


async def test_full_redis_refuses_enqueues_and_completes_what_it_has(
    fleet: Fleet, durable_server: Server
):
    server = durable_server
    command = fleet.start(processes=2, concurrency=10)
    await command.ready(2)
    async with fleet.producer() as producer:
        failing = [await producer.send("fail_once", "e" * 4000) for _ in range(50)]
        for _ in range(20):
            await producer.send("work_once", 1.0)
        server.ask("CONFIG", "SET", "maxmemory", used_bytes(server) + ROOM_BYTES)
        for _ in range(3):
            await fill(fleet, producer)
            done = len(fleet.done())
            await eventually(lambda n=done: len(fleet.done()) > n + 50, 10)
        server.ask("SCRIPT", "FLUSH")  # scripts can be loaded again by a full server
        late = fleet.start(processes=1, concurrency=10)  # and workers can start
        await fill(fleet, producer)
        await late.ready(1)
        await fleet.emptied(40)
    for one in (command, late):
        one.signal()
        assert await one.ended(10) == 0
    assert refused(fleet) == len(fleet.history.errors) >= 4
    findings = assert_sound(fleet.history, fleet.runs())
    assert set(failing) <= fleet.done()
    assert not findings.duplicated


async def test_redis_above_its_limit_all_the_time_completes_what_it_has(
    fleet: Fleet, durable_server: Server
):
    async with fleet.producer() as producer:
        for i in range(400):
            task = ("fail_once", "work", "work_once", "work")[i % 4]
            await producer.send(task, *["e" * 4000][: i % 4 == 0])
        durable_server.ask("CONFIG", "SET", "maxmemory", 100_000)
        command = fleet.start(processes=2, concurrency=20)
        await fleet.emptied(40)
        (stats,) = await producer.app.inspector.queues(["default"])
        assert stats.dead == 0
    command.signal()
    assert await command.ended(10) == 0
    findings = assert_sound(fleet.history, fleet.runs())
    assert findings.done == 400
    assert not findings.duplicated
