"""What the supervisor starts: `python -m qcore_cli.child describe|worker|pool ...`.

Apart from the commands for people, so that a worker process carries neither their parser nor
their tables. Each function imports the kind of process that it runs: a pool process stays 20 MB
smaller without redis, asyncio and what a worker is made of.
"""

import os
import sys
from collections.abc import Coroutine
from functools import partial
from typing import Any, NoReturn, TypeVar

import msgspec

from qcore import ConfigError
from qcore.environment import child_variable
from qcore.model.reasons import reason_of
from qcore.runtime.host.inheritance import serve_alone
from qcore.runtime.ipc.orders import CHILD_CONFIG, EXIT_CONFIG, ChildConfig
from qcore.runtime.ipc.settings_file import read_settings
from qcore.runtime.worker.parent_watch import LEAVING_S, watch_parent
from qcore.settings import BrokerConfig
from qcore.telemetry import log
from qcore_cli.loader import load_app
from qcore_cli.logs import LogStyle, set_up_logging
from qcore_cli.terminal import echo

T = TypeVar("T")


#: What starts this module; the words of one of the functions below follow.
COMMAND = (sys.executable, "-m", "qcore_cli.child")
#: The environment variable in which `describe` finds its Overrides.
OVERRIDES = "QCORE_OVERRIDES"


class Overrides(msgspec.Struct, frozen=True):
    """What the flags of a command say against the app's own settings."""

    url: str | None
    namespace: str | None


class Description(msgspec.Struct, frozen=True):
    """What a supervisor must know of an app whose code it does not import."""

    queues: tuple[str, ...]
    #: One for each queue, or none.
    weights: tuple[int, ...]
    broker: BrokerConfig
    #: Task -> its timeout in seconds, None where it has none.
    timeouts: dict[str, float | None]


class Answer(msgspec.Struct, frozen=True):
    """What `describe` tells: one of the two."""

    description: Description | None = None
    error: str = ""
    #: Of an import that failed: the user's own frames.
    trace: str = ""


def worker_command(app: str, style: LogStyle) -> tuple[str, ...]:
    """Return the command that starts one worker process of an app, which logs in a style."""
    return (*COMMAND, "worker", app, style.word())


def describe(app: str, answer_fd: int) -> None:
    """Tell what an app declares, or why that is unknown, in one line over a pipe; then end.

    Its modules may print, close their streams, and start threads.
    """
    serve_alone(answer_fd)
    watch_parent(answer_fd, 0.0)
    try:
        answer = Answer(_described(app))
    except ConfigError as e:
        answer = Answer(error=str(e), trace=_trace_of(e))
    except BaseException as e:  # noqa: BLE001 - whatever the code of the app raises
        answer = Answer(error=f"{app} cannot be loaded: {type(e).__name__}: {e}")
    with os.fdopen(answer_fd, "wb") as pipe:
        pipe.write(msgspec.json.encode(answer) + b"\n")
    # not by its own end, for which it would wait for threads
    os._exit(0)


def _trace_of(error: ConfigError) -> str:
    """Return the notes of an import that failed: the trace of the user's code."""
    return "\n".join(getattr(error, "__notes__", ()))


def _described(app: str) -> Description:
    overrides = msgspec.json.decode(child_variable(OVERRIDES), type=Overrides)
    loaded = load_app(app)
    loaded.configure(url=overrides.url, namespace=overrides.namespace)
    timeouts = {name: task.settings.timeout_s for name, task in loaded.tasks.items()}
    return Description(loaded.queues, loaded.weights, loaded.config, timeouts)


def worker(app: str, style: LogStyle) -> None:
    """Run one worker process until its supervisor, or a signal, tells it to stop."""
    # before the app, which may change where modules are found
    from qcore.runtime.worker.process import leave, run_child, tell_refusal

    config = read_settings(CHILD_CONFIG, ChildConfig)
    set_up_logging(style, everywhere={"worker": config.name, "pid": os.getpid()})
    serve_alone(config.orders_fd, config.beats_fd)
    watch_parent(config.orders_fd, config.worker.shutdown_timeout_s + LEAVING_S)
    pool_command = (*COMMAND, "pool", app, style.word(), config.name)
    try:
        run_loop(run_child(load_app(app), config, pool_command=pool_command))
    except ConfigError as e:
        tell_refusal(config.beats_fd, str(e))
        trace = _trace_of(e) or None
        log.error("worker.refused", error=str(e), exception=trace)  # noqa: TRY400 - the user's own
        _end(EXIT_CONFIG)
    except Exception as e:
        tell_refusal(config.beats_fd, reason_of(e))
        log.exception("worker.crashed")
        _end(1)
    leave(0)


def run_loop(main: Coroutine[Any, Any, T]) -> T:
    """Run `main` on the event loop of a worker: uvloop, where there is one."""
    try:
        import uvloop
    except ImportError:
        import asyncio

        return asyncio.run(main)
    return uvloop.run(main)


def pool(app: str, style: LogStyle, worker_name: str) -> None:
    """Run one process of a worker's pool."""
    from qcore.runtime.pool import process as pool_process

    set_up_logging(style, everywhere={"worker": worker_name, "pid": os.getpid()})
    pool_process.main(partial(load_app, app))


def main(words: list[str]) -> None:
    """Run one of the functions above; what cannot be configured is one line and exit code 78."""
    try:
        match words:
            case ["describe", app, answer_fd]:
                describe(app, int(answer_fd))
            case ["worker", app, style]:
                worker(app, LogStyle.read(style))
            case ["pool", app, style, worker_name]:
                pool(app, LogStyle.read(style), worker_name)
            case _:
                raise ConfigError(f"{words} is for the supervisor to start: use `qcore worker`")
    except ConfigError as e:
        echo(f"qcore: {e}", err=True)
        _end(EXIT_CONFIG)


def _end(code: int) -> NoReturn:
    from qcore.runtime.worker.process import leave

    leave(code)
    sys.exit(code)


if __name__ == "__main__":
    main(sys.argv[1:])
