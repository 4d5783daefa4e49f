"""What a supervisor tells the service manager that started it, over a datagram socket."""

import asyncio
import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from itertools import pairwise

import msgspec
import pytest

from qcore.environment import ServiceManager
from qcore.model.fleet import SupervisorState, SupervisorView, WorkerState, WorkerView
from qcore.runtime.supervisor import systemd
from qcore.runtime.supervisor.systemd import Notifier
from tests.support.fleet import Fleet
from tests.support.service_manager import Manager
from tests.support.waiting import eventually


@pytest.fixture
def manager(fleet: Fleet) -> Iterator[Manager]:
    with tempfile.TemporaryDirectory() as folder:  # the path of a socket must be short
        manager = Manager(f"{folder}/s")
        fleet.env["NOTIFY_SOCKET"] = f"{folder}/s"
        yield manager
        manager.close()


NAMES = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")


def without_status(lines: list[str]) -> list[str]:
    return [line.partition("=")[0] for line in lines if not line.startswith("STATUS=")]


async def test_manager_hears_of_a_whole_life(fleet: Fleet, manager: Manager):
    gate = fleet.folder / "gate"
    fleet.write_module(
        "shop",
        f"""
import pathlib, sys, time
while "worker" in sys.argv and not pathlib.Path({str(gate)!r}).exists():
    time.sleep(0.05)
""",
    )
    command = fleet.start(processes=2, app="shop:app")
    await eventually(lambda: "STATUS=running, 0 of 2 workers ready" in manager.heard(), 20)
    assert without_status(manager.heard()) == []
    gate.touch()
    await eventually(lambda: "READY=1" in manager.heard(), 30)
    await command.ready(2)
    await eventually(lambda: manager.heard()[-1] == "STATUS=running, 2 of 2 workers ready")

    command.signal(signal.SIGHUP)
    await eventually(lambda: manager.heard()[-1] == "STATUS=running, 2 of 2 workers ready", 30)
    await eventually(lambda: manager.heard().count("READY=1") == 2, 30)
    assert without_status(manager.heard()) == ["READY", "RELOADING", "MONOTONIC_USEC", "READY"]
    assert "STATUS=rolling, 1 of 2 workers are new" in manager.heard()

    async with fleet.producer() as producer:
        await producer.send("work", 1.0)
        await eventually(fleet.runs)
        command.signal()
        await eventually(lambda: "STOPPING=1" in manager.heard())
        assert command.process.poll() is None
        assert await command.ended(10) == 0
    assert without_status(manager.heard())[4:] == ["STOPPING"]
    assert manager.alive() == 0


async def test_reload_that_fails_is_over_too(fleet: Fleet, manager: Manager):
    fleet.write_module("shop")
    command = fleet.start(processes=1, app="shop:app")
    await command.ready(1)
    await eventually(lambda: "READY=1" in manager.heard())
    fleet.write_module("shop", "raise RuntimeError('a bad deploy')")
    command.signal(signal.SIGHUP)
    await eventually(lambda: manager.heard().count("READY=1") == 2, 20)
    assert without_status(manager.heard()) == ["READY", "RELOADING", "MONOTONIC_USEC", "READY"]
    assert len(command.events("roll.failed")) == 1


async def test_signs_of_life_come_in_time_and_end_when_the_supervisor_hangs(
    fleet: Fleet, manager: Manager
):
    fleet.env["WATCHDOG_USEC"] = "1000000"
    command = fleet.start(processes=1)
    await command.ready(1)
    await eventually(lambda: manager.alive() > 3, 20)
    command.signal(signal.SIGSTOP)
    before = manager.alive()
    await asyncio.sleep(1.5)  # which is longer than the limit
    assert manager.alive() - before <= 1  # one may have been under way
    command.signal(signal.SIGCONT)
    await eventually(lambda: manager.alive() > before + 1)


async def test_watchdog_of_another_process_is_not_ours(fleet: Fleet, manager: Manager):
    fleet.env["WATCHDOG_USEC"] = "1000000"
    fleet.env["WATCHDOG_PID"] = str(os.getpid())
    command = fleet.start(processes=1)
    await command.ready(1)
    command.signal(signal.SIGHUP)
    await eventually(lambda: command.events("roll.finished"), 30)
    assert manager.alive() == 0


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has abstract sockets")
async def test_manager_may_have_an_abstract_socket(fleet: Fleet):
    manager = Manager(f"\0{fleet.mark}")
    fleet.env["NOTIFY_SOCKET"] = f"@{fleet.mark}"
    fleet.start(processes=1)
    await eventually(lambda: "READY=1" in manager.heard(), 20)
    manager.close()


async def test_workers_cannot_speak_to_the_manager(fleet: Fleet, manager: Manager):
    fleet.env |= {"WATCHDOG_USEC": "1000000", "WATCHDOG_PID": ""}
    fleet.write_module(
        "shop", f"import os\nprint('sees:', [n for n in {NAMES} if n in os.environ])"
    )
    command = fleet.start(processes=1, app="shop:app")
    await command.ready(1)
    assert "sees: []" in command.log.read_text()


VIEW = SupervisorView(
    host="web1",
    name="shop",
    pid=7,
    state=SupervisorState.RUNNING,
    queues=("default",),
    age_s=1.0,
    workers=(WorkerView(name="shop.1", pid=8, state=WorkerState.RUNNING),),
)


def test_worker_that_is_quiet_is_ready_too():
    worker = WorkerView(name="shop.1", pid=8, state=WorkerState.QUIET)
    view = msgspec.structs.replace(VIEW, state=SupervisorState.QUIET, workers=(worker,))
    with tempfile.TemporaryDirectory() as folder:
        manager = Manager(f"{folder}/s")
        Notifier(ServiceManager(f"{folder}/s", None), lambda: view).look()
        assert manager.heard() == ["READY=1", "STATUS=quiet, 1 of 1 worker ready"]
        manager.close()


def test_manager_that_comes_late_hears_what_it_has_missed():
    with tempfile.TemporaryDirectory() as folder:
        notifier = Notifier(ServiceManager(f"{folder}/s", None), lambda: VIEW)
        notifier.look()
        manager = Manager(f"{folder}/s")
        notifier.look()
        assert manager.heard() == ["READY=1", "STATUS=running, 1 of 1 worker ready"]
        manager.close()


async def test_signs_of_life_are_at_most_half_a_limit_apart(monkeypatch: pytest.MonkeyPatch):
    loop, now, told_at = asyncio.get_running_loop(), 100.0, list[float]()
    done = asyncio.Event()

    async def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds
        if now > 160:
            done.set()
            await asyncio.Event().wait()

    monkeypatch.setattr(systemd.anyio, "sleep", sleep)
    with tempfile.TemporaryDirectory() as folder:
        manager = Manager(f"{folder}/s")
        notifier = Notifier(ServiceManager(f"{folder}/s", 3.0), lambda: VIEW)
        tell = notifier._tell

        def note(text: str) -> bool:
            if text == "WATCHDOG=1":
                told_at.append(now)
            return tell(text)

        monkeypatch.setattr(notifier, "_tell", note)
        monkeypatch.setattr(loop, "time", lambda: now)
        running = asyncio.ensure_future(notifier.run())
        await done.wait()
        monkeypatch.undo()
        running.cancel()
        manager.close()
    gaps = [later - earlier for earlier, later in pairwise(told_at)]
    assert len(gaps) > 30
    assert max(gaps) <= 1.5


async def test_manager_that_is_gone_is_no_harm(fleet: Fleet):
    fleet.env["NOTIFY_SOCKET"] = "/nowhere/at/all"
    command = fleet.start(processes=1)
    await command.ready(1)
    command.signal()
    assert await command.ended(10) == 0
    assert len(command.events("manager.lost")) == 1
