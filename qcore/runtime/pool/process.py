"""The other end of the pool: a process that runs one function at a time, until its worker ends."""

import fcntl
import os
import queue
import select
import signal
import socket
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, BinaryIO, NoReturn

import msgspec

from qcore.app import App
from qcore.context import Context, Facts, Lifecycle
from qcore.environment import child_variable
from qcore.errors import ArgumentError, ConfigError, Parked, ResultError
from qcore.model.codec import encode
from qcore.model.reasons import control_in, reason_of
from qcore.model.retry import GiveUp, RetryLater
from qcore.runtime.host.inheritance import HANDLED, serve_alone
from qcore.runtime.ipc.pool import (
    LENGTH_BYTES,
    POOL_START,
    REMEDY,
    PoolStart,
    Reply,
    Request,
    frame,
)
from qcore.runtime.ipc.results import encode_result, error_text
from qcore.runtime.pool.isolation import Isolation
from qcore.settings import BrokerConfig
from qcore.task import Task
from qcore.telemetry import current_job

_request = msgspec.msgpack.Decoder(Request)


def main(load: Callable[[], App]) -> None:
    """Serve requests until their connection ends, which means that the worker is gone.

    Args:
        load: Returns the app of the worker.
    """
    # The worker decides when this process ends; a signal to everybody must not. A handler, since
    # whatever a task starts would inherit that a signal is ignored.
    for number in HANDLED:
        signal.signal(number, _pass_over)
    start = msgspec.json.decode(child_variable(POOL_START), type=PoolStart)
    serve_alone(start.requests_fd, start.lifeline_fd)
    _die_with(start.lifeline_fd)
    worker = socket.socket(fileno=start.requests_fd)
    worker.settimeout(None)  # whatever default there is
    requests: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(worker, requests), daemon=True).start()
    reply, app = _load(load)
    worker.sendall(frame(encode(reply)))
    isolation = Isolation()
    while app is not None:
        reply = _serve(_request.decode(requests.get()), app, start.broker, isolation)
        left = isolation.restore()
        worker.sendall(frame(encode(msgspec.structs.replace(reply, left=left))))


def _load(load: Callable[[], App]) -> tuple[Reply, App | None]:
    try:
        return Reply(), load()
    except ConfigError as e:
        return _described(Parked(f"the process of the task could not load the app: {e}")), None


def _leave_fork(error: BaseException | None) -> NoReturn:
    """End a child that a task has forked, and that came back out of it, as any program ends."""
    code: object = 0 if error is None else 1
    if isinstance(error, SystemExit):
        code = error.code or 0
    elif error is not None:
        with suppress(Exception):
            sys.excepthook(type(error), error, error.__traceback__)
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):
            stream.flush()
    os._exit(code & 0xFF if isinstance(code, int) else 1)


def _pass_over(number: int, frame: object) -> None:
    pass


def _die_with(lifeline_fd: int) -> None:
    """Let the kernel kill this process and what its tasks started when its worker is gone.

    The worker holds the other end of this pipe and writes nothing to it. A thread would see the end
    of it, too, but not while a task holds the interpreter.
    """
    if sys.platform == "linux":
        fcntl.fcntl(lifeline_fd, fcntl.F_SETOWN, -os.getpgrp())
        fcntl.fcntl(lifeline_fd, fcntl.F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(lifeline_fd, fcntl.F_SETFL, os.O_ASYNC)
        end = select.poll()
        end.register(lifeline_fd, 0)
        if end.poll(0):  # it had ended before
            os.killpg(0, signal.SIGKILL)


def _read(worker: socket.socket, requests: "queue.SimpleQueue[bytes]") -> None:
    """Read requests beside the running one, so that the end of the worker ends even a long job."""
    try:
        stream = worker.makefile("rb")
        while True:
            requests.put(_exactly(stream, int.from_bytes(_exactly(stream, LENGTH_BYTES))))
    finally:  # nothing would read the next one
        os.killpg(0, signal.SIGKILL)


def _exactly(stream: BinaryIO, count: int) -> bytes:
    data = stream.read(count)
    if len(data) < count:
        raise EOFError
    return data


def _serve(request: Request, app: App, broker: BrokerConfig, isolation: Isolation) -> Reply:
    own, error = os.getpid(), None
    try:
        task, named = _prepared(request, app)
        task.app.work_at(broker)  # for `enqueue_sync`
        result = isolation.run(partial(_work_on, request.facts, partial(task.function, **named)))
        reply = Reply(result=msgspec.Raw(encode_result(result, request.result_limit_bytes)))
    except BaseException as e:  # noqa: BLE001 - whatever a task raises is its outcome
        error, reply = e, _described(control_in(e))
    if os.getpid() != own:
        _leave_fork(error)
    return reply


def _described(error: BaseException) -> Reply:
    match error:
        case Parked() | ResultError():
            return Reply(kind=f"qcore.{type(error).__name__}", text=error_text(error))
        case GiveUp():
            return Reply(kind="qcore.GiveUp", text=error_text(error))
        case RetryLater(delay_s=delay_s, charge=charge):
            return Reply(kind="qcore.RetryLater", delay_s=delay_s, charge=charge)
        case SystemExit():
            text = f"the task called sys.exit({error.code!r})"
            return Reply(kind="SystemExit", text=text, reason=text)
        case _:
            kind = type(error).__name__
            return Reply(kind=kind, text=error_text(error), reason=reason_of(error))


def _work_on(facts: Facts, function: Callable[[], Any]) -> Any:
    current_job.set(facts)
    return function()


def _prepared(request: Request, app: App) -> tuple[Task[Any, Any], dict[str, Any]]:
    """Return the task and its arguments.

    Raises:
        Parked: what was imported here is not the code of the worker, as after a deploy.
    """
    name = request.facts.task
    task = app.tasks.get(name)
    if task is None:
        raise Parked(
            f"the process of the task does not know {name}: register it where its module is "
            f"imported, or {REMEDY}"
        )
    try:
        named = task.arguments.decode(request.args)
    except ArgumentError as e:
        raise Parked(f"{e}: {REMEDY}") from e
    return task, task.with_context(named, Context(request.facts, Lifecycle()))
