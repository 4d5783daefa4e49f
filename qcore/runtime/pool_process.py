"""The other end of the pool: a process that runs one function at a time, until its pipe ends."""

import os
import queue
import signal
import sys
import threading
from collections.abc import Callable
from functools import cache
from typing import Any, BinaryIO

import msgspec

from qcore.app import App
from qcore.config import BrokerConfig, child_variable
from qcore.context import Context, Lifecycle
from qcore.errors import ArgumentError, ConfigError, Parked, ResultError
from qcore.model.codec import encode
from qcore.model.retry import GiveUp, RetryLater
from qcore.runtime.execution import error_text
from qcore.runtime.processes import POOL_BROKER, Reply, Request, frame
from qcore.runtime.results import encode_result
from qcore.task import Task

_request = msgspec.msgpack.Decoder(Request)


def main(load: Callable[[], App]) -> None:
    """Serve requests from standard input until it ends, which means that the worker is gone.

    Args:
        load: Returns the app of the worker; called once, for the first job.
    """
    # The worker decides when this process ends; a signal to the whole group must not.
    for name in ("TERM", "INT", "HUP", "USR1", "USR2", "TSTP"):
        signal.signal(signal.Signals[f"SIG{name}"], signal.SIG_IGN)
    broker = msgspec.json.decode(child_variable(POOL_BROKER), type=BrokerConfig)
    replies = os.fdopen(os.dup(1), "wb")
    # What a task forks must not hold the pipe open when this process is gone. The number stays
    # taken, else it would be that of a file of the child's.
    void = os.open(os.devnull, os.O_WRONLY)
    os.register_at_fork(after_in_child=lambda: _cut(replies, void))
    load = cache(load)
    own = os.getpid()
    os.dup2(2, 1)  # what a task prints must not mix with the replies
    requests: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(requests,), daemon=True).start()
    while True:
        reply = _serve(_request.decode(requests.get()), load, broker)
        if os.getpid() != own:  # a child that the task forked came back out of it
            os._exit(0)
        replies.write(frame(encode(reply)))
        replies.flush()


def _cut(replies: BinaryIO, void: int) -> None:
    os.dup2(void, replies.fileno())


def _read(requests: "queue.SimpleQueue[bytes]") -> None:
    """Read requests beside the running one, so that the end of the pipe ends even a long job."""
    while True:
        requests.put(_exactly(sys.stdin.buffer, int.from_bytes(_exactly(sys.stdin.buffer, 4))))


def _exactly(stream: BinaryIO, count: int) -> bytes:
    data = stream.read(count)
    if len(data) < count:
        os._exit(0)
    return data


def _serve(request: Request, load: Callable[[], App], broker: BrokerConfig) -> Reply:
    try:
        task, named = _prepared(request, load)
        task.app.configure(url=broker.url, namespace=broker.namespace)  # for `enqueue_sync`
        result = task.function(**named)
        return Reply(result=msgspec.Raw(encode_result(result, request.result_limit_bytes)))
    except (Parked, ResultError) as e:
        return Reply(kind=f"qcore.{type(e).__name__}", text=str(e))
    except GiveUp as e:
        return Reply(kind="qcore.GiveUp", text=error_text(e))
    except RetryLater as e:
        return Reply(kind="qcore.RetryLater", delay_s=e.delay_s, charge=e.charge)
    except SystemExit as e:
        return Reply(kind="SystemExit", text=f"the task called sys.exit({e.code!r})")
    except BaseException as e:  # noqa: BLE001 - whatever a task raises is its outcome
        return Reply(kind=type(e).__name__, text=error_text(e))


def _prepared(request: Request, load: Callable[[], App]) -> tuple[Task[Any, Any], dict[str, Any]]:
    """Return the task and its arguments.

    Raises:
        Parked: what was imported here is not the code of the worker, as after a deploy.
    """
    name = request.facts.task
    try:
        task = load().tasks.get(name)
    except ConfigError as e:
        raise Parked(f"the process of the task could not load the app: {e}") from e
    if task is None:
        raise Parked(
            f"the process of the task does not know {name}: register it where its module is "
            "imported, or restart the worker if its code was changed"
        )
    try:
        named = task.arguments.decode(request.args)
    except ArgumentError as e:
        raise Parked(f"{e}: restart the worker if its code was changed") from e
    return task, task.with_context(named, Context(request.facts, Lifecycle()))
