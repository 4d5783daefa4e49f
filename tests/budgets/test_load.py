"""What a job asks of Redis when there are many: commands, round trips and bytes on the wire.

None of these counts depends on how fast the machine is. What a worker claims in one turn starts in
one step of its event loop, and jobs that wait for nothing end in one step, too: they are settled
by one call, which claims as many again. Only chores go by the clock, two commands a second: a
drain would have to take minutes before they counted.
"""

import asyncio
import re
from collections.abc import AsyncIterator

import pytest

from qcore import App
from qcore.broker.contract import ClaimRequest
from qcore.task import Task
from tests.support.fleet import BENCHMARK, Fleet
from tests.support.meter import Meter
from tests.support.servers import Server
from tests.support.waiting import eventually
from tests.support.workers import working

TEXT = "x" * 100
#: Client commands and round trips a job in a drain, all of the worker and its supervisor counted.
#: A turn of 100 jobs is one settle and one claim in one write: 0.02 and 0.01.
COMMANDS, ROUND_TRIPS = 0.1, 0.05
#: Of 100 producers at once, and of a bulk enqueue: a call takes all that wait, at most 500 jobs.
CONCURRENT_COMMANDS, BULK_COMMANDS = 0.02, 0.0025
#: Bytes a job in both directions, some 130 of them its envelope: bulk; alone; claim and settle.
BULK_BYTES, ALONE_BYTES, DRAIN_BYTES = 200, 480, 340
#: Of a job that comes to an idle worker: the wait that brings it, its claim and its settle.
LONE_BYTES = 1500


@pytest.fixture
async def task(meter: Meter) -> AsyncIterator[Task[[str], None]]:
    """A task whose producer is connected and has taught the server its script."""
    async with App(meter.url) as app:

        @app.task(name="nothing")
        async def nothing(text: str) -> None: ...

        await nothing.enqueue(TEXT)
        meter.forget()
        yield nothing


async def test_drain_takes_a_command_for_many_jobs(fleet: Fleet, meter: Meter):
    jobs = 10_000
    async with fleet.producer() as producer:
        rows = ((n, 0.0, TEXT) for n in range(jobs))
        await producer.task("carry").enqueue_many(rows)
    fleet.start(processes=1, **BENCHMARK, url=meter.url)
    await fleet.emptied(90)
    runs = fleet.runs()
    assert [len(runs.get(n, ())) for n in range(jobs)] == [1] * jobs
    assert meter.commands.total() <= COMMANDS * jobs, meter.commands
    assert meter.round_trips <= ROUND_TRIPS * jobs
    turns = max(meter.talks, key=lambda talk: talk.commands["claim"])
    # what has ended and what is to come go in one write; a few more for connecting
    assert turns.round_trips <= 1.1 * turns.commands["claim"]
    assert turns.bytes <= DRAIN_BYTES * jobs


async def test_enqueue_one_by_one_is_one_command_each(meter: Meter, task: Task[[str], None]):
    for _ in range(100):
        await task.enqueue(TEXT)
    assert meter.commands == {"enqueue": 100}
    assert meter.round_trips == 100
    assert meter.bytes <= ALONE_BYTES * 100


async def test_enqueue_that_blocks_is_one_command_over_one_connection(meter: Meter):
    app = App(meter.url)

    @app.task(name="nothing")
    async def nothing(text: str) -> None: ...

    def enqueue(count: int) -> None:
        for _ in range(count):
            nothing.enqueue_sync(TEXT)

    await asyncio.to_thread(enqueue, 1)
    meter.forget()
    await asyncio.to_thread(enqueue, 100)
    assert meter.commands == {"enqueue": 100}
    assert meter.round_trips == 100
    assert meter.bytes <= ALONE_BYTES * 100
    assert meter.accepted == 1


async def test_lone_job_is_three_commands_of_a_worker_in_two_round_trips(
    meter: Meter, own_server: Server
):
    jobs = 20
    async with App(meter.url) as app, App(own_server.url) as producer:

        @producer.task
        async def nothing(text: str) -> None: ...

        app.tasks.update(producer.tasks)
        async with working(app, block_s=60, lease_s=360, sweep_s=60) as worker:

            async def run(count: int) -> None:
                await nothing.enqueue(TEXT)
                await eventually(lambda: worker.beat().done == count)
                # it waits for the next one
                await eventually(lambda: own_server.ask("INFO", "clients")["blocked_clients"] == 1)

            await run(1)
            meter.forget()
            for n in range(jobs):
                await run(n + 2)
            # the wait, with the claim behind it, that brings the next job; and the settle
            assert meter.commands == {"BZPOPMIN": jobs, "claim": jobs, "ack": jobs}
            assert meter.round_trips <= 2 * jobs
            assert meter.bytes <= LONE_BYTES * jobs


async def test_enqueues_of_many_producers_share_commands(meter: Meter, task: Task[[str], None]):
    async def produce() -> None:
        for _ in range(50):
            await task.enqueue(TEXT)

    await asyncio.gather(*(produce() for _ in range(100)))
    assert meter.commands.total() <= CONCURRENT_COMMANDS * 5000, meter.commands
    assert meter.round_trips <= CONCURRENT_COMMANDS * 5000
    assert meter.bytes <= BULK_BYTES * 5000


async def test_bulk_enqueue_fills_its_commands(meter: Meter, task: Task[[str], None]):
    await task.enqueue_many((TEXT,) for _ in range(10_000))
    assert meter.commands.total() <= BULK_COMMANDS * 10_000, meter.commands
    assert meter.bytes <= BULK_BYTES * 10_000


async def test_begins_of_at_most_once_jobs_are_written_together(meter: Meter):
    jobs = 1000
    async with App(meter.url) as app:
        ran = 0

        @app.task(at_most_once=True)
        async def pay() -> None:
            nonlocal ran
            ran += 1

        await pay.enqueue_many(() for _ in range(jobs))
        async with working(app, concurrency=100):
            await eventually(lambda: ran == jobs)
    # each claim's first job goes alone, the others take the next call
    assert 0 < meter.commands["update_record"] <= 0.04 * jobs


async def test_claim_gives_back_few_of_the_jobs_that_do_not_fit(own_server: Server):
    """Of 100 jobs of 100 KB ten fit into a reply: the claim does not look at all of them."""
    async with App(own_server.url) as app:

        @app.task
        async def carry(data: str) -> None: ...

        await carry.enqueue_many(("x" * 100_000,) for _ in range(100))
        request = ClaimRequest(["default"], 100, 30_000, "00000000000000aa:1:")
        assert len((await app.broker.turn([], request)).leases) == 10
        (stats,) = await app.broker._ask([(b"INFO", b"commandstats")])
    given_back = re.search(rb"cmdstat_lpush:calls=(\d+)", stats)
    assert given_back is not None
    assert int(given_back[1]) <= 1
