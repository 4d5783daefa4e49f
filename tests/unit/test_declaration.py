"""Options of another type: refused where they are given, by their name."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import Any

import pytest

from qcore import App, ArgumentError, ConfigError, Exponential, Retry, RetryLater


@pytest.fixture
def app() -> App:
    return App("redis://nowhere")


async def pay(order: int) -> None: ...


def test_retry_as_a_number_is_how_often_it_may_run(app: App):
    task = app.task(name="pay", retry=3)(pay)
    assert task.settings.retry == Retry(max_attempts=3)
    assert app.task(name="once", retry=1, at_most_once=True)(pay).settings.retry.max_attempts == 1


def test_durations_are_text_as_the_command_takes_it(app: App):
    task = app.task(timeout="5m", kill_timeout="6m", keep="1d", expires="90")(pay)
    settings = task.settings
    assert (settings.timeout_s, settings.kill_timeout_s) == (300, 360)
    assert (settings.keep_s, settings.expires_ms) == (86400, 90_000)
    options = task.options(delay="10s", keep="2h", expires="1m")._options
    assert (options.delay_ms, options.keep_ms, options.expires_ms) == (10_000, 7_200_000, 60_000)
    assert RetryLater("10m").delay_s == 600
    retry = Retry(backoff=["10s", 60, timedelta(hours=1), "2h"], max_attempts=9)
    assert [retry.base_delay_s(n) for n in (1, 2, 3, 4, 5)] == [10, 60, 3600, 7200, 7200]
    assert Retry(backoff="5m").base_delay_s(3) == 300
    assert Retry(backoff=Exponential(first="1s", factor=2, max="1m")).base_delay_s(9) == 60


class Queue(str, Enum):  # noqa: UP042 - as it was written before StrEnum
    FAST = "fast"
    SLOW = "slow"


def test_names_from_an_enum_are_its_values():
    app = App("redis://nowhere", queues=list(Queue), namespace=Queue.FAST)
    assert [f"{queue}" for queue in (app.config.namespace, *app.queues)] == ["fast", "fast", "slow"]
    task = app.task(queue=Queue.SLOW)(pay)
    assert f"{task._maker.job((1,), {}).queue}" == "slow"
    assert f"{task.options(queue=Queue.FAST)._maker.job((1,), {}).queue}" == "fast"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"retry": "3"}, "retry is '3', give a Retry, or how often it may run"),
        ({"retry": True}, "retry is True, give a Retry"),
        ({"retry": [1, 2]}, r"retry is \[1, 2\], give a Retry"),
        ({"retry": 2.5}, r"retry is 2\.5, give a Retry"),
        ({"retry": 0}, "retry is 0, allowed is 1 and more; 1: never again"),
        ({"retry": Retry}, "retry is <class .*, give a Retry"),
        ({"timeout": "soon"}, "timeout is 'soon', which is no duration"),
        ({"timeout": True}, "timeout is True, which is no duration"),
        ({"timeout": 5, "kill_timeout": [9]}, r"kill_timeout is \[9\], which is no duration"),
        ({"keep": "for ever"}, "keep is 'for ever', which is no duration"),
        ({"expires": datetime.now(UTC)}, r"expires is datetime.*, which is no duration"),
        ({"queue": 5}, "queue is 5, give a name"),
        ({"queue": ["a"]}, r"queue is \['a'\], give a name"),
        ({"exclusive": "no"}, "exclusive is 'no', give True or False"),
        ({"at_most_once": 1}, "at_most_once is 1, give True or False"),
        ({"run_in": "moon"}, "run_in is 'moon', use 'thread' or 'process'"),
        ({"run_in": 5}, "run_in is 5, use 'thread' or 'process'"),
    ],
)
def test_task_option_of_another_type_is_refused_when_it_is_registered(
    app: App, options: dict[str, Any], message: str
):
    with pytest.raises(ConfigError, match=rf"^task pay: {message}"):
        app.task(name="pay", **options)(pay)
    assert app.tasks == {}


def test_task_name_of_another_type_is_refused(app: App):
    with pytest.raises(ConfigError, match="name is 5, give text"):
        app.task(name=5)(pay)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"delay": "soon"}, "delay is 'soon', which is no duration"),
        ({"delay": False}, "delay is False, which is no duration"),
        ({"keep": []}, r"keep is \[\], which is no duration"),
        ({"expires": {}}, r"expires is \{\}, which is no duration"),
        ({"eta": "tomorrow"}, "eta is 'tomorrow', give an aware datetime"),
        ({"eta": 5}, "eta is 5, give an aware datetime"),
        ({"confirm": "1"}, "confirm is '1', give a whole number"),
        ({"confirm": True}, "confirm is True, give a whole number"),
        ({"queue": 5}, "queue is 5, give a name"),
    ],
)
def test_option_of_a_job_of_another_type_is_refused(
    app: App, options: dict[str, Any], message: str
):
    task = app.task(name="pay")(pay)
    with pytest.raises(ArgumentError, match=rf"^task pay: {message}"):
        task.options(**options)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_attempts": "3"}, "max_attempts is '3', give a whole number"),
        ({"max_attempts": True}, "max_attempts is True, give a whole number"),
        ({"max_attempts": 2.0}, r"max_attempts is 2\.0, give a whole number"),
        ({"jitter": "0.1"}, "jitter is '0.1', give a share"),
        ({"backoff": "soon"}, "backoff is 'soon', which is no duration"),
        ({"backoff": [1, None]}, "backoff is None, which is no duration"),
        ({"backoff": None}, "backoff is None, which is no duration"),
        ({"backoff": Exponential(first=None)}, "backoff is None, which is no duration"),  # pyright: ignore[reportArgumentType]
        ({"backoff": Exponential(factor="2")}, "factor is '2', give a number"),  # pyright: ignore[reportArgumentType]
    ],
)
def test_retry_setting_of_another_type_is_refused_by_name(settings: dict[str, Any], message: str):
    with pytest.raises(ConfigError, match=rf"^Retry: {message}"):
        Retry(**settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"url": 5}, "url is 5, give text"),
        ({"queues": 5}, "queues is 5, give a list of names"),
        ({"queues": {"a", "b"}}, "queues is {.*, give a list of names"),
        ({"queues": [5]}, "queue is 5, give a name"),
        ({"namespace": 5}, "namespace is 5, give a name"),
    ],
)
def test_app_setting_of_another_type_is_refused_by_name(settings: dict[str, Any], message: str):
    with pytest.raises(ConfigError, match=rf"^{message}"):
        App(**settings)


async def forgot_to_yield() -> None: ...


def yields_at_once() -> Iterator[None]:
    yield


@pytest.mark.parametrize("function", [forgot_to_yield, yields_at_once, None, "life"])
def test_lifespan_that_cannot_be_entered_is_refused_when_it_is_registered(app: App, function: Any):
    with pytest.raises(ConfigError, match="give an async generator function that yields once"):
        app.lifespan(function)


async def test_chunk_of_another_type_is_refused(app: App):
    with pytest.raises(ArgumentError, match="chunk is '5', give a whole number"):
        await app.task(name="pay")(pay).enqueue_many([(1,)], chunk="5")  # pyright: ignore[reportArgumentType]


async def test_wait_of_no_duration_is_refused(app: App):
    with pytest.raises(ArgumentError, match=r"^timeout is 'soon', which is no duration"):
        await app.job("default/x").result(timeout="soon")
