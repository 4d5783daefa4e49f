"""What an idle process holds in memory, and which libraries it does without."""

import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.fleet import Command, Fleet
from tests.support.waiting import eventually

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

#: Resident memory, in MB of 10^6 bytes. Measured: 52, 41 and 20; of these the interpreter takes 9,
#: asyncio 6 to 11 (4 of them ssl), redis 10, and in the supervisor the command line 14.
SUPERVISOR_MB, WORKER_MB, POOL_MB = 56, 45, 23
#: What nobody needs who runs for long: what the command line and structlog bring, and the demo.
HEAVY = {"typer", "rich", "pydantic", "markdown_it", "structlog", "qcore_cli.demo.run"}
MISSING = {
    "supervisor": {"structlog", "uvloop", "shop", "qcore.runtime.worker.worker"}
    | {"qcore.runtime.pool"},
    "worker": HEAVY | {"qcore.runtime.supervisor", "qcore.runtime.pool"},
    "pool": HEAVY
    | {"redis", "hiredis", "asyncio", "ssl", "anyio", "uvloop", "qcore.broker.redis"}
    | {"qcore.runtime.supervisor", "qcore.runtime.worker.worker"},
}
TASKS = """
import os, sys

@app.task(name="in_worker")
async def in_worker() -> list[str]:
    return [str(os.getpid()), *sys.modules]

@app.task(name="in_pool", run_in="process")
def in_pool() -> list[str]:
    return [str(os.getpid()), *sys.modules]
"""
#: Of every process: at its end it writes down what it has imported, if anything ends it well.
AT_EXIT = """
import atexit, os, sys

@atexit.register
def _():
    with open(os.path.join({folder!r}, str(os.getpid())), "w") as file:
        file.write(" ".join(sys.modules))
"""


def rss_mb(pid: str | int) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    (kb,) = (line.split()[1] for line in lines if line.startswith("VmRSS:"))
    return int(kb) * 1024 / 1e6


def imported(modules: list[str], kind: str) -> set[str]:
    """Return what a process has imported of what it should do without."""
    return MISSING[kind].intersection(modules)


async def told(fleet: Fleet, name: str) -> list[str]:
    """Return the pid and the modules of the process in which a task runs."""

    async def declared() -> list[str]: ...

    async with fleet.producer() as producer:
        task: Any = producer.app.task(name=name)(declared)
        return await (await task.enqueue()).result(timeout=20)


async def started(fleet: Fleet) -> Command:
    fleet.write_tasks("shop", TASKS)
    fleet._write("sitecustomize", AT_EXIT.format(folder=str(fleet.folder)))
    command = fleet.start(processes=1, lease=30, app="shop:app")
    await command.ready(1)
    return command


async def test_processes_carry_what_they_need_and_no_more(fleet: Fleet):
    command = await started(fleet)
    worker, *its_modules = await told(fleet, "in_worker")
    assert imported(its_modules, "worker") == set()
    assert rss_mb(command.pid) < SUPERVISOR_MB
    assert rss_mb(worker) < WORKER_MB

    pool, *its_modules = await told(fleet, "in_pool")
    assert imported(its_modules, "pool") == set()
    assert rss_mb(pool) < POOL_MB

    command.signal()
    assert await command.ended(20) == 0
    text = await eventually(lambda: (fleet.folder / str(command.pid)).read_text())
    assert "qcore.runtime.supervisor.supervisor" in text
    assert imported(text.split(), "supervisor") == set()
