"""What workers with little to do ask of Redis: commands a second, with the times of production."""

import asyncio

from qcore.broker.identity import new_id
from qcore.broker.redis.broker import Broker
from qcore.model.job import Job, JobStatus
from tests.support.fleet import Fleet
from tests.support.meter import Meter
from tests.support.waiting import eventually
from tests.support.workers import dead, reached

#: Two intervals in which an idle worker blocks, and two between its sweeps.
WATCH_S = 10.0
#: Client commands a second of an idle worker process, and of one whose jobs all take long.
IDLE, HOLDING = 2, 3
#: Each more costs a command a sweep. However sweeps and blocks fall into WATCH_S, an idle process
#: sweeps two queues with 6 commands, blocks 3 times and claims as often; its other 8 are for
#: connections that are made late.
QUEUES = "default,low"
#: When the time of a parked job comes, two workers end their waits by two commands, claim and wait
#: anew, and one settles it.
PARKED = 9


async def test_idle_workers_with_jobs_they_cannot_run_send_two_commands_a_second_at_most(
    fleet: Fleet, meter: Meter
):
    async with fleet.producer() as producer:

        async def unknown_here() -> None: ...

        parked = await producer.app.task(name="gone.task")(unknown_here).enqueue()
        undecodable = producer.app.job(f"default/{new_id()}")
        await producer.app.broker.enqueue([Job(undecodable.id, "default", b"\xc1")])
        command = fleet.start(processes=2, lease=30, queues=QUEUES, url=meter.url)
        await dead(producer.app, undecodable, 20)
        await reached(producer.app, parked, JobStatus.SCHEDULED)
        await command.ready(2)
        await has_swept(producer.app.broker)
    counts = await watched(meter) - PARKED * meter.commands["settle"]
    assert counts <= 2 * IDLE * WATCH_S, meter.commands
    assert meter.commands["settle"] <= 3, meter.commands
    assert command.process.poll() is None


async def test_worker_full_of_long_jobs_asks_for_all_of_them_at_once(fleet: Fleet, meter: Meter):
    async with fleet.producer() as producer:
        for _ in range(100):
            await producer.send("work", 60.0)
        fleet.start(processes=1, lease=30, queues=QUEUES, url=meter.url)
        await eventually(lambda: len(fleet.runs()) == 100, 20)
        await has_swept(producer.app.broker)
    counts = await watched(meter)
    assert 0 < counts <= HOLDING * WATCH_S, meter.commands


async def test_supervisor_with_a_range_asks_for_each_depth_every_two_seconds(
    fleet: Fleet, meter: Meter
):
    fleet.start(processes="1..2", lease=30, queues=QUEUES, url=meter.url)
    async with fleet.producer() as producer:
        await has_swept(producer.app.broker)
    await watched(meter, looks=True)
    assert 0 < meter.commands["depth"] <= len(QUEUES.split(",")) * (WATCH_S / 2 + 1)


async def watched(meter: Meter, *, looks: bool = False) -> int:
    """Return how many commands the workers send; their supervisor sends one a second."""
    meter.forget()
    await asyncio.sleep(WATCH_S)
    heartbeats = meter.commands["heartbeat"]
    assert 0 < heartbeats <= WATCH_S + 1
    assert bool(meter.commands["depth"]) is looks
    return meter.commands.total() - heartbeats


async def has_swept(broker: Broker) -> None:
    """Wait until connections are made and scripts known."""
    swept = (b"HEXISTS", broker._keys_of("default").names["meta"], b"last_sweep")

    async def look() -> bool:
        return (await broker._ask([swept])) == [1]

    await eventually(look, 20)
