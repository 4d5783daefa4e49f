"""Tasks of `run_in="process"`: their processes find them in this module."""

import functools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qcore import App, Context, GiveUp, Retry, RetryLater

app = App(queues=("default",))

ONCE = Retry(max_attempts=1)


@dataclass
class Page:
    number: int
    words: list[str]


@app.task(run_in="process")
def number_of(page: Page) -> Page:
    return Page(page.number + 1, [*page.words, "the end"])


@app.task(run_in="process")
def pid() -> int:
    return os.getpid()


@app.task(run_in="process")
def nothing() -> None: ...


@app.task(run_in="process", keep=0)
def not_kept() -> int:
    return 1


@app.task(run_in="process")
def facts(ctx: Context) -> list[Any]:
    return [ctx.job_id, ctx.queue, ctx.attempt, ctx.state, ctx.shutdown_requested]


@app.task(run_in="process")
def span(seconds: float) -> list[float]:
    began = time.monotonic()
    time.sleep(seconds)
    return [began, time.monotonic()]


@app.task(run_in="process")
def run_on(path: str) -> None:
    """Say who runs it, then run for as long as it is left alone."""
    part = Path(f"{path}.part")
    part.write_text(str(os.getpid()))
    part.rename(path)
    time.sleep(60)


@app.task(run_in="process")
def fence(ctx: Context) -> int:
    return ctx.fencing_token


@app.task(run_in="process", timeout=0.5, retry=ONCE)
def hang(path: str) -> None:
    Path(path).write_text(str(os.getpid()))
    while True:
        pass


@app.task(run_in="process", timeout=0.5, retry=ONCE)
def hang_with_a_child(path: str) -> None:
    """The child holds what it has inherited, the end of a pipe, longer than the task."""
    child = subprocess.Popen(["sleep", "60"], start_new_session=True)
    Path(path).write_text(str(child.pid))
    time.sleep(60)


@app.task(run_in="process", retry=Retry(max_attempts=2, backoff=0.01))
def fail(ctx: Context) -> None:
    raise ValueError(f"out of paper at attempt {ctx.attempt}")


@app.task(run_in="process")
def give_up() -> None:
    raise GiveUp("no such customer")


@app.task(run_in="process", retry=Retry(max_attempts=2))
def later(charge: bool) -> None:
    raise RetryLater(0.01, charge=charge)


@app.task(run_in="process", retry=Retry(max_attempts=2, backoff=0.01))
def die_once(ctx: Context, how: str) -> int:
    if ctx.attempt > 1:
        return os.getpid()
    if how == "SIGKILL":
        os.kill(os.getpid(), signal.SIGKILL)
    os._exit(7)


@app.task(run_in="process", retry=ONCE)
def die(how: str) -> None:
    if how == "SIGKILL":
        os.kill(os.getpid(), signal.SIGKILL)
    os._exit(7)


@app.task(run_in="process", retry=ONCE)
def fork(path: str, exits: bool) -> int:
    """Fork a child that opens a file and comes back; return how it ended."""
    if pid := os.fork():
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    file = Path(path).open("wb", buffering=0)  # noqa: SIM115 - left open on purpose
    if grandchild := os.fork():
        os.waitpid(grandchild, 0)
    else:
        file.write(b"grandchild ")
        os._exit(0)
    file.write(b"child")
    globals()["kept_open"] = file
    if exits:
        sys.exit(3)
    return 1


@app.task(run_in="process")
def chatty() -> str:
    print("to standard output " * 1000)
    os.write(1, b"and past Python")
    os.write(2, b"and to standard error")
    sys.stdin.read(0)
    return "done"


@app.task(run_in="process", retry=ONCE)
def large(size: int) -> bytes:
    return bytes(size)


@app.task(run_in="process")
def enqueue_another() -> str:
    return number_of.enqueue_sync(Page(1, ["from a process"])).ref


large_retried = app.task(name="large_retried", run_in="process")(large.function)


def double(number: int) -> int:
    return number * 2


def double_again(number: int) -> int:
    return number * 2


class Doubler:
    def double(self, number: int) -> int:
        return number * 2


def _counted(function: Callable[[int], int]) -> Callable[[int], int]:
    def wrapper(number: int) -> int:
        return function(number)

    return wrapper


@app.task(run_in="process")
@_counted
def decorated(number: int) -> int:
    return number * 2


renamed = app.task(name="doubles", run_in="process")(double)
plain = app.task(name="doubles.again", run_in="process")(double_again)
partial = app.task(name="doubles.partial", run_in="process")(functools.partial(double))
method = app.task(name="doubles.method", run_in="process")(Doubler().double)


async def _nobody_awaits() -> None: ...


@app.task(run_in="process", keep=0)
def lazy() -> Any:
    return _nobody_awaits()
