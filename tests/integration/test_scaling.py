"""`--processes MIN..MAX`: supervisors that grow with the backlog, and shrink when it is gone."""

import asyncio
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import pytest

from qcore import JobHandle
from qcore.broker.redis.broker import Broker
from qcore.model.views import JobRecord
from qcore.runtime.supervisor.autoscaler import Autoscaler
from qcore.settings import SupervisorConfig, WorkerConfig
from tests.support.checker import assert_sound
from tests.support.commands import Command as Qcore
from tests.support.commands import one_line
from tests.support.fleet import TASKS, Command, Fleet, Producer, fleet_on
from tests.support.meter import Meter
from tests.support.moves import NOW, ask, put
from tests.support.proxy import Proxy
from tests.support.servers import Server
from tests.support.waiting import eventually

#: Clocks of which a test sees several: it looks every 0.2 s.
FAST: dict[str, Any] = {"heartbeat_s": 0.1, "target_wait_s": 0.3, "shrink_after_s": 1.0}


def wanted(command: Command) -> list[int]:
    """Return the numbers of workers that were decided on, one after the other."""
    return [event["wanted"] for event in command.events("workers.scaled")]


async def test_backlog_makes_it_grow_and_an_empty_queue_shrink_and_no_job_is_cut(fleet: Fleet):
    command = fleet.start_with(processes=1, max_processes=4, concurrency=5, **FAST)
    await command.ready(1)
    assert len(command.spawned()) == 1, "it starts with the least"
    async with fleet.producer() as producer:
        for _ in range(200):
            await producer.send("work", 0.2)
        # they run on when there is nothing else to do, and no time limit holds for them
        long = [await producer.send("work", 6.0) for _ in range(3)]
        await command.ready(4)
        await fleet.emptied(60)
    await eventually(lambda: len(command.living()) == 1, 30)
    assert wanted(command)[0] > 1
    assert max(wanted(command)) == 4
    assert wanted(command)[-1] == 1
    assert len(command.spawned()) == 4, "never more than the most, and nobody was replaced"
    assert set(long) <= fleet.done()
    # a job that was cut would have run twice
    assert assert_sound(fleet.history, fleet.runs()).runs == 203
    assert command.events("worker.killed") == []
    command.signal()
    assert await command.ended(15) == 0
    assert command.exit_codes() == [0, 0, 0, 0]


async def half_idle(
    fleet: Fleet, producer: Producer, seconds: float = 60.0
) -> tuple[Command, list[JobHandle[Any]]]:
    """Return a command with two workers, one of which is to leave: each runs one long job."""
    command = fleet.start_with(
        processes=1, max_processes=2, concurrency=10, shutdown_timeout_s=4.0, **FAST
    )
    await command.ready(1)
    jobs = {}
    for _ in range(20):
        number = fleet.history.number()
        jobs[number] = await producer.task("work").enqueue(number, seconds)
    await eventually(lambda: set(fleet.runs()) == set(jobs), 30)
    by_pid: dict[int, list[int]] = {}
    for number, (run,) in fleet.runs().items():
        by_pid.setdefault(run.pid, []).append(number)
    assert len(by_pid) == 2
    for numbers in by_pid.values():
        for number in numbers[1:]:
            await jobs[number].cancel()
    await eventually(lambda: wanted(command) == [2, 1], 20)
    return command, [jobs[numbers[0]] for numbers in by_pid.values()]


async def test_worker_that_is_to_leave_finishes_what_takes_longer_than_the_shutdown_timeout(
    fleet: Fleet,
):
    async with fleet.producer() as producer:
        command, rest = await half_idle(fleet, producer, 12.0)
        for job in rest:
            await job.result(timeout=40)
    await eventually(lambda: len(command.living()) == 1, 30)
    assert all(len(runs) == 1 for runs in fleet.runs().values()), "none was cut and begun anew"
    assert len(fleet.done()) == 2
    assert command.exit_codes() == [0]


async def test_worker_that_was_to_leave_is_called_back_when_jobs_wait_again(
    fleet: Fleet, qcore: Qcore
):
    async with fleet.producer() as producer:
        command, rest = await half_idle(fleet, producer)
        (view,) = (await qcore("status", "--json")).json["supervisors"]
        assert sorted(worker["state"] for worker in view["workers"]) == ["draining", "running"]
        assert view["processes"]["now"] == 1
        new = {await producer.send("work", 1.0) for _ in range(40)}
        await eventually(lambda: new <= fleet.done(), 30)
        assert {fleet.runs()[number][0].pid for number in new} == command.spawned()
        assert wanted(command)[:3] == [2, 1, 2]
        assert len(command.spawned()) == 2, "no other one was started"
        for job in rest:
            await job.cancel()
    await eventually(lambda: len(command.living()) == 1, 30)


async def test_roll_lets_the_worker_that_is_to_leave_go_within_the_shutdown_timeout(fleet: Fleet):
    """It has the code of before, and might never end by itself."""
    async with fleet.producer() as producer:
        command, rest = await half_idle(fleet, producer)
        old = set(command.living())
        # the number stays: on a busy machine a job that is given back waits, and calls for another
        command.signal(signal.SIGTSTP)
        await eventually(lambda: command.events("supervisor.quieted"), 10)
        command.signal(signal.SIGHUP)
        await eventually(lambda: command.events("roll.finished"), 40)
        assert command.events("roll.started")[0]["workers"] == 1
        assert command.events("roll.finished")[0]["workers"] == 1
        (new,) = await eventually(lambda: command.living() if len(command.living()) == 1 else [])
        assert new not in old
        command.signal(signal.SIGCONT)
        for job in rest:  # both were given back, and nothing is charged for it
            record = await eventually(lambda job=job: running(producer, job), 20)
            assert record is not None
            assert (record.attempts, record.crashes) == (0, 0)
            await job.cancel()


async def test_idle_worker_is_the_one_to_leave_and_the_next_one_takes_its_place(fleet: Fleet):
    command = fleet.start_with(processes=1, max_processes=2, concurrency=10, **FAST)
    (first,) = await command.ready(1)
    async with fleet.producer() as producer:
        jobs = {}
        for _ in range(20):
            number = fleet.history.number()
            jobs[number] = await producer.task("work").enqueue(number, 60.0)
        await eventually(lambda: set(fleet.runs()) == set(jobs), 30)
        stays = [number for number, (run,) in fleet.runs().items() if run.pid != first]
        for number in jobs.keys() - stays[:1]:
            await jobs.pop(number).cancel()
        await eventually(lambda: len(command.living()) == 1, 20)
        assert command.living() != [first]
        assert len(fleet.runs()[stays[0]]) == 1
        for _ in range(19):
            number = fleet.history.number()
            jobs[number] = await producer.task("work").enqueue(number, 60.0)
        await command.ready(2)
        names = [event["worker"] for event in command.events("worker.spawned")]
        assert names == ["worker.1", "worker.2", "worker.1"]
        for job in jobs.values():
            await job.cancel()


async def test_quarantined_are_no_backlog(broker: Broker):
    """They wait for processes of their own, whatever the number of workers is."""
    for queue, ids in (("default", ("a", "b")), ("low", ("c", "d"))):
        await put(broker, *ids, queue=queue, when="+1")
        lost = [word for id in ids for word in (id, f"2 {NOW}")]
        await ask(broker, b"HSET", broker._keys_of(queue).names["crashes"], *lost)
        await broker.promote([queue], now_ms=NOW + 1)
    await put(broker, "e", "f", "g", queue="default")
    scaler = Autoscaler(
        SupervisorConfig(processes=1, max_processes=2),
        WorkerConfig(queues=("default", "low")),
        [],
        broker=broker,
        open_slot=lambda: None,
        is_quiet=lambda: False,
        stopping=asyncio.Event(),
    )
    seen = await scaler._look()
    assert seen is not None
    assert (seen.backlog, list(seen.ages_s)) == (3, ["default"])


async def running(producer: Producer, job: JobHandle[Any]) -> JobRecord | None:
    record = await producer.app.inspector.job("default", job.id)
    return record if record is not None and record.status == "active" else None


@pytest.fixture
async def heard(own_server: Server) -> AsyncIterator[Meter]:
    async with Meter(own_server.port) as meter:
        yield meter


async def looked(meter: Meter, command: Command) -> None:
    """Wait until the supervisor has looked several times; it is to decide on nothing."""
    meter.forget()
    await eventually(lambda: meter.commands["depth"] >= 5)
    assert wanted(command) == []


async def test_quiet_supervisor_keeps_its_number(tmp_path: Path, own_server: Server, heard: Meter):
    with fleet_on(tmp_path, own_server.url, "quiet") as fleet:
        command = fleet.start_with(
            url=heard.url, processes=1, max_processes=4, concurrency=1, **FAST
        )
        await command.ready(1)
        command.signal(signal.SIGTSTP)
        await eventually(lambda: command.events("supervisor.quieted"), 10)
        async with fleet.producer() as producer:
            for _ in range(20):
                await producer.send("work", 1.0)
            await looked(heard, command)
            command.signal(signal.SIGCONT)
            await command.ready(4)
            await fleet.emptied(30)


async def test_what_a_paused_queue_holds_is_no_backlog(
    tmp_path: Path, own_server: Server, heard: Meter
):
    with fleet_on(tmp_path, own_server.url, "paused") as fleet:
        command = fleet.start_with(
            url=heard.url, processes=1, max_processes=4, concurrency=1, **FAST
        )
        await command.ready(1)
        async with fleet.producer() as producer:
            inspector = producer.app.inspector
            await inspector.pause("default")
            for _ in range(20):
                await producer.send("work", 1.0)
            await looked(heard, command)
            await inspector.resume("default")
            await command.ready(4)
            await fleet.emptied(30)


async def test_queue_that_waits_for_processes_is_not_hidden_by_a_fast_one(fleet: Fleet):
    """By the backlog and what is done of the fast queue, all would be done in time."""
    clocks: dict[str, Any] = FAST | {"shrink_after_s": 20.0}
    command = fleet.start_with(processes=1, max_processes=3, **clocks)
    await command.ready(1)
    slow = set[int]()
    async with fleet.producer() as producer, anyio.create_task_group() as group:

        async def send_fast_ones() -> None:
            while True:
                for _ in range(5):
                    await producer.send("work")
                await asyncio.sleep(0.05)

        group.start_soon(send_fast_ones)
        slow |= {await producer.send("work_in_process_only", 1.5) for _ in range(10)}
        await command.ready(3)
        await eventually(lambda: slow <= fleet.done(), 30)
        group.cancel_scope.cancel()


async def test_nothing_is_decided_while_redis_is_away(
    tmp_path: Path, own_server: Server, proxy: Proxy
):
    clocks: dict[str, Any] = FAST | {"shrink_after_s": 2.0}
    with fleet_on(tmp_path, own_server.url, "away") as fleet:
        command = fleet.start_with(
            url=proxy.url, processes=1, max_processes=3, concurrency=1, **clocks
        )
        await command.ready(1)
        async with fleet.producer() as producer:
            for _ in range(12):
                await producer.send("work", 0.5)
            await command.ready(3)
            await fleet.emptied(30)
        grown = wanted(command)
        await proxy.refuse()
        await eventually(lambda: command.events("registry.lost"), 20)
        await asyncio.sleep(3.0)  # longer than fewer would have to be enough
        assert wanted(command) == grown
        await proxy.listen()
        await eventually(lambda: wanted(command)[-1] == 1, 30)
        await eventually(lambda: len(command.living()) == 1, 30)
        command.signal()
        assert await command.ended(20) == 0


async def test_roll_replaces_all_that_stay_also_those_that_came_by_scaling(fleet: Fleet):
    command = fleet.start_with(processes=1, max_processes=3, concurrency=2, **FAST)
    await command.ready(1)
    async with fleet.producer() as producer:
        for _ in range(120):
            await producer.send("work", 0.3)
        old = await command.ready(3)
        command.signal(signal.SIGHUP)
        await eventually(lambda: command.events("roll.finished"), 40)
        assert not set(old) & set(command.workers())
        await fleet.emptied(60)
    await eventually(lambda: len(command.living()) == 1, 30)
    assert assert_sound(fleet.history, fleet.runs()).runs == 120


async def test_status_says_how_many_of_which_range(fleet: Fleet, qcore: Qcore):
    command = fleet.start(processes="1..3", target_wait=0.2, concurrency=1)
    await command.ready(1)

    async def shown() -> dict[str, int]:
        found = (await qcore("status", "--json")).json["supervisors"]
        return found[0]["processes"] if found else {}

    assert await eventually(shown, 10) == {"now": 1, "min": 1, "max": 3}
    assert "  processes 1 of 1..3\n" in (await qcore("status")).out
    async with fleet.producer() as producer:
        for _ in range(20):
            await producer.send("work", 1.0)

        async def has_grown() -> bool:
            return await shown() == {"now": 3, "min": 1, "max": 3}

        await eventually(has_grown, 20)
        event = command.events("workers.scaled")[-1]
        assert event["wanted"] == 3
        assert " jobs wait, " in event["why"]
        await fleet.emptied(40)


async def test_status_of_a_fixed_number_does_not_speak_of_a_range(fleet: Fleet, qcore: Qcore):
    command = fleet.start(processes=2)
    await command.ready(2)

    async def shown() -> str:
        return (await qcore("status")).out

    await eventually(lambda: is_in("running", shown), 10)
    assert "\n  processes " not in await shown()


async def is_in(text: str, shown: Callable[[], Awaitable[str]]) -> bool:
    return text in await shown()


@pytest.mark.parametrize("text", ["0..4", "8..1", "1..", "..4", "a..b", "1...4", "-1..4"])
async def test_range_that_is_none_is_refused(qcore: Qcore, text: str):
    said = await qcore("worker", TASKS, f"--processes={text}")
    assert said.code == 1
    assert f"--processes is '{text}': give MIN..MAX" in one_line(said)


async def test_range_beyond_what_is_allowed_is_refused(qcore: Qcore):
    said = await qcore("worker", TASKS, "--processes", "4..300")
    assert said.code == 1
    assert "the most of --processes is 300, allowed is 4 to 256" in one_line(said)
