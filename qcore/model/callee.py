"""What can be a task: which callables run, where, and what they may not be or return."""

import concurrent.futures
import functools
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterator
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from qcore.errors import ConfigError

RunIn = Literal["loop", "thread", "process"]

#: What stands for work that nobody has done yet.
_UNFINISHED = (Awaitable, AsyncIterator, Generator, map, filter, zip, concurrent.futures.Future)


def _layers(function: Callable[..., Any] | None) -> Iterator[Callable[..., Any]]:
    """Yield a callable and what lies below it: of partials, of wrappers, of objects."""
    while function is not None:
        yield function
        if isinstance(function, functools.partial):
            function = function.func
        elif not inspect.isroutine(function) and not hasattr(function, "__wrapped__"):
            function = function.__call__
        else:
            function = getattr(function, "__wrapped__", None)


def source_of(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function that holds the code and the annotations of a callable."""
    *_, last = _layers(function)
    return last


def _called(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return what a call runs first: for an object its method."""
    while isinstance(function, functools.partial):
        function = function.func
    return function if inspect.isroutine(function) else function.__call__


def name_of(function: object) -> str:
    """Return the name that a function has by itself, behind that of its module.

    Raises:
        ConfigError: it has none by which jobs could find it again.
    """
    name = getattr(function, "__qualname__", "")
    if not name or not inspect.isroutine(function) or name.endswith("<lambda>"):
        raise ConfigError(
            f"{function!r} has no name of its own by which jobs could find it again: give it one, "
            'app.task(name="...")'
        )
    return name


def check_callee(name: str, function: object) -> None:
    """Raise ConfigError unless a call of `function` can do the work of a task."""
    if isinstance(function, type):
        raise ConfigError(f"task {name}: a class is no task: register a function that makes it")
    if not callable(function):
        raise ConfigError(
            f"task {name}: {function!r} cannot be called: write @app.task on a function, with "
            "options by name, as in @app.task(queue=...); @staticmethod and @classmethod go above"
        )
    called = _called(function)
    if inspect.isgeneratorfunction(called) or inspect.isasyncgenfunction(called):
        raise ConfigError(
            f"task {name}: a function that yields is no task, since a call of it runs nothing: do "
            "the work in a loop, and return what is to be kept"
        )
    if _is_method(called):
        raise ConfigError(
            f"task {name}: a method needs its object, which cannot travel: use a function of the "
            "module, a @staticmethod, or register the method of an object with a name="
        )


def _is_method(function: Callable[..., Any]) -> bool:
    """Say whether this is the function of a method, in the body of its class."""
    scope = getattr(function, "__qualname__", "").rpartition(".")[0]
    if not inspect.isfunction(function) or not scope or scope.endswith("<locals>"):
        return False
    names = function.__code__.co_varnames[: function.__code__.co_argcount]
    return names[:1] in (("self",), ("cls",))


def place_of(name: str, function: Callable[..., Any], wanted: RunIn | None) -> RunIn:
    """Return where a function runs: what was asked for, or what its kind needs.

    Raises:
        ConfigError: the function cannot run there, or only its author can know where.
    """
    is_async = inspect.iscoroutinefunction(_called(function))
    if wanted not in (None, "loop", "thread", "process"):
        raise ConfigError(f"task {name}: run_in is {wanted!r}, use 'thread' or 'process'")
    place: RunIn = wanted or ("loop" if is_async else "thread")
    if is_async and place != "loop":
        raise ConfigError(f"task {name}: run_in={place!r} is for `def`, this is `async def`")
    if not is_async and place == "loop":
        raise ConfigError(f"task {name}: a `def` function would block the loop, use 'thread'")
    if wanted is None and not is_async and any(map(is_lazy, _layers(function))):
        raise ConfigError(
            f"task {name}: a `def` is wrapped around an `async def` or a function that yields, and "
            "a call of it may only begin the work: make the wrapper `async def`, or say "
            "run_in='thread' if it does the work itself"
        )
    return place


def is_lazy(function: Callable[..., Any]) -> bool:
    """Say whether a call of a function runs nothing yet."""
    return (
        inspect.iscoroutinefunction(function)
        or inspect.isgeneratorfunction(function)
        or inspect.isasyncgenfunction(function)
    )


def returns_unfinished(annotation: Any) -> bool:
    """Say whether a return annotation promises something that has yet to be run."""
    kind = get_origin(annotation) or annotation
    return isinstance(kind, type) and issubclass(kind, (Awaitable, AsyncIterator, Iterator))


def returns_a_value(annotation: Any) -> bool:
    """Say whether a return annotation leaves out None; one that cannot be told does not."""
    kind, parts = get_origin(annotation), get_args(annotation)
    if kind is Annotated:
        return returns_a_value(parts[0])
    if kind in (Union, UnionType):
        return all(returns_a_value(part) for part in parts)
    if kind is Literal:
        return None not in parts
    return isinstance(kind or annotation, type) and annotation not in (Any, object, type(None))


def is_unfinished(result: object) -> bool:
    """Say whether a returned object stands for work that was not done; a coroutine is closed."""
    if inspect.iscoroutine(result):
        result.close()  # else Python warns, at any later time, that it was never awaited
    return isinstance(result, _UNFINISHED)
