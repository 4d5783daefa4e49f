"""What `qcore status` shows of a fleet."""

import re
import signal
from typing import Any

from qcore import JobHandle
from qcore.environment import host_name
from tests.support.commands import Command as Qcore
from tests.support.fleet import Fleet
from tests.support.status import done, seen, state_of_fleet, supervisors
from tests.support.waiting import eventually


async def test_status_without_supervisors_is_code_4(qcore: Qcore):
    said = await qcore("status")
    assert said.code == 4
    assert said.out.startswith("No supervisor runs in namespace ")
    said = await qcore("status", "--json")
    assert (said.code, said.err) == (4, "")
    assert supervisors(said) == []


async def test_status_shows_workers_and_what_they_run(fleet: Fleet, qcore: Qcore):
    command = fleet.start(processes=2, name="shop", queues="default,low")
    pids = await command.ready(2)
    async with fleet.producer() as producer:
        work = producer.task("work")
        jobs = [await work.enqueue(fleet.history.number(), 60.0) for _ in range(10)]

        async def running() -> list[dict[str, Any]]:
            found = await seen(qcore, 1)
            return found if sum(w["running"] for w in found[0]["workers"]) == 10 else []

        (view,) = await eventually(running, 20)
        assert (view["host"], view["name"], view["pid"]) == (host_name(), "shop", command.pid)
        assert (view["state"], view["silent"]) == ("running", False)
        assert view["queues"] == ["default", "low"]
        assert [worker["name"] for worker in view["workers"]] == ["shop.1", "shop.2"]
        assert sorted(worker["pid"] for worker in view["workers"]) == sorted(pids)
        said = await qcore("status")
        refs = said.out.split()
        for worker in view["workers"]:
            assert worker["state"] == "running"
            assert worker["rss_bytes"] > 10_000_000
            assert len(worker["code"]) == 8
            assert len(worker["oldest"]) == min(3, worker["running"])
            for job in worker["oldest"]:
                assert job["task"] == "tests.support.fleet_tasks.work"
                assert f"default/{job['id']}" in refs
                assert 0 < job["age_s"] < 60
        assert len({worker["code"] for worker in view["workers"]}) == 1
        assert said.code == 0
        assert f"{host_name()}  shop  pid {command.pid}  running" in said.out
        assert "tests.support.fleet_tasks.work" in said.out
        for job in jobs:
            await job.cancel()
        await fleet.emptied(20)
    (view,) = await eventually(lambda: done(qcore, 10), 10)
    command.signal()
    assert await command.ended(10) == 0
    assert (await qcore("status")).code == 4


TASKS = """
import asyncio
from qcore import Retry

@app.task(name="waits")
async def waits() -> None:
    await asyncio.sleep(600)

@app.task(name="tries", retry=Retry(max_attempts=3, backoff=0))
async def tries() -> None:
    raise LookupError("no")
"""


async def test_job_that_runs_says_since_when_and_where(fleet: Fleet, qcore: Qcore):
    fleet.write_tasks("shop", TASKS)
    command = fleet.start(processes=1, app="shop:app", name="shop")
    (pid,) = await command.ready(1)
    async with fleet.producer() as producer:

        async def waits() -> None: ...

        task = producer.app.task(name="waits")(waits)
        # a beat names three; those that it does not name were claimed later
        jobs = [await task.enqueue() for _ in range(3)]

        async def named() -> bool:
            (view,) = await seen(qcore, 1)
            return len(view["workers"][0]["oldest"]) == 3

        await eventually(named, 20)
        jobs.append(await task.enqueue())
        await eventually(lambda: _status(jobs[-1], "active"))
        shown = [await qcore("jobs", "show", job.ref) for job in jobs]
        place = f"on {host_name()}, in shop.1 (pid {pid}), for "
        for said in shown[:3]:
            (line,) = [line for line in said.out.splitlines() if line.startswith("runs ")]
            assert re.fullmatch(rf"runs +{re.escape(place)}[\d.]+ (s|min)", line)
        (line,) = [line for line in shown[3].out.splitlines() if line.startswith("runs ")]
        assert re.fullmatch(rf"runs +{re.escape(place)}less than [\d.]+ (s|min)", line)
        told = [(await qcore("jobs", "show", job.ref, "--json")).json["runs_on"] for job in jobs]
        assert all(on["age_s"] > 0 and on["max_s"] is None for on in told[:3])
        assert told[3]["age_s"] is None
        assert told[3]["max_s"] > 0


async def _status(job: JobHandle[Any], status: str) -> bool:
    return await job.status() == status


async def test_done_counts_jobs_and_not_their_runs(fleet: Fleet, qcore: Qcore):
    fleet.write_tasks("shop", TASKS)
    command = fleet.start(processes=1, app="shop:app")
    await command.ready(1)
    async with fleet.producer() as producer:

        async def tries() -> None: ...

        job = await producer.app.task(name="tries")(tries).enqueue()
        await eventually(lambda: _status(job, "dead"), 20)

    async def counts() -> list[int]:
        (view,) = await seen(qcore, 1)
        (worker,) = view["workers"]
        return [worker["done"], worker["settled"]] if worker["settled"] == 3 else []

    assert await eventually(counts, 20) == [1, 3]


async def test_status_of_quiet_workers_is_code_3(fleet: Fleet, qcore: Qcore):
    command = fleet.start(processes=2)
    await command.ready(2)
    command.signal(signal.SIGTSTP)

    async def paused() -> bool:
        return (await qcore("status")).code == 3

    await eventually(paused, 20)
    assert await state_of_fleet(qcore) == "paused"
    command.signal(signal.SIGCONT)

    async def running() -> bool:
        return (await qcore("status")).code == 0

    await eventually(running, 20)


async def test_status_when_all_queues_are_paused_is_code_3(fleet: Fleet, qcore: Qcore):
    command = fleet.start(processes=1, queues="default,low")
    await command.ready(1)
    await seen(qcore, 1)
    await qcore("pause", "default")
    assert (await qcore("status")).code == 0
    await qcore("pause", "low")
    said = await qcore("status")
    assert said.code == 3
    assert said.out.startswith("paused: 1 supervisor, 1 worker; ")
    await qcore("resume", "--all")
    assert (await qcore("status")).code == 0


async def test_status_of_a_supervisor_that_gets_no_worker_ready_is_code_4(
    fleet: Fleet, qcore: Qcore
):
    fleet.write_module("shop", "import time; time.sleep(3600)")
    fleet.start_with(processes=1, app="shop:app")

    async def starting() -> bool:
        return await state_of_fleet(qcore) == "starting"

    await eventually(starting, 20)
    assert (await qcore("status")).code == 4


async def test_silent_supervisor_shows_as_such(fleet: Fleet, qcore: Qcore):
    one, two = (fleet.start(processes=1, name=name) for name in ("one", "two"))
    await seen(qcore, 2)
    two.signal(signal.SIGSTOP)

    async def silent() -> list[str]:
        said = await qcore("status")
        assert said.code == 0
        return [line for line in said.out.splitlines() if "silent for" in line]

    (line,) = await eventually(silent, 20)
    assert line.startswith(f"{host_name()}  two  pid {two.pid}  silent for 1")
    assert one.workers()
    two.signal(signal.SIGCONT)


ACT = """
@app.task
async def act() -> str:
    return {!r}
"""


async def test_workers_with_another_code_show_another_digest(fleet: Fleet, qcore: Qcore):
    """The modules of the tasks count, and those beside them."""
    fleet.write_tasks("shop", ACT.format("old"))
    command = fleet.start(processes=1, app="shop:app", queues="default")
    (before,) = await seen(qcore, 1)
    fleet.write_tasks("shop", ACT.format("new"))
    command.signal(signal.SIGHUP)
    await eventually(lambda: command.events("roll.finished"), 20)

    async def changed() -> bool:
        (view,) = await seen(qcore, 1)
        return view["workers"][0]["code"] != before["workers"][0]["code"]

    await eventually(changed, 10)
