"""What a worker and its tasks log, and that nothing depends on whether it can be written."""

import asyncio
import fcntl
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
import time
from contextlib import suppress
from typing import Any

import pytest

from qcore.broker.redis.fleet import Fleet as Registry
from tests.support.fleet import ROOT, Command, Fleet
from tests.support.http import get
from tests.support.waiting import eventually

#: Tasks that log in every way, with something in their variables and arguments that is secret.
LOGGING = """
import logging, os, structlog
from qcore import Retry

stdlib, lines = logging.getLogger("shop"), structlog.get_logger()

def say(where):
    password = os.environ["PLANTED"]
    stdlib.info("stdlib %s", where, extra={"order": 7})
    stdlib.debug("too much")
    lines.info("structlog", where=where)
    try:
        raise ValueError(f"{len(password)} letters")
    except ValueError:
        stdlib.exception("stdlib failed")
        lines.exception("structlog failed", where=where)

@app.task(name="on_loop")
async def on_loop(card: str) -> None:
    say("loop")

@app.task(name="in_thread")
def in_thread(card: str) -> None:
    say("thread")

@app.task(name="in_process", run_in="process")
def in_process(card: str) -> None:
    say("process")

@app.task(name="fails", retry=Retry(max_attempts=2, backoff=0))
async def fails(card: str) -> None:
    secret = os.environ["PLANTED"]
    raise LookupError(f"no card of {len(secret)} letters")
"""
SECRET = "hunter2-planted"


async def enqueued(fleet: Fleet, *tasks: str) -> dict[str, str]:
    """Enqueue a job of each task; return their ids."""
    async with fleet.producer() as producer:

        async def put(name: str) -> str:
            async def function(card: str) -> None: ...

            task = producer.app.task(name=name)(function)
            return (await task.enqueue(SECRET)).id

        return {name: await put(name) for name in tasks}


def said(command: Command, job: str) -> list[dict[str, Any]]:
    return [line for line in command.all_events() if line.get("job") == job]


async def test_every_line_of_a_task_names_its_job_wherever_it_runs(fleet: Fleet):
    fleet.env["PLANTED"] = SECRET
    fleet.write_tasks("shop", LOGGING)
    command = fleet.start(processes=1, app="shop:app")
    jobs = await enqueued(fleet, "on_loop", "in_thread", "in_process", "fails")
    await fleet.emptied(40)
    for place in ("on_loop", "in_thread", "in_process"):
        lines = await eventually(lambda place=place: said(command, jobs[place]))
        events = [line["event"] for line in lines]
        where = place.rpartition("_")[2]
        assert events == [f"stdlib {where}", "structlog", "stdlib failed", "structlog failed"]
        for line in lines:
            assert (line["task"], line["queue"], line["attempt"]) == (place, "default", 1)
            assert line["worker"] == "worker.1"
        assert lines[0]["order"] == 7
        for line in lines[2:]:
            assert line["exception"].endswith("ValueError: 15 letters")
    retried, buried = said(command, jobs["fails"])
    assert (retried["event"], buried["event"]) == ("job.retried", "job.buried")
    assert (retried["attempt"], buried["attempt"]) == (1, 2)
    for line in (retried, buried):
        assert "in fails" in line["exception"]
        assert line["error"] == "LookupError: no card of 15 letters"


@pytest.mark.parametrize("form", ["console", "json"])
async def test_no_line_shows_a_variable_an_argument_or_a_password(fleet: Fleet, form: str):
    fleet.env["PLANTED"] = SECRET
    fleet.write_tasks("shop", LOGGING)
    command = fleet.start(processes=1, app="shop:app", log_format=form, log_level="debug")
    await enqueued(fleet, "on_loop", "in_thread", "in_process", "fails")
    await fleet.emptied(40)
    await eventually(lambda: command.log.read_text().count("structlog failed") == 3)
    command.signal(signal.SIGUSR1)
    await eventually(lambda: "thread.dumped" in command.log.read_text())
    command.signal()
    assert await command.ended(15) == 0
    text = command.log.read_text()
    assert "ValueError: 15 letters" in text
    assert "too much" in text
    assert SECRET not in text


LATE = """
@app.task(name="in_process", run_in="process")
def in_process(card: str) -> None:
    import sys
    assert "structlog" not in sys.modules
    from structlog.stdlib import get_logger
    get_logger().info("late", pid="own")
"""


async def test_structlog_that_a_task_imports_logs_as_the_command_does(fleet: Fleet):
    fleet.write_tasks("shop", LATE)
    command = fleet.start(processes=1, app="shop:app")
    jobs = await enqueued(fleet, "in_process")
    await fleet.emptied(20)
    (line,) = await eventually(lambda: said(command, jobs["in_process"]))
    assert (line["event"], line["level"], line["task"]) == ("late", "info", "in_process")
    assert (line["worker"], line["pid"]) == ("worker.1", "own")


ODD_CONFIGURATION = """
import logging.config, structlog
def refuse(*_):
    raise RuntimeError("no line is good enough")
structlog.configure(processors=[refuse], wrapper_class=structlog.BoundLoggerBase)
logging.config.dictConfig({"version": 1, "disable_existing_loggers": True})

@app.task(name="on_loop")
async def on_loop(card: str) -> None: ...
"""


async def test_app_that_configures_logging_itself_works_and_qcore_logs_as_told(fleet: Fleet):
    fleet.write_tasks("shop", ODD_CONFIGURATION)
    command = fleet.start(processes=1, app="shop:app", log_level="debug")
    await command.ready(1)
    jobs = await enqueued(fleet, "on_loop")
    await fleet.emptied(10)
    (acked,) = await eventually(lambda: said(command, jobs["on_loop"]))
    assert acked["event"] == "job.acked"
    command.signal()
    assert await command.ended(10) == 0


def start_on(fleet: Fleet, output: int, **options: Any) -> "subprocess.Popen[bytes]":
    words = [sys.executable, "-m", "qcore_cli", "worker", "tests.support.fleet_tasks:app"]
    flags = {"url": fleet.url, "namespace": fleet.namespace, "processes": 1, "lease": 2, **options}
    words += [str(word) for name, value in flags.items() for word in (f"--{name}", value)]
    return subprocess.Popen(words, stdin=subprocess.DEVNULL, stderr=output, env=fleet.env, cwd=ROOT)


async def test_reader_of_the_log_that_stops_stops_nothing(fleet: Fleet):
    """The pipe is full before the first line: without its reader nobody could write one."""
    reader, output = os.pipe()
    os.set_blocking(output, False)
    try:
        while True:
            os.write(output, b"x" * 4096)
    except BlockingIOError:
        os.set_blocking(output, True)
    process = start_on(fleet, output, **{"shutdown-timeout": 10})
    try:
        async with fleet.producer() as producer:
            for _ in range(20):
                await producer.send("fail_once", "x")
            await eventually(lambda: len(fleet.done()) == 20, 60)
            long = await producer.send("work", 60.0)
            await eventually(lambda: fleet.runs().get(long))
            began = time.monotonic()
            process.send_signal(signal.SIGTERM)
            assert await asyncio.to_thread(process.wait, 20) == 0
            assert time.monotonic() - began < 15
    finally:
        process.kill()
        process.wait()
        os.close(reader)
        os.close(output)


@pytest.mark.skipif(sys.platform != "linux", reason="/dev/full is a full disk")
@pytest.mark.parametrize("kind", ["full", "gone"])
async def test_log_that_cannot_be_written_stops_nothing(fleet: Fleet, kind: str, port: int):
    reader, output = os.pipe()
    if kind == "full":
        os.close(output)
        output = os.open("/dev/full", os.O_WRONLY)
    os.close(reader)
    process = start_on(fleet, output, **{"health-port": port})
    os.close(output)
    try:
        async with fleet.producer() as producer:
            for _ in range(20):
                await producer.send("fail_once", "x")
            await eventually(lambda: len(fleet.done()) == 20, 60)
        await eventually(lambda: ready(port))
        process.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(process.wait, 20) == 0
    finally:
        process.kill()
        process.wait()


async def ready(port: int) -> bool:
    return (await get(port, "/readyz"))[0] == 200


# -- on a terminal --------------------------------------------------------------------------------

#: Takes the terminal for its own, as a shell does, and becomes the command.
ON_TERMINAL = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execvp(sys.argv[1], sys.argv[1:])
"""


class Session:
    """`qcore worker` in the foreground of a terminal of its own, which can be closed."""

    def __init__(self, fleet: Fleet, *, prefix: tuple[str, ...] = (), stderr: int = -1) -> None:
        self._own, other = pty.openpty()
        output = other if stderr < 0 else stderr  # nohup makes a file of a terminal
        fcntl.ioctl(self._own, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        worker = (sys.executable, "-m", "qcore_cli", "worker", "tests.support.fleet_tasks:app")
        flags = ("--url", fleet.url, "--namespace", fleet.namespace, "--processes", "1")
        words = [sys.executable, "-c", ON_TERMINAL, *prefix, *worker, *flags]
        self.process = subprocess.Popen(
            words,
            stdin=other,
            stdout=output,
            stderr=output,
            env=fleet.env | {"NO_COLOR": "1"},
            cwd=ROOT,
            start_new_session=True,
        )
        os.close(other)
        os.set_blocking(self._own, False)
        self._said = b""

    def said(self) -> str:
        with suppress(OSError):  # nothing more, now or ever
            while True:
                self._said += os.read(self._own, 65536)
        return self._said.decode().replace("\r\n", "\n")

    def press(self, key: bytes) -> None:
        os.write(self._own, key)

    def close(self) -> None:
        os.close(self._own)

    async def ended(self) -> int:
        return await asyncio.to_thread(self.process.wait, 20)


async def test_worker_on_a_terminal_shows_each_job_and_fits_its_width(fleet: Fleet):
    session = Session(fleet)
    try:
        async with fleet.producer() as producer:
            await producer.send_many("work", 3)
            await eventually(lambda: session.said().count("done    work  ") == 3, 60)
            await producer.send("work", 60.0)
            registry = Registry(producer.app.broker)

            async def knows_what_runs() -> bool:
                return any(w.running for m in await registry.members() for w in m.view.workers)

            await eventually(knows_what_runs)
        session.press(b"\x03")
        await eventually(lambda: "Ctrl-C again cancels" in " ".join(session.said().split()))
        session.press(b"\x03")
        assert await session.ended() == 0
        said = session.said()
        assert "waits for 1 job, at most 24 s" in said
        # the terminal shows the key in front of what is said then
        assert max(len(x.removeprefix("^C")) for x in said.splitlines()) <= 80
        session.close()
    finally:
        session.process.kill()
        session.process.wait()


async def test_closed_terminal_ends_worker_and_supervisor(fleet: Fleet):
    session = Session(fleet)
    await eventually(lambda: "worker.ready" in session.said(), 60)
    session.close()
    assert await session.ended() == 0
    await eventually(lambda: not fleet.left_behind())


async def test_pipe_to_tee_counts_as_its_terminal(fleet: Fleet):
    reader, output = os.pipe()
    os.set_blocking(reader, False)
    session = Session(fleet, stderr=output)
    os.close(output)
    said = b""

    def shown() -> bool:
        nonlocal said
        with suppress(BlockingIOError):
            said += os.read(reader, 65536)
        return b"done    work" in said

    async with fleet.producer() as producer:
        await producer.send("work")
        await eventually(shown, 60)
    session.close()
    assert await session.ended() == 0
    os.close(reader)


async def test_nohup_outlives_its_terminal(fleet: Fleet, port: int):
    reader, output = os.pipe()
    session = Session(fleet, prefix=("nohup",), stderr=output)
    os.close(output)
    try:
        async with fleet.producer() as producer:
            await producer.send("work")
            await eventually(lambda: len(fleet.done()) == 1, 60)
            session.close()
            await producer.send("work")
            await eventually(lambda: len(fleet.done()) == 2, 60)
        assert session.process.poll() is None
        session.process.send_signal(signal.SIGTERM)
        assert await session.ended() == 0
    finally:
        session.process.kill()
        session.process.wait()
        os.close(reader)
