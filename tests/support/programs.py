"""Programs of a few lines, run as a user would run them: forks, threads, the interpreter's end."""

import os
import subprocess
import sys
from pathlib import Path

import qcore

ROOT = Path(qcore.__file__).parents[1]
#: What each program begins with. Log lines go to standard error, where a warning would be too.
HEAD = """
import asyncio, multiprocessing, os, signal, sys, threading, time, traceback
import structlog
from qcore import *
structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
app = App()

@app.task(name="note")
async def note(n: int) -> int | None:
    return n

def forked(function):
    '''Run a function in a forked child; return its pid.'''
    sys.stdout.flush()
    if pid := os.fork():
        return pid
    code = 1
    try:
        function()
        sys.stdout.flush()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)

def gone_well(*pids):
    for pid in pids:
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0, "a child has failed"

async def connection():
    '''Return what Redis calls the connection for questions of this loop.'''
    return (await app.broker._ask([(b"CLIENT", b"ID")]))[0]
"""


def environment(url: str, namespace: str) -> dict[str, str]:
    return {**os.environ, "QCORE_URL": url, "QCORE_NAMESPACE": namespace, "PYTHONPATH": path()}


def path() -> str:
    return os.pathsep.join([str(ROOT), str(ROOT / "cli")])


def start(text: str, url: str, namespace: str, *, stdin: bool = False) -> "subprocess.Popen[str]":
    """Start a program; every warning that it would print, also about open sockets, is printed."""
    return subprocess.Popen(
        [
            sys.executable,
            "-W",
            "always::ResourceWarning",
            "-W",
            "ignore::DeprecationWarning",
            "-c",
            HEAD + text,
        ],
        env=environment(url, namespace),
        stdin=subprocess.PIPE if stdin else subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(text: str, url: str, namespace: str) -> list[str]:
    """Run a program to its end and return the lines it prints.

    It must end by itself, well, and without a warning.
    """
    return ended(start(text, url, namespace))


def ended(process: "subprocess.Popen[str]", more: str | None = None) -> list[str]:
    """Give a program the rest of its input; it must end well. Return what it has printed since."""
    with process:
        try:
            out, err = process.communicate(more, timeout=60)
        finally:
            process.kill()
    assert process.returncode == 0, err
    noise = [line for line in err.splitlines() if "embedded." not in line]
    assert not noise, err
    return out.splitlines()
