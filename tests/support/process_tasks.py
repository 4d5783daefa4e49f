"""Tasks of `run_in="process"`: their processes find them in this module."""

import contextvars
import decimal
import functools
import io
import locale
import multiprocessing
import os
import random
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import warnings
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


@app.task(run_in="process", retry=ONCE)
def fail_with_no_text() -> None:
    raise ValueError(os.fsdecode(b"no file a\xff"))


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


@app.task(run_in="process")
def give_up_in_a_group() -> None:
    raise ExceptionGroup("several", [GiveUp("no such customer"), ValueError("bad")])


@app.task(run_in="process", retry=Retry(max_attempts=1))
def fail_in_several_lines() -> None:
    raise ValueError("bad\nin two lines")


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
def fork(path: str, how: str) -> int:
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
    if how == "exits":
        sys.exit(3)
    if how == "raises":
        raise ValueError(how)
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


# -- what a job leaves behind ------------------------------------------------------------------

VARIABLE: contextvars.ContextVar[str] = contextvars.ContextVar("VARIABLE", default="unset")
HANDLED = (signal.SIGTERM, signal.SIGALRM, signal.SIGRTMIN)


@app.task(run_in="process")
def look_around() -> dict[str, Any]:
    """Return what one job may find of another one in its process."""
    umask = os.umask(0o22)
    os.umask(umask)
    return {
        "pid": os.getpid(),
        "variable": VARIABLE.get(),
        "decimal": decimal.getcontext().prec,
        "environment": dict(os.environ),
        "directory": str(Path.cwd()),
        "umask": umask,
        "handlers": [str(signal.getsignal(number)) for number in HANDLED],
        "blocked": sorted(signal.pthread_sigmask(signal.SIG_BLOCK, ())),
        "alarm": signal.getitimer(signal.ITIMER_REAL)[0],
        "locale": locale.setlocale(locale.LC_ALL),
        "path": sys.path,
        "warnings": len(warnings.filters),
        "timeout": socket.getdefaulttimeout(),
        "limit": resource.getrlimit(resource.RLIMIT_CORE)[0],
        "stdout": sys.stdout is sys.__stdout__,
    }


@app.task(run_in="process")
def close_output() -> int:
    sys.stdout.close()
    return os.getpid()


@app.task(run_in="process")
def point_output_elsewhere() -> int:
    with Path(os.devnull).open("wb") as nothing:
        os.dup2(nothing.fileno(), 1)
    return os.getpid()


@app.task(run_in="process")
def change_everything() -> int:
    VARIABLE.set("changed")
    decimal.getcontext().prec = 3
    os.environ["LEFT_BEHIND"] = "1"
    del os.environ["PATH"]
    os.chdir("/")
    os.umask(0)
    for number in HANDLED:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
    signal.alarm(1000)
    locale.setlocale(locale.LC_ALL, "C.UTF-8")
    sys.path.insert(0, "/left/behind")
    warnings.simplefilter("error")
    socket.setdefaulttimeout(0.001)
    resource.setrlimit(resource.RLIMIT_CORE, (1, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    sys.stdout = io.StringIO()
    random.seed(7)
    return os.getpid()


@app.task(run_in="process")
def draw() -> float:
    return random.random()


@app.task(run_in="process")
def leave_a_thread(daemon: bool) -> int:
    threading.Thread(target=time.sleep, args=(3600,), daemon=daemon).start()
    return os.getpid()


# -- what its children get ---------------------------------------------------------------------


@app.task(run_in="process")
def read_standard_input_in_a_child() -> str:
    return subprocess.run(["cat"], stdout=subprocess.PIPE, text=True, timeout=10, check=True).stdout


@app.task(run_in="process")
def terminate_a_program() -> int:
    child = subprocess.Popen(["sleep", "60"])
    child.terminate()
    return child.wait(10)


@app.task(run_in="process")
def terminate_a_fork(number: int) -> int:
    child = os.fork()
    if child == 0:
        time.sleep(60)
        os._exit(0)
    os.kill(child, number)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@app.task(run_in="process")
def use_a_forking_pool() -> list[int]:
    with multiprocessing.get_context("fork").Pool(2) as pool:
        return pool.map(abs, [-1, -2])


@app.task(run_in="process")
def descriptors_of_a_program() -> list[str]:
    return descriptors_of_children(forks=False)


@app.task(run_in="process")
def descriptors_of_a_fork() -> list[str]:
    return descriptors_of_children(forks=True)


def descriptors_of_children(*, forks: bool) -> list[str]:
    """Return to what the descriptors of a child lead, but for the standard ones."""
    with tempfile.TemporaryFile("w+") as file:
        child = os.fork()
        if child == 0:
            os.dup2(file.fileno(), 1)
            try:
                if not forks:  # all that is inheritable is inherited, as with `os.system`
                    os.execlp("sh", "sh", "-c", "ls -l /proc/$$/fd")
                for link in Path("/proc/self/fd").iterdir():
                    os.write(1, f"{link.name} -> {os.path.realpath(link)}\n".encode())
            finally:
                os._exit(0)
        os.waitpid(child, 0)
        file.seek(0)
        found = [line.rpartition(" -> ")[0::2] for line in file if "->" in line]
    return [to.strip() for name, to in found if name.split()[-1] not in ("0", "1", "2")]


def started_a_child(path: str) -> None:
    child = subprocess.Popen(["sleep", "3600"])
    part = Path(f"{path}.part")
    part.write_text(str(child.pid))
    part.rename(path)


@app.task(run_in="process")
def start_a_child(path: str) -> None:
    started_a_child(path)


@app.task(run_in="process", timeout=0.5, retry=ONCE)
def start_a_child_and_hang(path: str) -> None:
    started_a_child(path)
    time.sleep(60)


@app.task(run_in="process", retry=ONCE)
def start_a_child_and_wait(path: str) -> None:
    started_a_child(path)
    time.sleep(60)


@app.task(run_in="process", retry=ONCE)
def start_a_child_and_die(path: str) -> None:
    started_a_child(path)
    os._exit(3)
