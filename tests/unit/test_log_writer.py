"""Log lines on descriptors that are full, gone, broken or not read."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress

import pytest

from qcore_cli.log_writer import _ROOM_BYTES, LogWriter
from tests.support.waiting import eventually

LINE = b"x" * 999 + b"\n"


def regained(dropped: int) -> bytes:
    return b"dropped %d\n" % dropped


class Pipe:
    def __init__(self) -> None:
        self.reader, fd = os.pipe()
        self.writer = LogWriter(fd, regained)
        os.close(fd)
        os.set_blocking(self.reader, False)
        self._read = b""

    def read(self) -> bytes:
        with suppress(BlockingIOError):
            self._read += os.read(self.reader, 1 << 20)
        return self._read


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    pipe = Pipe()
    yield pipe
    os.set_blocking(pipe.reader, True)
    pipe.writer._lines.put(None)
    os.close(pipe.reader)


def test_line_is_out_when_write_returns(pipe: Pipe):
    for n in range(100):
        pipe.writer.write(b"%d\n" % n)
        assert pipe.read().endswith(b"%d\n" % n)


async def test_reader_that_stops_holds_nobody_up_and_gets_the_rest_later(pipe: Pipe):
    """More than fits the pipe and the queue: a blocking write would never come back."""
    count = 4 * _ROOM_BYTES // len(LINE)
    for _ in range(count):
        pipe.writer.write(LINE)
    assert pipe.writer.dropped > 0
    assert pipe.writer._waiting_bytes <= _ROOM_BYTES
    await eventually(lambda: pipe.read().endswith(b"\n") and b"dropped" in pipe.read())
    *lines, last = pipe.read().splitlines()
    assert set(lines) == {LINE.strip()}
    assert last == b"dropped %d" % (count - len(lines))
    pipe.writer.write(b"well again\n")
    assert pipe.read().endswith(b"well again\n")


async def test_lines_of_threads_stay_whole(pipe: Pipe):
    def log(name: bytes) -> None:
        for _ in range(100):
            pipe.writer.write(name * 100 + b"\n")

    threads = [threading.Thread(target=log, args=(name,)) for name in (b"a", b"b", b"c")]
    for thread in threads:
        thread.start()
    await eventually(lambda: pipe.read().count(b"\n") == 300)
    for thread in threads:
        thread.join()
    assert set(pipe.read().splitlines()) == {b"a" * 100, b"b" * 100, b"c" * 100}


def test_reader_that_is_gone_costs_lines_only(pipe: Pipe):
    other = os.dup(pipe.reader)
    os.dup2(os.open(os.devnull, os.O_RDONLY), pipe.reader)
    os.close(other)
    for _ in range(10):
        pipe.writer.write(LINE)
    assert pipe.writer.dropped == 10


@pytest.mark.skipif(sys.platform != "linux", reason="/dev/full is a full disk")
async def test_disk_that_was_full_is_said_once_when_there_is_room_again(pipe: Pipe):
    well, full = os.dup(pipe.writer._fd), os.open("/dev/full", os.O_WRONLY)
    os.dup2(full, pipe.writer._fd)
    os.close(full)
    for _ in range(7):
        pipe.writer.write(LINE)
    os.dup2(well, pipe.writer._fd)
    os.close(well)
    pipe.writer.write(b"one\n")
    await eventually(lambda: pipe.read() == b"one\ndropped 7\n")
    pipe.writer.write(b"two\n")
    assert pipe.read() == b"one\ndropped 7\ntwo\n"


async def test_descriptor_that_somebody_made_non_blocking_loses_nothing(pipe: Pipe):
    os.set_blocking(pipe.writer._fd, False)
    for _ in range(200):
        pipe.writer.write(LINE)
    await eventually(lambda: pipe.read().count(b"\n") == 200)


PROGRAM = """
import os, sys
from qcore_cli.log_writer import LogWriter
writer = LogWriter(2, lambda dropped: b"")
writer.write(b"first\\n")
if not (pid := os.fork()):
    writer.write(b"a fork\\n")
    os._exit(0)
os.waitpid(pid, 0)
writer.write(b"last words\\n")
{end}
"""


@pytest.mark.parametrize(
    "end", ["", "os._exit(3)", "os.kill(os.getpid(), 9)", "raise SystemExit", "os.abort()"]
)
def test_last_words_are_out_however_the_process_ends(end: str):
    words = [sys.executable, "-W", "ignore", "-X", "faulthandler=0", "-c", PROGRAM.format(end=end)]
    said = subprocess.run(words, stderr=subprocess.PIPE, timeout=30, check=False)
    assert said.stderr.startswith(b"first\na fork\nlast words\n")


def test_signal_handler_may_log_while_its_thread_logs():
    program = """
import signal
from qcore_cli.log_writer import LogWriter
writer = LogWriter(2, lambda dropped: b"")
def ring(*_):
    writer.write(b"alarm\\n")
    signal.setitimer(signal.ITIMER_REAL, 0.001)
signal.signal(signal.SIGALRM, ring)
signal.setitimer(signal.ITIMER_REAL, 0.001)
for _ in range(500):
    writer.write(b"line\\n")
signal.signal(signal.SIGALRM, signal.SIG_IGN)
"""
    words = [sys.executable, "-c", program]
    said = subprocess.run(words, stderr=subprocess.PIPE, timeout=30, check=True)
    assert said.stderr.count(b"line\n") == 500
