"""Workers that do not come up."""

import time

import pytest

from qcore.runtime.supervisor.supervisor import EXIT_BOOT_LOOP
from tests.support.fleet import Fleet
from tests.support.waiting import eventually

BROKEN = "tests.support.broken_apps"
FAILS_ONCE = """
import os, pathlib
flag = pathlib.Path({!r})
if flag.exists():
    flag.unlink()
    os._exit(3)
"""


async def test_failures_to_boot_count_only_in_a_row(fleet: Fleet):
    flag = fleet.folder / "flag"
    fleet.write_module("shop", FAILS_ONCE.format(str(flag)))
    command = fleet.start_with(processes=1, app="shop:app", boot_failures=2)
    for time_to_fail in (1, 2):
        (pid,) = await command.ready(1)
        flag.touch()
        fleet.kill_worker(pid)
        await eventually(lambda n=time_to_fail: len(command.events("worker.ready")) > n, 20)
    assert not command.events("supervisor.gave_up")


@pytest.mark.parametrize("name", ["raising", "exiting"])
async def test_workers_that_never_come_up_end_the_supervisor(fleet: Fleet, name: str):
    command = fleet.start(processes=1, app=f"{BROKEN}:{name}")
    assert await command.ended(30) == EXIT_BOOT_LOOP == 70
    assert len(command.events("worker.spawned")) == 5
    assert len(command.events("supervisor.gave_up")) == 1
    if name == "raising":
        assert "the database is not there" in command.log.read_text()


async def test_worker_that_hangs_at_boot_is_killed_at_the_ready_deadline(fleet: Fleet):
    command = fleet.start_with(
        processes=1, app=f"{BROKEN}:hanging", boot_failures=2, ready_timeout_s=1.0
    )
    began = time.monotonic()
    assert await command.ended(20) == EXIT_BOOT_LOOP
    assert time.monotonic() - began >= 2.0
    assert len(command.events("worker.killed")) == 2


async def test_worker_that_cannot_be_configured_ends_the_supervisor_at_once(fleet: Fleet):
    command = fleet.start_with(processes=2, app="tests.support.broken_apps:nothing")
    assert await command.ended(20) == 78
    assert len(command.events("worker.spawned")) == 2
    assert "'nothing' in tests.support.broken_apps does not exist" in command.log.read_text()
