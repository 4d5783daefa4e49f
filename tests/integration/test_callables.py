"""Tasks that are no plain functions run, and what only looks like a run does not complete."""

import functools
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future
from typing import Any

import pytest

from qcore import App, JobStatus
from tests.support.workers import dead, reached, working


@pytest.fixture
async def app(redis_url: str, namespace: str) -> AsyncIterator[App]:
    async with App(redis_url, namespace=namespace) as app:
        yield app


class Shop:
    """Its methods, its instances and partials of these are tasks."""

    async def order(self, n: int) -> int:
        return n + 1

    def count(self, n: int) -> int:
        return n + 1

    async def __call__(self, n: int, more: int = 1) -> int:
        return n + more

    @staticmethod
    async def post(n: int) -> int:
        return n + 1


async def test_callables_run_where_their_code_belongs(app: App):
    shop = Shop()
    functions: list[Callable[..., Any]] = [
        shop.order,
        shop.count,
        shop,
        functools.partial(shop, more=1),
        Shop.__dict__["post"],
        lambda n: n + 1,  # pyright: ignore[reportUnknownLambdaType]
    ]
    tasks = [app.task(name=f"task.{i}")(function) for i, function in enumerate(functions)]
    async with working(app):
        for task in tasks:
            assert await (await task.enqueue(1)).result(timeout=10) == 2, task.name


@pytest.mark.parametrize("keep", [0, 60])
async def test_run_that_only_began_the_work_never_completes(app: App, keep: float):
    """It would have completed in silence with nothing to keep; a repeat would not do more."""

    async def work() -> None:
        raise AssertionError("nobody awaits it")

    def produce() -> Any:
        yield 1

    returned: list[Callable[[], Any]] = [work, produce, lambda: map(print, [1]), Future]

    @app.task(keep=keep)
    def in_thread(number: int) -> Any:
        return returned[number]()

    @app.task(keep=keep)
    async def on_loop(number: int) -> Any:
        return returned[number]()

    async with working(app):
        for task in (in_thread, on_loop):
            for number in range(len(returned)):
                record = await dead(app, await task.enqueue(number))
                assert (record.errors[0].kind, record.attempts) == ("ResultError", 1)
                assert "which is yet to be run" in str(record.reason)
        done = await app.task(name="range", keep=keep)(range_of).enqueue(3)
        if keep:
            await reached(app, done, JobStatus.COMPLETED)


def range_of(n: int) -> list[int]:
    return list(range(n))
