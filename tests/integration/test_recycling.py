"""A worker that has reached a limit makes room for another one, which is ready before it leaves."""

from datetime import datetime, timedelta
from typing import Any

import pytest

from qcore.model.job import AttemptError
from tests.support.checker import assert_sound
from tests.support.commands import Command as Qcore
from tests.support.commands import one_line
from tests.support.fleet import Command, Fleet
from tests.support.waiting import eventually


def order_of(command: Command, *events: tuple[str, int]) -> list[int]:
    """Return the places, in the log, of events of one worker process each."""
    found = [(e["event"], e.get("pid")) for e in command.all_events()]
    return [found.index(event) for event in events]


async def replaced(command: Command, times: int = 1) -> list[dict[str, Any]]:
    """Wait until so many workers were replaced and are gone."""

    def look() -> list[dict[str, Any]]:
        gone = {event["pid"] for event in command.events("worker.exited")}
        return [e for e in command.events("worker.replaced") if e["pid"] in gone]

    return await eventually(lambda: found if len(found := look()) >= times else [], 30)


async def test_worker_that_has_done_its_jobs_leaves_when_another_is_ready(fleet: Fleet):
    command = fleet.start(processes=1, max_jobs=5)
    (first,) = await command.ready(1)
    async with fleet.producer() as producer:
        for _ in range(8):
            await producer.send("work", 0.0)
        await producer.send("work", 2.5)  # it is finished by the one that leaves
        (event,) = await replaced(command)
        assert (event["worker"], event["pid"]) == ("worker.1", first)
        assert event["why"].startswith("max-jobs: it has run ")
        places = order_of(
            command,
            ("worker.ready", event["by"]),
            ("worker.replaced", first),
            ("worker.exited", first),
        )
        assert places == sorted(places)
        await fleet.emptied(10)
    command.signal()
    assert await command.ended(10) == 0
    assert assert_sound(fleet.history, fleet.runs()).runs == 9
    assert command.exit_codes() == [0, 0]


async def test_limit_that_a_worker_reaches_at_boot_starves_no_other_slot(fleet: Fleet):
    fleet.write_module("slow", "import time; time.sleep(1.1)")  # longer than max_time
    command = fleet.start(processes=2, app="slow:app", max_time=1)
    events = await replaced(command, 2)
    assert {event["worker"] for event in events[:2]} == {"worker.1", "worker.2"}


async def test_workers_that_are_too_old_are_replaced_one_after_the_other(fleet: Fleet):
    command = fleet.start(processes=2, max_time=2)
    await command.ready(2)
    events = await replaced(command, 2)
    assert {event["worker"] for event in events} == {"worker.1", "worker.2"}
    assert all(event["why"].startswith("max-time: it is ") for event in events)
    first, second = events[:2]
    places = order_of(command, ("worker.exited", first["pid"]), ("worker.spawned", second["by"]))
    assert places == sorted(places)


async def test_worker_that_has_grown_is_replaced_and_an_idle_one_is_not(fleet: Fleet):
    # it holds its loop meanwhile, on a loaded machine for longer than a short lease allows
    command = fleet.start(processes=1, max_memory="180M:2G", lease=30)
    (first,) = await command.ready(1)
    async with fleet.producer() as producer:
        await producer.send("leak", 1)
        await fleet.emptied(10)
        assert not command.events("worker.replaced")
        await producer.send("leak", 200)
        (event,) = await replaced(command)
        assert event["pid"] == first
        assert event["why"].startswith("max-memory: it takes 2")
        await producer.send("work")
        await fleet.emptied(10)
    assert_sound(fleet.history, fleet.runs())


async def test_limit_below_what_the_app_takes_replaces_nobody_without_a_job(fleet: Fleet):
    command = fleet.start(processes=1, max_memory="11M:2G", max_time=3)
    (event,) = await replaced(command)
    assert event["why"].startswith("max-time")


@pytest.mark.parametrize("blocks", [False, True])
async def test_job_that_takes_too_much_memory_is_dead_and_its_neighbours_are_not(
    fleet: Fleet, blocks: bool
):
    command = fleet.start(processes=2, max_memory="200M:300M", lease=30)
    await command.ready(2)
    async with fleet.producer() as producer:
        inspector = producer.app.inspector
        job = await producer.task("bomb").enqueue(fleet.history.number(), blocks)
        for _ in range(100):
            await producer.send("work", 0.3)

        async def dead() -> bool:
            return (await inspector.queues(["default"]))[0].dead == 1

        await eventually(dead, 60)
        (record,) = await inspector.dead("default")
        assert record.id == job.id
        assert (record.attempts, record.crashes) in (
            (0, 2),
            (0, 3),
        )  # once among ten quarantined jobs
        death = record.deaths[-1]
        assert death.how.startswith("SIGKILL by its supervisor: 3")
        assert death.how.endswith(" MB of memory, allowed are 315")
        assert death.peak_rss_bytes > 300 * 1024**2
        assert record.deaths[0].how.startswith("SIGKILL by its supervisor")
        await fleet.emptied(30)
    killed = {e["pid"] for e in command.events("worker.killed")}
    assert_sound(fleet.history, {n: r for n, r in fleet.runs().items() if n}, killed=killed)


async def test_pool_process_that_takes_too_much_memory_is_killed_alone(fleet: Fleet):
    """Its job has failed with how much it took; the worker and its other jobs go on."""
    command = fleet.start(processes=1, max_memory="200M:300M", lease=30)
    await command.ready(1)
    async with fleet.producer() as producer:
        neighbour = fleet.history.number()
        await producer.task("work").enqueue(neighbour, 100.0)
        job = await producer.task("bomb_in_process").enqueue(fleet.history.number())

        async def failed() -> tuple[AttemptError, ...]:
            record = await producer.app.inspector.job("default", job.id)
            return record.errors if record else ()

        (error, *_) = await eventually(failed, 60)
        record = await producer.app.inspector.job("default", job.id)
    assert record is not None
    assert (record.crashes, record.attempts, error.kind) == (0, 1, "ProcessDied")
    assert "was ended by SIGKILL, by its worker: " in error.text
    assert "with the worker, allowed are 315" in error.text
    assert len(fleet.runs()[neighbour]) == 1
    assert not command.events("worker.killed")


async def test_replacement_that_does_not_come_up_leaves_the_old_worker_at_work(fleet: Fleet):
    module = fleet.write_module("shop")
    command = fleet.start(processes=1, max_jobs=2, app="shop:app")
    (first,) = await command.ready(1)
    fleet.write_module("shop", "raise RuntimeError('a bad deploy')")
    async with fleet.producer() as producer:
        for _ in range(3):
            await producer.send("work")
        failed = await eventually(
            lambda: e if len(e := command.events("replacement.failed")) > 1 else [], 30
        )
        assert {(e["worker"], e["pid"]) for e in failed} == {("worker.1", first)}
        # the next try rests, for 0.1 s or more
        tries = [datetime.fromisoformat(e["timestamp"]) for e in command.events("worker.spawned")]
        ended = datetime.fromisoformat(failed[0]["timestamp"])
        assert tries[2] - ended >= timedelta(seconds=0.1)
        await producer.send("work")
        await fleet.emptied(10)
        assert {run.pid for runs in fleet.runs().values() for run in runs} == {first}
        fleet.write_module("shop")
        (event,) = await replaced(command)
        assert event["pid"] == first
    assert module.exists()


async def test_old_worker_that_dies_meanwhile_is_succeeded_by_the_new_one(fleet: Fleet):
    """No third process is started for the same place."""
    fleet.write_module("shop")
    command = fleet.start(processes=1, max_jobs=1, app="shop:app")
    (first,) = await command.ready(1)
    # time for the old one to die in, and for a third to be started
    fleet.write_module("shop", "import time; time.sleep(2)")
    async with fleet.producer() as producer:
        await producer.send("work")
        await eventually(lambda: len(command.spawned()) == 2, 20)
        fleet.kill_worker(first)
        await eventually(lambda: command.workers() and first not in command.workers(), 20)
    assert len(command.spawned()) == 2


async def test_worker_that_leaves_is_killed_at_the_shutdown_timeout_and_nothing_is_charged(
    fleet: Fleet,
):
    command = fleet.start(processes=1, max_jobs=2, shutdown_timeout=4, lease=30)
    await command.ready(1)
    async with fleet.producer() as producer:
        number = fleet.history.number()
        job = await producer.task("block").enqueue(number, 60.0)
        for _ in range(2):
            await producer.send("work")
        await eventually(lambda: len(fleet.runs().get(number, [])) == 2, 40)
        (killed,) = command.events("worker.killed")
        assert killed["why"] == "shutdown timeout"
        record = await producer.app.inspector.job("default", job.id)
        assert record is not None
        assert (record.crashes, record.attempts) == (0, 0)


@pytest.mark.parametrize("text", ["400", "M", "400K", "1G:", "-1M", "1G:2", "400M:500M:600M"])
async def test_memory_that_cannot_be_read_is_refused(qcore: Qcore, text: str):
    said = await qcore("worker", "tests.support.fleet_tasks:app", "--max-memory", text)
    assert said.code == 1
    assert "--max-memory is" in one_line(said)


async def test_memory_to_be_killed_at_is_not_below_that_to_be_replaced_at(qcore: Qcore):
    said = await qcore("worker", "tests.support.fleet_tasks:app", "--max-memory", "1G:500M")
    assert said.code == 1
    assert "--max-memory, in bytes, is 524288000, allowed is 1073741824 to" in one_line(said)
