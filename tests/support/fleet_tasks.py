"""The app of the fault tests: every handler writes down when it starts and when it ends."""

import asyncio
import ctypes
import functools
import os
import re
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from qcore import App, Context, GiveUp, Retry, Unique

#: The environment variable that names the file to which every run is appended.
JOURNAL = "QCORE_TEST_JOURNAL"

app = App(queues=("urgent", "default", "low", "processes"))

ONCE = Retry(max_attempts=1)


@functools.cache
def _journal(path: str) -> int:
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)


def _note(n: int, run: str, attempt: int, worker_pid: int, what: str) -> None:
    line = f"{n} {run} {attempt} {worker_pid} {what} {time.monotonic():.6f}\n"
    os.write(_journal(os.environ[JOURNAL]), line.encode())


def _has_run(n: int) -> bool:
    journal = Path(os.environ[JOURNAL])
    lines = journal.read_text().splitlines() if journal.exists() else []
    return any(line.startswith(f"{n} ") for line in lines)


@contextmanager
def written_down(ctx: Context, n: int, *, in_process: bool = False) -> Iterator[None]:
    """Append `start`, then `end`; no `end` when the block raises or its process dies."""
    run, worker_pid = os.urandom(8).hex(), os.getppid() if in_process else os.getpid()
    _note(n, run, ctx.attempt, worker_pid, "start")
    yield
    _note(n, run, ctx.attempt, worker_pid, "end")


@app.task(retry=ONCE)
async def work(ctx: Context, n: int, seconds: float = 0.0) -> None:
    with written_down(ctx, n):
        await asyncio.sleep(seconds)


@app.task(retry=ONCE)
def work_in_thread(ctx: Context, n: int, seconds: float = 0.0) -> None:
    with written_down(ctx, n):
        time.sleep(seconds)


@app.task(retry=ONCE, run_in="process")
def work_in_process(ctx: Context, n: int, seconds: float = 0.0) -> None:
    with written_down(ctx, n, in_process=True):
        time.sleep(seconds)


@app.task(retry=ONCE, run_in="process", queue="processes")
def work_in_process_only(ctx: Context, n: int, seconds: float = 0.0) -> None:
    """The only task of its queue: a worker knows before a claim that it needs the pool."""
    with written_down(ctx, n, in_process=True):
        time.sleep(seconds)


@app.task(retry=ONCE, unique=Unique("key"))
async def keyed(ctx: Context, n: int, key: str, seconds: float) -> None:
    with written_down(ctx, n):
        await asyncio.sleep(seconds)


@app.task(retry=ONCE, unique=Unique("n"))
async def work_once(ctx: Context, n: int, seconds: float = 0.0) -> None:
    with written_down(ctx, n):
        await asyncio.sleep(seconds)


@app.task(retry=ONCE)
async def echo(ctx: Context, n: int) -> int:
    with written_down(ctx, n):
        return n


@app.task(retry=ONCE)
async def carry(ctx: Context, n: int, seconds: float, ballast: str) -> None:
    with written_down(ctx, n):
        await asyncio.sleep(seconds)


@app.task(retry=ONCE)
async def hold(ctx: Context, n: int, gate: str) -> None:
    """Run until a file of this name is there: its worker has something in hand till then."""
    with written_down(ctx, n):
        while not os.path.exists(gate):  # noqa: ASYNC110, ASYNC240, PTH110 - another process opens it
            await asyncio.sleep(0.01)


@app.task(retry=Retry(max_attempts=2, backoff=0.2))
async def fail_once(ctx: Context, n: int, text: str) -> None:
    if ctx.attempt == 1:
        raise ValueError(text)
    with written_down(ctx, n):
        pass


# -- those that do not stop when they are told to ----------------------------------------------


@app.task(retry=ONCE)
async def swallow_cancellation(ctx: Context, n: int, seconds: float) -> None:
    end = time.monotonic() + seconds
    with written_down(ctx, n):
        while time.monotonic() < end:
            try:
                await asyncio.sleep(end - time.monotonic())
            except asyncio.CancelledError:
                continue


@app.task(exclusive=True)
async def swallow_alone(ctx: Context, n: int, seconds: float) -> None:
    await swallow_cancellation.function(ctx, n, seconds)


@app.task(retry=ONCE)
async def block(ctx: Context, n: int, seconds: float) -> None:
    """After a while hold the loop, so that the process hears of nothing; once only."""
    ran = _has_run(n)
    with written_down(ctx, n):
        await asyncio.sleep(1.2)
        if not ran:
            _note(n, "-", ctx.attempt, os.getpid(), "blocks")
            time.sleep(seconds)  # noqa: ASYNC251 - that is the point


@app.task(retry=ONCE)
async def block_at_once(ctx: Context, n: int, seconds: float) -> None:
    with written_down(ctx, n):
        time.sleep(seconds)  # noqa: ASYNC251 - that is the point


@app.task(retry=ONCE)
async def block_in_child(ctx: Context, n: int, seconds: float) -> None:
    async def hold() -> None:
        time.sleep(seconds)  # noqa: ASYNC251 - that is the point

    with written_down(ctx, n):
        async with asyncio.TaskGroup() as group:
            group.create_task(hold())


@app.task(retry=ONCE)
async def block_for_ever(ctx: Context, n: int) -> None:
    with written_down(ctx, n):
        time.sleep(3600)  # noqa: ASYNC251 - that is the point


@app.task(retry=ONCE)
async def hold_interpreter(ctx: Context, n: int) -> None:
    """Not even another thread of the process goes on."""
    with written_down(ctx, n):
        re.match(r"(a+)+$", "a" * 64 + "b")  # which takes longer than the universe has stood


@app.task(retry=ONCE, timeout=0.5, kill_timeout=1.5)
async def work_too_long(ctx: Context, n: int) -> None:
    """It ends when it is told to."""
    with written_down(ctx, n):
        await asyncio.sleep(3600)


@app.task(retry=ONCE, timeout=0.5, kill_timeout=1.5)
async def swallow_timeout(ctx: Context, n: int) -> None:
    await swallow_cancellation.function(ctx, n, 3600)


@app.task(timeout=0.5, kill_timeout=1.5, at_most_once=True)
async def swallow_once(ctx: Context, n: int) -> None:
    await swallow_cancellation.function(ctx, n, 3600)


@app.task(retry=ONCE, timeout=0.5, kill_timeout=1.5)
def hang_in_thread(ctx: Context, n: int) -> None:
    with written_down(ctx, n):
        time.sleep(3600)


# -- those that take memory ------------------------------------------------------------------

_leaked: list[bytes] = []


def take_memory(megabytes: int) -> bytes:
    return b"x" * (megabytes * 1024**2)


@app.task(retry=ONCE)
async def leak(ctx: Context, n: int, megabytes: int) -> None:
    with written_down(ctx, n):
        _leaked.append(take_memory(megabytes))


@app.task(retry=ONCE)
async def bomb(ctx: Context, n: int, blocks: bool) -> None:
    """Take memory until somebody ends the process; with or without letting go of the loop."""
    taken: list[bytes] = []
    with written_down(ctx, n):
        while len(taken) < 100:
            taken.append(take_memory(20))
            if blocks:
                time.sleep(0.05)  # noqa: ASYNC251 - that is the point
            else:
                await asyncio.sleep(0.05)


@app.task(retry=ONCE, run_in="process")
def bomb_in_process(ctx: Context, n: int) -> None:
    taken: list[bytes] = []
    with written_down(ctx, n, in_process=True):
        while len(taken) < 100:
            taken.append(take_memory(20))
            time.sleep(0.1)


# -- those that end badly ----------------------------------------------------------------------

HUGE = "x" * 10_000_000


def end_badly(how: str) -> None:
    """End this process, or raise, in one of the ways that a worker must survive."""
    match how:
        case "segfault":
            ctypes.string_at(0)
        case "sigsegv":
            os.kill(os.getpid(), signal.SIGSEGV)
            time.sleep(5)
        case "_exit":
            os._exit(3)
        case "sys.exit":
            sys.exit("the task is done with this world")
        case "huge error":
            raise ValueError(HUGE + " the end of it")
        case "give up":
            raise GiveUp("no such customer")
        case _:
            raise AssertionError(f"unknown way to end: {how}")


@app.task(retry=ONCE)
async def bad(ctx: Context, n: int, how: str) -> None:
    with written_down(ctx, n):
        end_badly(how)


@app.task(retry=ONCE)
def bad_in_thread(ctx: Context, n: int, how: str) -> None:
    with written_down(ctx, n):
        end_badly(how)


@app.task(retry=ONCE, run_in="process")
def bad_in_process(ctx: Context, n: int, how: str) -> None:
    with written_down(ctx, n, in_process=True):
        end_badly(how)
