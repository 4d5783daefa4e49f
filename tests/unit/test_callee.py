"""What can be a task: looked at when it is registered, by what would be called."""

import asyncio
import contextlib
import functools
import inspect
import math
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Generator, Iterator
from typing import Any

import pytest

from qcore import App, ConfigError, Context
from qcore.model.callee import is_unfinished


@pytest.fixture
def app() -> App:
    return App("redis://nowhere")


async def on_loop(a: int, b: int = 1) -> int:
    return a + b


def in_thread(a: int, b: int = 1) -> int:
    return a + b


def yields(a: int) -> Iterator[int]:
    yield a


async def yields_later(a: int) -> AsyncIterator[int]:
    yield a


def wrapped(function: Callable[..., Any]) -> Callable[..., Any]:
    """Do what a decorator for `def` functions does to any other."""

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return wrapper


def wrapped_async(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    async def wrapper(*args: Any, **kwargs: Any) -> Any:
        return await function(*args, **kwargs)

    return wrapper


class Adder:
    def __call__(self, a: int, b: int = 1) -> int:
        return a + b


class AsyncCallable:
    async def __call__(self, a: int, b: int = 1) -> int:
        return a + b


class YieldingCallable:
    def __call__(self, a: int) -> Iterator[int]:
        yield a


class WrappedCallable:
    @wrapped
    async def __call__(self, a: int) -> int:
        return a


class Mailer:
    async def send(self, a: int, b: int = 1) -> int:
        return a + b

    def print(self, a: int, b: int = 1) -> int:
        return a + b

    @staticmethod
    async def post(a: int, b: int = 1) -> int:
        return a + b

    @classmethod
    def file(cls, a: int, b: int = 1) -> int:
        return a + b


@pytest.mark.parametrize(
    ("function", "place"),
    [
        (on_loop, "loop"),
        (in_thread, "thread"),
        (functools.partial(on_loop, b=2), "loop"),
        (functools.partial(in_thread, b=2), "thread"),
        (functools.partial(functools.partial(on_loop), b=2), "loop"),
        (functools.partial(AsyncCallable(), b=2), "loop"),
        (Adder(), "thread"),
        (AsyncCallable(), "loop"),
        (Mailer().send, "loop"),
        (Mailer().print, "thread"),
        (Mailer.post, "loop"),
        (inspect.getattr_static(Mailer, "post"), "loop"),
        (Mailer.file, "thread"),
        (lambda a, b=1: a + b, "thread"),
        (wrapped(in_thread), "thread"),
        (wrapped_async(on_loop), "loop"),
        (wrapped_async(in_thread), "loop"),
        (functools.lru_cache(in_thread), "thread"),
    ],
)
def test_callable_is_a_task_where_its_code_can_run(app: App, function: Any, place: str):
    task = app.task(name="task")(function)
    assert task.settings.run_in == place
    assert task.arguments.encode((1,), {"b": 5}) == b"\x82\xa1a\x01\xa1b\x05"
    call = task(1)
    assert inspect.iscoroutine(call) is (place == "loop")
    if inspect.iscoroutine(call):
        call.close()


def test_annotations_of_what_is_called_count(app: App):
    functions = [
        functools.partial(on_loop, b=2),
        AsyncCallable(),
        Mailer().send,
        wrapped(in_thread),
    ]
    for i, function in enumerate(functions):
        task = app.task(name=f"task.{i}")(function)
        assert task.arguments.returns is int
        with pytest.raises(Exception, match=r"Expected `int`, got `str` - at `\$\.a`"):
            task.arguments.encode(("one",), {})


def test_callables_inject_the_context(app: App):
    class Asks:
        async def __call__(self, ctx: Context, a: int) -> int:
            return ctx.attempt + a

    task = app.task(name="asks")(Asks())
    assert task.arguments.injected == ["ctx"]
    assert asyncio.run(task(1)) == 2


def test_task_of_a_method_keeps_the_name_of_its_class(app: App):
    assert app.task(Mailer().print).name == f"{__name__}.Mailer.print"


@pytest.mark.parametrize(
    "function",
    [functools.partial(on_loop), AsyncCallable(), lambda a: a],  # pyright: ignore[reportUnknownLambdaType]
)
def test_callable_without_a_name_must_be_given_one(app: App, function: Any):
    with pytest.raises(
        ConfigError, match=r"has no name of its own .*: give it one, app.task\(name="
    ):
        app.task(function)
    assert app.tasks == {}


def returns_coroutine(a: int) -> Coroutine[Any, Any, int]:
    return on_loop(a)


def returns_awaitable(a: int) -> "asyncio.Future[int]":
    raise NotImplementedError


async def returns_generator(a: int) -> Generator[int, None, None]:
    raise NotImplementedError


@contextlib.contextmanager
def managed() -> Iterator[int]:
    yield 1


YIELDS = "a function that yields is no task, since a call of it runs nothing"
WRAPPED = "a `def` is wrapped around an `async def` or a function that yields"
METHOD = "a method needs its object, which cannot travel"
UNRUN = "it returns .* which is yet to be run"


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (yields, YIELDS),
        (yields_later, YIELDS),
        (functools.partial(yields, 1), YIELDS),
        (YieldingCallable(), YIELDS),
        (wrapped(on_loop), WRAPPED),
        (wrapped(yields), WRAPPED),
        (wrapped(wrapped_async(in_thread)), WRAPPED),
        (functools.lru_cache(on_loop), WRAPPED),
        (managed, WRAPPED),
        (functools.partial(wrapped(on_loop)), WRAPPED),
        (WrappedCallable(), WRAPPED),
        (functools.partial(App("redis://nowhere").task(on_loop)), WRAPPED),
        (returns_coroutine, UNRUN),
        (returns_awaitable, UNRUN),
        (returns_generator, UNRUN),
        (Mailer, "a class is no task"),
        (int, "a class is no task"),
        (Mailer.send, METHOD),
        (inspect.getattr_static(Mailer, "file"), "cannot be called"),
        (functools.partialmethod(in_thread), "cannot be called"),
        (property(in_thread), "cannot be called"),
        ("pay", "cannot be called: write @app.task on a function, with options by name"),
        (5, "cannot be called"),
        (print, "is not possible, arguments travel by name"),
        (len, "is not possible, arguments travel by name"),
        (math.sqrt, "is not possible, arguments travel by name"),
    ],
)
def test_what_cannot_do_the_work_is_refused_when_it_is_registered(
    app: App, function: Any, message: str
):
    with pytest.raises(ConfigError, match=rf"^task pay: .*{message}"):
        app.task(name="pay")(function)
    assert app.tasks == {}


def test_function_whose_parameters_cannot_be_read_is_refused(app: App, monkeypatch: Any):
    def hidden(*_: Any, **__: Any) -> Any:
        raise ValueError("no signature found for builtin")

    monkeypatch.setattr(inspect, "signature", hidden)
    with pytest.raises(ConfigError, match=r"^task nap: its parameters cannot be read"):
        app.task(name="nap")(time.sleep)


def test_task_is_no_function_for_another_task(app: App):
    with pytest.raises(ConfigError, match="this is a task already: register its function once"):
        app.task(app.task(in_thread))


def test_wrapper_that_does_the_work_itself_says_so(app: App):
    @functools.wraps(on_loop)
    def runs(*args: Any, **kwargs: Any) -> Any:
        return asyncio.run(on_loop(*args, **kwargs))

    assert app.task(run_in="thread")(runs)(1) == 2


async def _nothing() -> None: ...


@pytest.mark.parametrize(
    "make",
    [
        _nothing,
        lambda: yields(1),
        lambda: yields_later(1),
        lambda: map(abs, [1]),
        lambda: filter(None, [1]),
        lambda: zip([1], strict=True),
    ],
)
def test_result_that_stands_for_work_is_told_from_one_that_is(make: Callable[[], Any]):
    assert is_unfinished(make())


async def test_result_that_runs_elsewhere_is_unfinished():
    task = asyncio.ensure_future(_nothing())
    assert is_unfinished(task)
    await task


@pytest.mark.parametrize("result", [None, 0, "x", [], {}, {1}, (), range(3), iter, b""])
def test_result_that_is_there_is_finished(result: object):
    assert not is_unfinished(result)
