"""A worker process as its supervisor holds it, at the moments around its end."""

import os
import signal
import sys
import time
from pathlib import Path

import pytest

from qcore.config import BrokerConfig, WorkerConfig
from qcore.runtime.child import DRAIN
from qcore.runtime.child_process import ChildProcess

SLEEP = (sys.executable, "-c", "import time; time.sleep(60)")


def start() -> ChildProcess:
    broker, worker = BrokerConfig(url="redis://127.0.0.1:1"), WorkerConfig(queues=("any",))
    return ChildProcess("worker.1", broker, worker, SLEEP, place=0, on_beat=lambda beat: None)


def let_die(pid: int) -> None:
    while b") Z " not in Path(f"/proc/{pid}/stat").read_bytes():
        time.sleep(0.01)


async def test_order_to_a_child_that_is_gone_goes_to_nobody_else():
    """The number of its pipe may be that of the connection to Redis by then."""
    child = start()
    number = child._orders_fd
    child.kill("it is to be gone")
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


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
async def test_dump_of_a_child_that_has_just_died_leaves_its_end_to_be_seen():
    child = start()
    child.kill("it is to be gone")
    let_die(child.process.pid)  # the loop must not see it yet
    child.dump_threads()
    assert await child.wait() == -signal.SIGKILL
