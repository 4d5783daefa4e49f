"""How many connections processes hold to a standalone server, and that they keep them."""

import pytest

from qcore import App
from tests.support.fleet import Fleet
from tests.support.meter import Meter
from tests.support.servers import Server
from tests.support.waiting import eventually
from tests.support.workers import working

#: For turns, to block for the wakeup, to renew leases (a slow Redis must not keep them waiting
#: behind anything), for upkeep.
WORKER = 4
#: For upkeep: it names the queues, and takes back what dead children held.
SUPERVISOR = 1
#: For enqueues. Who awaits results asks over one more, and hears of their ends over a third.
PRODUCER, AWAITING = 1, 2


@pytest.mark.parametrize("processes", [1, 2])
async def test_worker_process_holds_four_connections_and_its_supervisor_one(
    fleet: Fleet, meter: Meter, processes: int
):
    expected = SUPERVISOR + WORKER * processes
    command = fleet.start(processes=processes, concurrency=5, lease=3, url=meter.url)
    await command.ready(processes)
    async with fleet.producer() as producer:
        for _ in range(5 * processes):
            await producer.send("work", 2.0)  # two renewals
    await fleet.emptied(30)
    await eventually(lambda: meter.serving == expected)
    # each was opened once: none of them comes and goes
    assert meter.accepted == expected


async def test_producer_holds_one_connection_and_two_more_when_it_awaits_results(
    own_server: Server, meter: Meter
):
    async with App(meter.url) as app, App(own_server.url) as others:

        @app.task
        async def double(n: int) -> int:
            return 2 * n

        jobs = [await double.enqueue(n) for n in range(20)]
        assert await double.enqueue_many((n,) for n in range(2000))
        assert meter.accepted == PRODUCER
        others.task(name=double.name)(double.function)
        async with working(others):
            assert [await job.result(timeout=20) for job in jobs] == [2 * n for n in range(20)]
        await jobs[0].status()
        assert meter.accepted == meter.serving == PRODUCER + AWAITING
