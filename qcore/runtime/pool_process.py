"""The other end of the pool: a process that runs one function at a time, until its pipe ends."""

import importlib
import os
import queue
import signal
import sys
import threading
from functools import reduce
from typing import Any, BinaryIO, cast

import msgspec

from qcore.config import BrokerConfig, child_variable
from qcore.context import Context, Lifecycle
from qcore.model.codec import encode
from qcore.model.retry import GiveUp, RetryLater
from qcore.runtime.execution import error_text
from qcore.runtime.processes import POOL_BROKER, Reply, Request, frame
from qcore.task import Task

_request = msgspec.msgpack.Decoder(Request)


def main() -> None:
    """Serve requests from standard input until it ends, which means that the worker is gone."""
    # The worker decides when this process ends; a signal to the whole group must not.
    for name in ("TERM", "INT", "HUP", "USR1", "USR2", "TSTP"):
        signal.signal(signal.Signals[f"SIG{name}"], signal.SIG_IGN)
    broker = msgspec.json.decode(child_variable(POOL_BROKER), type=BrokerConfig)
    replies = os.fdopen(os.dup(1), "wb")
    # What a task forks must not hold the pipe open when this process is gone. The number stays
    # taken, else it would be that of a file of the child's.
    void = os.open(os.devnull, os.O_WRONLY)
    os.register_at_fork(after_in_child=lambda: _cut(replies, void))
    own = os.getpid()
    os.dup2(2, 1)  # what a task prints must not mix with the replies
    requests: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(requests,), daemon=True).start()
    while True:
        reply = _serve(_request.decode(requests.get()), broker)
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


def _serve(request: Request, broker: BrokerConfig) -> Reply:
    try:
        task = _find(request.module, request.qualname)
        task.app.configure(url=broker.url, namespace=broker.namespace)  # for `enqueue_sync`
        named = task.with_context(
            task.arguments.decode(request.args), Context(request.facts, Lifecycle())
        )
        return Reply(result=msgspec.Raw(encode(task.function(**named))))
    except GiveUp as e:
        return Reply(kind="qcore.GiveUp", text=error_text(e))
    except RetryLater as e:
        return Reply(kind="qcore.RetryLater", delay_s=e.delay_s, charge=e.charge)
    except SystemExit as e:
        return Reply(kind="SystemExit", text=f"the task called sys.exit({e.code!r})")
    except BaseException as e:  # noqa: BLE001 - whatever a task raises is its outcome
        return Reply(kind=type(e).__name__, text=error_text(e))


def _find(module: str, qualname: str) -> Task[Any, Any]:
    found: Any = reduce(getattr, qualname.split("."), importlib.import_module(module))
    if not isinstance(found, Task):
        raise TypeError(f"{module}.{qualname} is not a task")
    return cast("Task[Any, Any]", found)


if __name__ == "__main__":
    main()
