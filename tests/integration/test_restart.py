"""`qcore status` and `qcore restart`: what supervisors say, and how they are rolled."""

import asyncio
import signal
from pathlib import Path

from qcore.environment import host_name
from tests.support.commands import Command as Qcore
from tests.support.commands import Said, one_line
from tests.support.fleet import Command, Fleet, fleet_on
from tests.support.servers import Server
from tests.support.status import beats_of, later, only, seen
from tests.support.waiting import eventually


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
