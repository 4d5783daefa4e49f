"""A worker process as its supervisor holds it, at the moments around its end."""

import asyncio
import os
import select
import signal
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest
from structlog.testing import capture_logs

from qcore.runtime.ipc.messages import Beat
from qcore.runtime.ipc.orders import CHILD_CONFIG, DRAIN
from qcore.runtime.supervisor.health_monitor import HealthMonitor
from qcore.runtime.supervisor.worker_process import WorkerProcess
from qcore.runtime.supervisor.workers import Workers
from qcore.settings import BrokerConfig, SupervisorConfig, WorkerConfig
from tests.support.waiting import eventually

SLEEP = "import time; time.sleep(60)"
#: It is ready, and once more a while later.
BEATS = f"""
import json, os, time
fd = json.load(open(int(os.environ["{CHILD_CONFIG}"]), closefd=False))["beats_fd"]
os.lseek(int(os.environ["{CHILD_CONFIG}"]), 0, 0)
for pause_s in (0.5, 60):
    os.write(fd, b'{msgspec.json.encode(Beat(1, True, False, False, 1, 0, 0, 0.0)).decode()}\\n')
    time.sleep(pause_s)
"""
#: It is ready, has stopped, and takes long to end.
LAST = f"""
import json, os, time
fd = json.load(open(int(os.environ["{CHILD_CONFIG}"]), closefd=False))["beats_fd"]
os.write(fd, b'{msgspec.json.encode(Beat(1, True, True, True, 0, 0, 0, 0.0)).decode()}\\n')
time.sleep(60)
"""
GARBAGE = f"""
fd = json.load(open(int(os.environ["{CHILD_CONFIG}"]), closefd=False))["beats_fd"]
os.lseek(int(os.environ["{CHILD_CONFIG}"]), 0, 0)
os.write(fd, b'[17]\\n{{"pid": "many"}}\\n\\xff\\n')
"""


def start(code: str = SLEEP) -> WorkerProcess:
    broker, worker = BrokerConfig(url="redis://127.0.0.1:1"), WorkerConfig(queues=("any",))
    command = (sys.executable, "-c", code)
    return WorkerProcess("worker.1", broker, worker, command, place=0, on_beat=lambda beat: None)


def workers_of(child: WorkerProcess) -> Workers:
    nothing: Any = None
    config = SupervisorConfig(processes=1)
    workers = Workers(
        config, command=(), broker=nothing, crash_handler=nothing, stopping=asyncio.Event()
    )
    workers.living.append(child)
    return workers


def let_die(pid: int) -> None:
    while b") Z " not in Path(f"/proc/{pid}/stat").read_bytes():
        time.sleep(0.01)


async def test_beat_that_cannot_be_read_is_passed_over():
    """A task may write into any descriptor."""
    child = start("import json, os; " + GARBAGE + BEATS)
    await asyncio.wait_for(child.ready.wait(), 10)
    child.kill("the test is over")
    assert await child.wait() == -signal.SIGKILL


async def test_child_of_a_python_that_was_built_on_an_old_system_is_seen_to_end(
    monkeypatch: pytest.MonkeyPatch,
):
    for call in ("memfd_create", "pidfd_open"):
        monkeypatch.delattr(os, call, raising=False)
    child = start("import json, os; " + GARBAGE + BEATS)
    await asyncio.wait_for(child.ready.wait(), 10)
    child.kill("the test is over")
    await asyncio.wait_for(child.gone.wait(), 10)
    assert await child.wait() == -signal.SIGKILL


async def test_order_to_a_child_that_is_gone_goes_to_nobody_else():
    """The number of its pipe may be that of the connection to Redis by then."""
    child = start()
    number = child._orders_fd
    child.kill("the test is over")
    assert await child.wait() == -signal.SIGKILL
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(number)
    taken = [os.open(os.devnull, os.O_RDONLY) for _ in range(8)]  # that number too, very likely
    into, out = os.pipe()
    os.set_blocking(into, False)
    os.dup2(out, number)
    try:
        child.order(DRAIN)
        with pytest.raises(BlockingIOError):
            os.read(into, 1)
    finally:
        for fd in {into, out, number, *taken}:
            os.close(fd)


async def test_no_two_children_reach_their_limits_at_the_same_time():
    """Or all that were started together would be replaced together, on every machine."""
    children = [start() for _ in range(4)]
    for child in children:
        child.kill("a test")
        await child.wait()
    shares = {child.patience for child in children}
    assert len(shares) == 4
    assert 0.9 <= min(shares) <= max(shares) <= 1.1


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
async def test_dump_of_a_child_that_has_just_died_leaves_its_end_to_be_seen():
    child = start()
    child.kill("the test is over")
    let_die(child.process.pid)  # the loop must not see it yet
    child.dump_threads()
    assert await child.wait() == -signal.SIGKILL


async def test_child_that_is_killed_twice_was_killed_for_the_first_reason():
    """The first one is still on its way out when a deadline comes; who did it stays charged."""
    child = start()
    workers = workers_of(child)
    workers.kill(child, "kill timeout of 1 s", blames_jobs=True, culprits=["token"])
    child.catch_up = lambda: None  # type: ignore[method-assign]
    workers.kill(child, "shutdown timeout")
    assert (child.killed_for, child.culprits) == ("kill timeout of 1 s", {b"token"})
    assert await child.wait() == -signal.SIGKILL


async def test_child_that_has_spoken_is_not_deaf_although_its_supervisor_has_not_listened():
    child = start(BEATS)
    config = SupervisorConfig(processes=1)
    guard = HealthMonitor(workers_of(child), config, leave_s=30.0)
    await asyncio.wait_for(child.ready.wait(), 20)
    looking = asyncio.create_task(guard.run())
    await asyncio.sleep(0)
    child.silent_s = 2 * config.stall_s
    guard._warned.add(child)
    pipe = select.poll()
    pipe.register(child._beats_fd, select.POLLIN)
    pipe.poll()  # as if this process were stopped
    child._loop.remove_reader(child._beats_fd)
    catch_up, looks = child.catch_up, list[float]()

    def look() -> None:
        looks.append(child.silent_s)
        catch_up()

    child.catch_up = look  # type: ignore[method-assign]
    await eventually(lambda: len(looks) == 3)
    looking.cancel()
    assert not child.killed_for
    child.kill("the test is over")
    assert await child.wait() == -signal.SIGKILL


async def test_beats_that_nobody_can_use_are_said_once_and_end_nobody():
    """Of another version, perhaps: a guard that reads them must go on watching the others."""

    def refuse(beat: Beat) -> None:
        raise OverflowError("an age of inf")

    broker, worker = BrokerConfig(url="redis://127.0.0.1:1"), WorkerConfig(queues=("any",))
    code = f"import json, os; {GARBAGE.strip()}\n{BEATS}"
    with capture_logs() as lines:
        command = (sys.executable, "-c", code)
        child = WorkerProcess("worker.1", broker, worker, command, place=0, on_beat=refuse)
        await asyncio.wait_for(child.ready.wait(), 10)
        child.catch_up()
        child.kill("the test is over")
        assert await child.wait() == -signal.SIGKILL
    assert [line["event"] for line in lines] == ["beat.unreadable"]


async def test_child_that_has_said_its_last_is_not_called_deaf():
    """The interpreter takes a while to end, and may leave leases for its supervisor to look for."""
    child = start(LAST)
    await eventually(lambda: child.beat is not None and child.beat.stopped, 10)
    assert child.beat is not None
    assert child.beat.holding
    config = SupervisorConfig(processes=1, stall_s=0.05)
    monitor = HealthMonitor(workers_of(child), config, leave_s=60)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(monitor.run(), 0.5)
    assert not child.killed_for
    assert child.process.poll() is None
    child.kill("the test is over")
    assert await child.wait() == -signal.SIGKILL
