"""What the supervisor starts: `python -m qcore_cli.child describe|worker|pool ...`.

Apart from the commands for people, so that a worker process carries neither their parser nor
their tables.
"""

import asyncio
import os
import sys
from collections.abc import Coroutine
from functools import partial
from typing import Any, NoReturn, TypeVar

import msgspec

from qcore import ConfigError
from qcore.config import BrokerConfig, child_variable
from qcore.runtime import pool_process
from qcore.runtime.child import (
    CHILD_CONFIG,
    EXIT_CONFIG,
    LEAVING_S,
    ChildConfig,
    leave,
    run_child,
    tether,
)
from qcore.runtime.inheritance import serve_alone
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
    broker: BrokerConfig
    #: Task -> its timeout in seconds, None where it has none.
    timeouts: dict[str, float | None]


def worker_command(app: str, style: LogStyle) -> tuple[str, ...]:
    """Return the command that starts one worker process of an app, which logs in a style."""
    return (*COMMAND, "worker", app, style.word())


def describe(app: str) -> None:
    """Print what an app declares, behind a zero byte: its modules may print too."""
    tether(sys.stdout.fileno(), 0.0)
    overrides = msgspec.json.decode(child_variable(OVERRIDES), type=Overrides)
    loaded = load_app(app)
    loaded.configure(url=overrides.url, namespace=overrides.namespace)
    timeouts = {name: task.settings.timeout_s for name, task in loaded.tasks.items()}
    told = msgspec.json.encode(Description(loaded.queues, loaded.config, timeouts))
    sys.stdout.flush()
    sys.stdout.buffer.write(b"\0" + told)


def worker(app: str, style: LogStyle) -> None:
    """Run one worker process until its supervisor, or a signal, tells it to stop."""
    config = msgspec.json.decode(child_variable(CHILD_CONFIG), type=ChildConfig)
    set_up_logging(style, everywhere={"worker": config.name, "pid": os.getpid()})
    serve_alone(config.orders_fd, config.beats_fd)
    tether(config.orders_fd, config.worker.shutdown_timeout_s + LEAVING_S)
    pool_command = (*COMMAND, "pool", app, style.word(), config.name)
    try:
        run_loop(run_child(load_app(app), config, pool_command=pool_command))
    except ConfigError as e:
        log.error("worker.refused", error=str(e))  # noqa: TRY400 - one line
        _end(EXIT_CONFIG)
    except Exception:
        log.exception("worker.crashed")
        _end(1)
    leave(0)


def run_loop(main: Coroutine[Any, Any, T]) -> T:
    """Run `main` on the event loop of a worker: uvloop, where there is one."""
    try:
        import uvloop
    except ImportError:
        return asyncio.run(main)
    return uvloop.run(main)


def pool(app: str, style: LogStyle, worker_name: str) -> None:
    """Run one process of a worker's pool."""
    set_up_logging(style, everywhere={"worker": worker_name, "pid": os.getpid()})
    pool_process.main(partial(load_app, app))


def main(words: list[str]) -> None:
    """Run one of the functions above; what cannot be configured is one line and exit code 78."""
    try:
        match words:
            case ["describe", app]:
                describe(app)
            case ["worker", app, style]:
                worker(app, LogStyle.read(style))
            case ["pool", app, style, worker_name]:
                pool(app, LogStyle.read(style), worker_name)
            case _:
                raise ConfigError(f"{words} is for the supervisor to start: use `qcore worker`")
    except ConfigError as e:
        # the notes of an import that failed: the trace of the user's code
        echo("\n".join((f"qcore: {e}", *getattr(e, "__notes__", ()))), err=True)
        _end(EXIT_CONFIG)


def _end(code: int) -> NoReturn:
    leave(code)
    sys.exit(code)


if __name__ == "__main__":
    main(sys.argv[1:])
