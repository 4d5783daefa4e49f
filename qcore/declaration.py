"""What the declarations of an app and its tasks may say, and what their options become."""

import math
import sys
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar, cast, overload

from qcore.context import Context
from qcore.durations import Seconds, seconds
from qcore.errors import ConfigError
from qcore.job_options import Settings
from qcore.model.callee import check_callee, name_of, source_of
from qcore.model.retry import Retry
from qcore.queue import Queue
from qcore.settings import KILL_GRACE_S, check_name, check_type
from qcore.task import AsyncTask, SyncTask, Task

P = ParamSpec("P")
R = TypeVar("R")

#: A claim reads sixteen payloads at once, also where few of them fit.
_MAX_PAYLOAD = 1024 * 1024


class Register(Protocol):
    """What `@app.task(...)` returns: a decorator that keeps the function's type."""

    # the overlap is meant: a coroutine function is also a function, and the first match counts
    @overload
    def __call__(  # pyright: ignore[reportOverlappingOverload]
        self, function: Callable[Concatenate[Context, P], Coroutine[Any, Any, R]], /
    ) -> AsyncTask[P, R]: ...
    @overload
    def __call__(self, function: Callable[P, Coroutine[Any, Any, R]], /) -> AsyncTask[P, R]: ...
    @overload
    def __call__(self, function: Callable[Concatenate[Context, P], R], /) -> SyncTask[P, R]: ...
    @overload
    def __call__(self, function: Callable[P, R], /) -> SyncTask[P, R]: ...


def declared_queues(queues: Sequence[str | Queue]) -> dict[str, Queue]:
    """Return the queues of an app by their names; of an enum of strings its values.

    Raises:
        ConfigError: no list, an empty one, a name twice, or one that is none.
    """
    if not is_list(queues) or not queues:
        raise ConfigError(
            f'queues is {queues!r}, give a list of names or Queue objects: ["default"]'
        )
    declared = [queue if isinstance(queue, Queue) else Queue(queue) for queue in queues]
    names = [check_name("queue", queue.name) for queue in declared]
    if len(set(names)) != len(names):
        raise ConfigError(f"queues {names} names a queue twice")
    return dict(zip(names, declared, strict=True))


def check_payload_limit(limit: int) -> None:
    """Raise ConfigError unless it is a number of bytes that a claim can bear."""
    check_type("payload_limit", limit, int, "bytes, as 128 * 1024")
    if limit > _MAX_PAYLOAD:
        raise ConfigError(
            f"payload_limit is {limit}, allowed is 1024 to {_MAX_PAYLOAD}: store more elsewhere, "
            "and pass its name"
        )


def is_list(value: object) -> bool:
    """Say whether it is a list of things, and not a text."""
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def is_module(name: object) -> bool:
    """Say whether it can be the name of a module."""
    return isinstance(name, str) and all(part.isidentifier() for part in name.split("."))


def checked_callee(
    function: Callable[..., Any], name: str | None
) -> tuple[Callable[..., Any], str]:
    """Return the function to call, and its name as a task."""
    if isinstance(function, staticmethod):
        function = cast(Callable[..., Any], function.__func__)
    shown = name or getattr(function, "__qualname__", type(function).__qualname__)
    if isinstance(function, Task):
        raise ConfigError(f"task {shown}: this is a task already: register its function once")
    check_callee(shown, function)
    return function, name or f"{_module_of(source_of(function))}.{name_of(function)}"


def seconds_or_none(name: str, option: str, value: Seconds | None) -> float | None:
    """Return a duration that may be left out."""
    return None if value is None else seconds(f"task {name}: {option}", value)


def retry_of(name: str, retry: Retry | int | None) -> Retry:
    """Return the policy; a number stands for one with so many attempts."""
    if retry is None:
        return Retry()
    if isinstance(retry, Retry):
        return retry
    wanted = "a Retry, or how often it may run"
    check_type(f"task {name}: retry", retry, int, wanted)
    if retry < 1:
        raise ConfigError(f"task {name}: retry is {retry}, allowed is 1 and more; 1: never again")
    return Retry(max_attempts=retry)


def check_types(task: str, /, **options: tuple[object, type, str]) -> None:
    """Raise ConfigError where an option that is given is of another type."""
    for option, (value, kind, wanted) in options.items():
        if value is not None:
            check_type(f"task {task}: {option}", value, kind, wanted)


def expires_ms_of(name: str, expires: Seconds) -> int:
    """Return after how many milliseconds no run may start any more."""
    expires_s = seconds(f"task {name}: expires", expires)
    if not 0.001 <= expires_s < math.inf:
        raise ConfigError(f"task {name}: expires is {expires}, allowed is more than 0")
    return round(expires_s * 1000)


def kill_timeout_s_of(
    name: str, timeout: Seconds | None, kill_timeout: Seconds | None
) -> float | None:
    """Return when the process of a run that does not stop is killed; None without a timeout."""
    if timeout is None:
        if kill_timeout is None:
            return None
        raise ConfigError(
            f"task {name}: kill_timeout is {kill_timeout} and there is no timeout: give it one, at "
            "which a run is asked to stop before its process is killed"
        )
    timeout_s = seconds(f"task {name}: timeout", timeout)
    if not 0 < timeout_s < math.inf:
        raise ConfigError(f"task {name}: timeout is {timeout_s:g} s, allowed is more than 0")
    given_s = seconds_or_none(name, "kill_timeout", kill_timeout)
    kill_s = timeout_s + KILL_GRACE_S if given_s is None else given_s
    if not timeout_s < kill_s < math.inf:
        raise ConfigError(
            f"task {name}: timeout is {timeout_s:g} s and kill_timeout {kill_s:g} s: the kill "
            "timeout must be longer, for it ends what did not stop at the timeout"
        )
    return kill_s


def check_combination(settings: Settings) -> None:
    """Raise ConfigError where options of a task are out of range or exclude each other."""
    name = settings.name
    if settings.keep_s is not None and not 0 <= settings.keep_s < math.inf:
        raise ConfigError(f"task {name}: keep is {settings.keep_s:g} s, allowed is 0 and more")
    if settings.at_most_once and settings.retry.max_attempts > 1:
        raise ConfigError(
            f"task {name}: at_most_once=True leaves no attempt to retry: drop retry=, or give "
            "Retry(max_attempts=1)"
        )
    if settings.exclusive and settings.run_in == "thread":
        raise ConfigError(
            f"task {name}: exclusive=True needs a run that can be stopped, and a thread cannot: "
            "use `async def`, or run_in='process'"
        )


def _module_of(function: Callable[..., Any]) -> str:
    """Return the module by which a worker will import the function.

    In a program that was started itself, as in `python tasks.py`, that is not `__main__`.
    """
    if function.__module__ != "__main__":
        return function.__module__
    main = sys.modules["__main__"]
    if main.__spec__ is not None:  # python -m package.tasks
        return main.__spec__.name.removesuffix(".__main__")
    file = getattr(main, "__file__", None)  # none in an interactive session
    return Path(file).stem if file else "__main__"
