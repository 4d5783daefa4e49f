"""Tasks: how a function is registered and called, and what a dispatch may ask for."""

from datetime import UTC, datetime, timedelta

import msgspec
import pytest

from qcore import (
    App,
    ArgumentError,
    ConfigError,
    Context,
    JobHandle,
    Retry,
    UnknownQueue,
)
from qcore.model.codec import decode_envelope
from tests.support.recorder import Recorder

pytestmark = pytest.mark.usefixtures("_no_environment")


@pytest.fixture
def _no_environment(monkeypatch):
    for name in ("QCORE_URL", "QCORE_NAMESPACE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def app() -> App:
    return App("redis://nowhere", queues=["high", "default", "low"])


def module_level(a: int) -> int:
    return a


async def module_level_async(a: int) -> int:
    return a


# -- registration ----------------------------------------------------------------------------------


def test_task_without_options_takes_its_name_from_the_module(app):
    task = app.task(module_level)
    assert task.name == f"{__name__}.module_level"
    assert app.tasks == {task.name: task}
    assert task.settings.queue == "default"
    assert task.settings.retry == Retry()
    assert (task.settings.timeout_s, task.settings.keep_s) == (None, None)


def test_task_with_options_keeps_them(app):
    retry = Retry(max_attempts=2, backoff=1)
    task = app.task(
        name="pay", queue="high", timeout=timedelta(minutes=1), retry=retry, keep=5, run_in="thread"
    )(module_level)
    settings = task.settings
    assert (settings.name, settings.queue, settings.retry) == ("pay", "high", retry)
    assert (settings.timeout_s, settings.keep_s, settings.run_in) == (60, 5, "thread")


@pytest.mark.parametrize(
    ("function", "run_in", "place"),
    [
        (module_level_async, None, "loop"),
        (module_level, None, "thread"),
        (module_level, "thread", "thread"),
        (module_level, "process", "process"),
    ],
)
def test_task_runs_where_its_kind_needs(app, function, run_in, place):
    assert app.task(run_in=run_in)(function).settings.run_in == place


@pytest.mark.parametrize(
    ("function", "run_in", "message"),
    [
        (module_level_async, "thread", "run_in='thread' is for `def`, this is `async def`"),
        (module_level_async, "process", "run_in='process' is for `def`, this is `async def`"),
        (module_level, "loop", "a `def` function would block the loop, use 'thread'"),
        (module_level, "moon", "run_in is 'moon', use 'thread' or 'process'"),
    ],
)
def test_task_that_cannot_run_there_is_refused(app, function, run_in, message):
    with pytest.raises(ConfigError, match=rf"^task pay: {message}$"):
        app.task(name="pay", run_in=run_in)(function)


def test_task_registered_twice_is_refused_by_name(app):
    app.task(name="pay")(module_level)
    with pytest.raises(ConfigError, match="task pay is registered twice: give one of them another"):
        app.task(name="pay")(module_level_async)


def test_task_in_a_queue_that_is_not_declared_is_refused(app):
    with pytest.raises(UnknownQueue, match="queue 'other' is not declared; the app has high, def"):
        app.task(queue="other")(module_level)


@pytest.mark.parametrize("timeout", [0, -1, timedelta(seconds=-1)])
def test_task_with_a_timeout_of_nothing_is_refused(app, timeout):
    with pytest.raises(ConfigError, match=r"timeout is \S+ s, allowed is more than 0"):
        app.task(timeout=timeout)(module_level)


@pytest.mark.parametrize("keep", [-1, timedelta(seconds=-1)])
def test_task_with_a_negative_keep_is_refused(app, keep):
    with pytest.raises((ConfigError, ArgumentError), match="keep"):
        app.task(keep=keep)(module_level)


def test_task_refused_is_not_registered(app):
    with pytest.raises(UnknownQueue):
        app.task(queue="other")(module_level)
    assert app.tasks == {}


def test_default_queue_is_the_last_one_when_none_has_that_name():
    app = App("redis://nowhere", queues=["a", "b"])
    assert app.task(module_level).settings.queue == "b"


@pytest.mark.parametrize(
    ("queues", "message"),
    [
        ([], "give a list of names"),
        ("default", "queues is 'default', give a list of names"),
        (["a", "a"], "names a queue twice"),
        (["a b"], "queue 'a b' is not a name"),
    ],
)
def test_app_with_impossible_queues_is_refused(queues, message):
    with pytest.raises(ConfigError, match=message):
        App("redis://nowhere", queues=queues)


def test_app_with_an_impossible_namespace_is_refused():
    with pytest.raises(ConfigError, match="namespace 'a:b' is not a name"):
        App("redis://nowhere", namespace="a:b")


# -- calling the function --------------------------------------------------------------------------


def test_task_is_callable_as_it_was(app):
    assert app.task(module_level)(3) == 3


async def test_task_async_is_callable_as_it_was(app):
    assert await app.task(module_level_async)(3) == 3


def test_task_called_directly_gets_a_context_of_its_own(app):
    def task(ctx: Context, a: int) -> tuple:
        return (ctx.task, ctx.queue, ctx.attempt, ctx.job_id, ctx.shutdown_requested, ctx.state, a)

    registered = app.task(name="t", queue="low")(task)
    assert registered(5) == ("t", "low", 1, "", False, None, 5)
    assert registered(a=5)[-1] == 5


def test_task_called_with_a_context_gets_that_one(app):
    def task(ctx: Context, a: int) -> Context:
        return ctx

    registered = app.task(name="t")(task)
    other = app.task(name="u")(task)(1)
    assert registered(other, 1) is other
    assert registered(ctx=other, a=1) is other


def test_task_looks_like_its_function(app):
    def task():
        """Do it."""

    registered = app.task(task)
    assert (registered.__name__, registered.__doc__) == ("task", "Do it.")
    assert registered.__wrapped__ is task
    assert registered.__module__ == task.__module__


# -- options ---------------------------------------------------------------------------------------


@pytest.fixture
def recorder(monkeypatch) -> Recorder:
    recorder = Recorder()
    monkeypatch.setattr(App, "broker", recorder)
    return recorder


async def test_enqueue_sends_one_job_and_returns_its_handle(app, recorder):
    task = app.task(name="pay", queue="low")(module_level)
    handle = await task.enqueue(a=7)
    (job,) = recorder.jobs
    assert isinstance(handle, JobHandle)
    assert (handle.id, handle.queue, handle.ref) == (job.id, "low", f"low/{job.id}")
    assert (job.queue, job.delay_ms, job.eta_ms) == ("low", None, None)
    envelope = decode_envelope(job.envelope)
    assert (envelope.version, envelope.task, envelope.keep_ms) == (1, "pay", -1)
    assert msgspec.msgpack.decode(envelope.args) == {"a": 7}


@pytest.mark.parametrize(
    ("options", "field", "expected"),
    [
        ({"delay": 1.5}, "delay_ms", 1500),
        ({"delay": timedelta(minutes=2)}, "delay_ms", 120_000),
        ({"delay": 0}, "delay_ms", 0),
        ({"eta": datetime(2027, 1, 1, tzinfo=UTC)}, "eta_ms", 1_798_761_600_000),
        ({"queue": "high"}, "queue", "high"),
    ],
)
async def test_option_reaches_the_job(app, recorder, options, field, expected):
    await app.task(module_level).options(**options).enqueue(1)
    assert getattr(recorder.jobs[0], field) == expected


@pytest.mark.parametrize(("keep", "expected"), [(2.5, 2500), (0, 0), (timedelta(days=1), 86400000)])
async def test_option_keep_travels_in_the_envelope(app, recorder, keep, expected):
    await app.task(module_level).options(keep=keep).enqueue(1)
    assert decode_envelope(recorder.jobs[0].envelope).keep_ms == expected


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"queue": "other"}, UnknownQueue, "queue 'other' is not declared; the app has high, "),
        ({"delay": -1}, ArgumentError, "delay is -1, allowed is 0 and more"),
        ({"delay": timedelta(seconds=-1)}, ArgumentError, "delay is -1 day, .*allowed is 0"),
        ({"keep": -0.5}, ArgumentError, r"keep is -0\.5, allowed is 0 and more"),
        ({"eta": datetime(2027, 1, 1)}, ArgumentError, "eta .* has no time zone, use datetime.UTC"),  # noqa: DTZ001
        (
            {"delay": 1, "eta": datetime(2027, 1, 1, tzinfo=UTC)},
            ArgumentError,
            "give delay or eta, not both",
        ),
    ],
)
def test_option_that_cannot_be_is_refused(app, options, error, message):
    task = app.task(name="pay")(module_level)
    with pytest.raises(error, match=rf"^task pay: {message}"):
        task.options(**options)


async def test_options_leave_the_task_as_it_was(app, recorder):
    task = app.task(module_level)
    task.options(delay=5, queue="high")
    await task.enqueue(1)
    assert (recorder.jobs[0].delay_ms, recorder.jobs[0].queue) == (None, "default")


async def test_enqueue_of_bad_arguments_sends_nothing(app, recorder):
    task = app.task(name="pay")(module_level)
    with pytest.raises(ArgumentError):
        await task.enqueue("no")
    assert recorder.jobs == []


async def test_enqueue_before_open_says_how_to_open(app):
    with pytest.raises(ConfigError, match="the app is not open: use `async with app:`"):
        await app.task(module_level).enqueue(1)


# -- keeping and following -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("task_keep", "job_keep", "result", "expected"),
    [
        (None, -1, 1, 86_400_000),
        (None, -1, None, 0),
        (5, -1, 1, 5000),
        (5, -1, None, 5000),
        (0, -1, 1, 0),
        (5, 0, 1, 0),
        (0, 700, None, 700),
    ],
)
def test_keep_is_what_the_job_asks_else_what_the_task_says(
    app, task_keep, job_keep, result, expected
):
    task = app.task(keep=task_keep)(module_level)
    assert task.keep_ms(job_keep, result) == expected


@pytest.mark.parametrize("ref", ["", "default", "/id", "default/"])
def test_job_of_what_is_no_reference_is_refused(app, ref):
    with pytest.raises(ArgumentError, match="is no job reference: it reads QUEUE/ID"):
        app.job(ref)


def test_job_of_a_reference_has_queue_and_id(app):
    handle = app.job("default/an/id")
    assert (handle.queue, handle.id, handle.ref) == ("default", "an/id", "default/an/id")
    assert repr(handle) == "JobHandle('default/an/id')"


# -- the app ---------------------------------------------------------------------------------------


async def test_app_yields_the_value_of_its_lifespan(app):
    ended = []

    @app.lifespan
    async def life():
        yield "state"
        ended.append(True)

    async with app.lifespan_state() as state:
        assert state == "state"
        assert not ended
    assert ended


async def test_app_without_a_lifespan_has_no_state(app):
    async with app.lifespan_state() as state:
        assert state is None


def test_app_has_one_lifespan(app):
    async def life():
        yield

    app.lifespan(life)
    with pytest.raises(ConfigError, match="has a lifespan already"):
        app.lifespan(life)


def test_app_configure_overrides_what_was_given(app):
    app.configure(url="redis://flag", namespace="flag")
    assert (app.config.url, app.config.namespace) == ("redis://flag", "flag")
    app.configure()
    assert app.config.url == "redis://flag"


async def test_app_opens_twice_and_closes_twice(app):
    await app.open()
    broker = app.broker
    await app.open()
    assert app.broker is broker
    await app.close()
    await app.close()
    with pytest.raises(ConfigError, match="not open"):
        _ = app.broker
