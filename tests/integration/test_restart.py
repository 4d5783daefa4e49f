"""`qcore status` and `qcore restart`: what supervisors say, and how they are rolled."""

import asyncio
import json
import re
import signal
from pathlib import Path
from typing import Any

from qcore import JobHandle
from qcore.environment import host_name
from tests.support.commands import Command as Qcore
from tests.support.commands import Said, one_line
from tests.support.fleet import Command, Fleet, fleet_on
from tests.support.servers import Server
from tests.support.waiting import eventually


async def seen(qcore: Qcore, count: int) -> list[dict[str, Any]]:
    """Wait until so many supervisors are registered with ready workers; return them."""

    async def look() -> list[dict[str, Any]]:
        said = await qcore("status", "--json")
        found = supervisors(said)
        workers = [worker for view in found for worker in view["workers"]]
        is_up = workers and all(worker["state"] != "starting" for worker in workers)
        return found if len(found) == count and is_up else []

    return await eventually(look, 30)


def supervisors(said: Said) -> list[dict[str, Any]]:
    assert said.code in (0, 3, 4), said.err
    return Said(0, said.out, said.err).json["supervisors"]


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


async def done(qcore: Qcore, jobs: int) -> list[dict[str, Any]]:
    found = await seen(qcore, 1)
    return found if sum(worker["done"] for worker in found[0]["workers"]) == jobs else []


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


async def state_of_fleet(qcore: Qcore) -> str:
    return json.loads((await qcore("status", "--json")).out)["state"]


def all_new(command: Command, old: list[int]) -> bool:
    return len(command.workers()) == len(old) and not set(old) & set(command.workers())


async def test_restart_waits_until_every_supervisor_has_rolled_and_says_so(
    fleet: Fleet, qcore: Qcore
):
    commands = [fleet.start(processes=2, name=name) for name in ("one", "two")]
    old = [await command.ready(2) for command in commands]
    await seen(qcore, 2)
    said = await qcore("restart", "--wait", "--timeout", "25")
    assert (said.code, said.err) == (0, "")
    for command, name, pids in zip(commands, ("one", "two"), old, strict=True):
        assert f"{host_name()} {name} (pid {command.pid}): restarted" in said.out.splitlines()
        assert all_new(command, pids)
        assert command.least_working(2) == 2
        assert command.process.poll() is None
    for view in await seen(qcore, 2):
        assert view["roll"]["why"] == "restart"
        assert (view["roll"]["state"], view["roll"]["replaced"]) == ("done", 2)


async def test_restart_names_the_supervisor_that_is_stopped_and_it_obeys_when_it_is_back(
    fleet: Fleet, qcore: Qcore
):
    one, two = (fleet.start(processes=1, name=name) for name in ("one", "two"))
    old = [await command.ready(1) for command in (one, two)]
    await seen(qcore, 2)
    two.signal(signal.SIGSTOP)
    said = await qcore("restart", "--wait", "--timeout", "8")
    assert said.code == 1
    assert one_line(said).startswith(f"qcore: not restarted: {host_name()} two (pid {two.pid}): ")
    assert f"{host_name()} one (pid {one.pid}): restarted" in said.out
    assert all_new(one, old[0])
    assert two.workers() == old[1]
    two.signal(signal.SIGCONT)
    await eventually(lambda: all_new(two, old[1]), 20)
    assert not two.events("worker.killed")


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


async def test_supervisor_that_is_killed_is_forgotten_when_the_next_one_starts(
    fleet: Fleet, qcore: Qcore
):
    command = fleet.start(processes=1)
    await seen(qcore, 1)
    command.signal(signal.SIGKILL)
    assert await command.ended(5) == -signal.SIGKILL
    await eventually(lambda: not fleet.left_behind(), 10)
    again = fleet.start(processes=1)
    await again.ready(1)
    await eventually(lambda: only(qcore, again.pid), 10)


async def only(qcore: Qcore, pid: int) -> bool:
    return [view["pid"] for view in supervisors(await qcore("status", "--json"))] == [pid]


async def test_restart_by_queue_and_host_concerns_no_others(fleet: Fleet, qcore: Qcore):
    low = fleet.start(processes=1, name="low", queues="low")
    urgent = fleet.start(processes=1, name="urgent", queues="urgent,default")
    (old,) = await low.ready(1)
    (kept,) = await urgent.ready(1)
    await seen(qcore, 2)
    said = await qcore("restart", "--wait", "--queue", "low", "--host", host_name(), "--json")
    (entry,) = said.json["supervisors"]
    assert (entry["name"], entry["outcome"], entry["replaced"]) == ("low", "restarted", 1)
    assert all_new(low, [old])
    assert urgent.workers() == [kept]
    for words in (("--host", "elsewhere"), ("--queue", "processes")):
        said = await qcore("restart", *words)
        assert said.code == 4
        said_of = f"qcore: no supervisor {described(words)} is there to restart, namespace "
        assert one_line(said).startswith(said_of)
        assert one_line(said).endswith("; `qcore status` names all")
    assert not urgent.events("roll.started")


def described(words: tuple[str, str]) -> str:
    return {"--host": "on host", "--queue": "with queue"}[words[0]] + f" {words[1]}"


async def test_supervisor_that_starts_after_an_order_does_not_roll_for_it(
    fleet: Fleet, qcore: Qcore
):
    first = fleet.start(processes=1, name="first")
    await seen(qcore, 1)
    assert (await qcore("restart")).code == 0
    second = fleet.start(processes=1, name="second")
    await eventually(lambda: first.events("roll.finished"), 20)
    await seen(qcore, 2)
    beats = await beats_of(qcore, "second")
    await eventually(lambda: later(qcore, "second", beats + 4), 20)
    assert not second.events("roll.started")


async def beats_of(qcore: Qcore, name: str) -> float:
    (view,) = [v for v in supervisors(await qcore("status", "--json")) if v["name"] == name]
    return view["age_s"]


async def later(qcore: Qcore, name: str, age_s: float) -> bool:
    return await beats_of(qcore, name) > age_s


async def test_restart_with_exit_lets_supervisors_drain_and_end(fleet: Fleet, qcore: Qcore):
    command = fleet.start(processes=2)
    async with fleet.producer() as producer:
        await producer.send("work", 3.0)
        await eventually(fleet.runs, 20)
        await seen(qcore, 1)
        assert (await qcore("restart", "--exit")).code == 0
        assert await command.ended(15) == 0
    assert fleet.done() == {0}
    assert command.exit_codes() == [0, 0]


async def test_restart_with_exit_waits_until_somebody_has_started_them_anew(
    fleet: Fleet, qcore: Qcore
):
    old = fleet.start(processes=1, name="shop")
    await seen(qcore, 1)
    waiting = asyncio.ensure_future(qcore("restart", "--exit", "--wait", "--timeout", "30"))
    assert await old.ended(15) == 0
    assert (await qcore("status")).code == 4
    assert not waiting.done()
    new = fleet.start(processes=1, name="shop")
    said = await waiting
    assert (said.code, said.err) == (0, "")
    assert said.out.splitlines()[-1] == f"{host_name()} shop (pid {old.pid}): back"
    assert new.workers()


async def test_restart_with_exit_names_those_that_nobody_starts_anew(fleet: Fleet, qcore: Qcore):
    command = fleet.start(processes=1, name="shop")
    await seen(qcore, 1)
    said = await qcore("restart", "--exit", "--wait", "--timeout", "8")
    assert said.code == 1
    assert one_line(said) == (
        f"qcore: not restarted: {host_name()} shop (pid {command.pid}): left, and nobody started "
        "it anew"
    )
    assert said.out.splitlines()[-1] == f"{host_name()} shop (pid {command.pid}): left"


async def test_restart_to_code_that_does_not_start_says_so(fleet: Fleet, qcore: Qcore):
    fleet.write_module("shop")
    command = fleet.start(processes=2, app="shop:app")
    old = await command.ready(2)
    await seen(qcore, 1)
    fleet.write_module("shop", "raise RuntimeError('a bad deploy')")
    said = await qcore("restart", "--wait")
    assert said.code == 1
    why = "importing shop failed: RuntimeError: a bad deploy"
    assert f": failed, 0 of 2 workers are new: {why} (" in one_line(said)
    assert one_line(said).endswith("shop.py, line 2)")
    (refused,) = command.events("worker.refused")
    assert "RuntimeError: a bad deploy" in refused["error"]
    assert "raise RuntimeError('a bad deploy')" in refused["exception"]
    assert refused["worker"] == "worker.1"
    assert sorted(command.workers()) == sorted(old)
    said = await qcore("status")
    assert " is replaced, " not in said.out
    assert said.out.splitlines()[-1].startswith(
        f"! {host_name()} worker (pid {command.pid}) has 0 of 2 new workers after restart, and "
        f"the others stay: mend what failed, then `qcore restart`: {why} ("
    )


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


async def test_supervisor_that_was_cut_off_registers_and_obeys_when_redis_is_back(
    tmp_path: Path, own_server: Server, environment: dict[str, str], qcore: Qcore
):
    async def ask(*words: str) -> Said:
        return await qcore(*words, QCORE_URL=own_server.url, QCORE_NAMESPACE="cut")

    own_server.options["appendonly"] = "yes"
    own_server.kill()
    own_server.start()
    with fleet_on(tmp_path, own_server.url, "cut") as fleet:
        command = fleet.start(processes=1)
        old = await command.ready(1)
        await seen(ask, 1)
        command.signal(signal.SIGSTOP)
        assert (await ask("restart")).code == 0
        own_server.kill()
        command.signal(signal.SIGCONT)
        await eventually(lambda: command.events("registry.lost"), 20)
        own_server.start()
        await eventually(lambda: all_new(command, old), 30)
        assert len(command.events("registry.regained")) == len(command.events("registry.lost"))


async def test_supervisor_stops_in_time_when_redis_goes_away_with_the_order(
    tmp_path: Path, own_server: Server
):
    with fleet_on(tmp_path, own_server.url, "gone") as fleet:
        command = fleet.start(processes=1, shutdown_timeout=4)
        await command.ready(1)
        own_server.signal(signal.SIGSTOP)
        command.signal()
        assert await command.ended(7) == 0
        own_server.signal(signal.SIGCONT)
