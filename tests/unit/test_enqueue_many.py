"""Many jobs: in chunks, in order, and what is told when it ends half-way."""

import asyncio
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from qcore import App, ArgumentError, BrokerUnavailable, QueueFull
from qcore.model.codec import decode_envelope
from tests.support.recorder import Recorder


def module_level(a: int) -> int:
    return a


@pytest.fixture
def app() -> App:
    return App("redis://nowhere", queues=["high", "default", "low"])


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    recorder = Recorder()
    monkeypatch.setattr(App, "broker", recorder)
    return recorder


def numbers(recorder: Recorder) -> list[int]:
    return [msgspec.msgpack.decode(decode_envelope(j.envelope).args)["a"] for j in recorder.jobs]


async def test_enqueue_many_takes_tuples_mappings_and_async_sources(app, recorder):
    task = app.task(module_level)

    async def source():
        for n in range(3):
            await asyncio.sleep(0)
            yield {"a": n}

    assert await task.enqueue_many([(n,) for n in range(3)]) == 3
    assert await task.enqueue_many({"a": n} for n in range(3)) == 3
    assert await task.enqueue_many(source()) == 3
    assert await task.enqueue_many([]) == 0
    assert numbers(recorder) == [0, 1, 2] * 3


async def test_enqueue_many_sends_chunks_in_order_with_memory_for_one(app, recorder):
    task = app.task(module_level)
    made = 0

    def source():
        nonlocal made
        for n in range(1001):
            assert n - len(recorder.jobs) <= 500
            made += 1
            yield (n,)

    assert await task.enqueue_many(source()) == made == 1001
    assert [len(call) for call in recorder.calls] == [500, 500, 1]
    assert numbers(recorder) == list(range(1001))


async def test_enqueue_many_keeps_its_chunk(app, recorder):
    await app.task(module_level).enqueue_many([(n,) for n in range(7)], chunk=3)
    assert [len(call) for call in recorder.calls] == [3, 3, 1]


@pytest.mark.parametrize("chunk", [0, -1, 501])
async def test_enqueue_many_with_an_impossible_chunk_is_refused(app, recorder, chunk):
    with pytest.raises(ArgumentError, match=rf"chunk is {chunk}, allowed is 1 to 500"):
        await app.task(module_level).enqueue_many([(1,)], chunk=chunk)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (("no",), "item 5: task pay: Expected `int`"),
        ({"b": 1}, "item 5: task pay: "),
        ((), "item 5: task pay: missing a required argument"),
        (5, r"item 5 has the type int: give a tuple of positional arguments, as in \(42,\)"),
        ("no", "item 5 has the type str: give a tuple"),
        ([1], "item 5 has the type list: give a tuple"),
    ],
)
async def test_enqueue_many_names_the_item_and_what_was_enqueued(app, recorder, bad, message):
    task = app.task(name="pay")(module_level)
    items = [*((n,) for n in range(5)), bad]
    with pytest.raises(ArgumentError, match=f"^{message}") as e:
        await task.enqueue_many(items, chunk=2)
    assert e.value.__notes__ == ["4 jobs were enqueued before"]
    assert numbers(recorder) == [0, 1, 2, 3]


class NoMoreRowsError(Exception): ...


async def test_enqueue_many_notes_what_was_enqueued_for_an_error_of_the_items(app, recorder):
    def source():
        yield from ((n,) for n in range(5))
        raise NoMoreRowsError

    with pytest.raises(NoMoreRowsError) as e:
        await app.task(module_level).enqueue_many(source(), chunk=2)
    assert e.value.__notes__ == ["4 jobs were enqueued before"]


async def test_enqueue_many_notes_what_was_enqueued_when_it_is_cancelled(app, recorder):
    asking = asyncio.current_task()
    assert asking is not None

    async def source():
        for n in range(5):
            yield (n,)
        asking.cancel()
        await asyncio.sleep(0)

    with pytest.raises(asyncio.CancelledError) as e:
        await app.task(module_level).enqueue_many(source(), chunk=2)
    assert e.value.__notes__ == ["4 jobs were enqueued before"]


@pytest.mark.parametrize(
    ("error", "more"),
    [
        (asyncio.CancelledError(), ", and the next 2 may have been"),
        (BrokerUnavailable("no answer", sent=True), ", and the next 2 may have been"),
        (BrokerUnavailable("no way", sent=False), ""),
        (QueueFull("full"), ""),
    ],
)
async def test_enqueue_many_notes_what_a_call_that_failed_leaves_open(
    app, recorder, monkeypatch, error, more
):
    enqueue = recorder.enqueue

    async def fail_later(jobs, *, confirm=0):
        if recorder.calls:
            raise error
        return await enqueue(jobs, confirm=confirm)

    monkeypatch.setattr(recorder, "enqueue", fail_later)
    with pytest.raises(type(error)) as e:
        await app.task(module_level).enqueue_many([(n,) for n in range(4)], chunk=2)
    assert e.value.__notes__ == [f"2 jobs were enqueued before{more}"]


async def test_enqueue_many_with_options_gives_them_to_each(app, recorder):
    await app.task(module_level).options(delay=1).enqueue_many([(1,), (2,)])
    assert [job.delay_ms for job in recorder.jobs] == [1000, 1000]


# -- at a pace -------------------------------------------------------------------------------------


async def paced(app: App, recorder: Recorder, count: int, rate: Any, **options: Any) -> list[Any]:
    """Return the due times of so many jobs."""

    @app.task
    def work(a: int) -> None: ...

    assert (
        await work.options(**options).enqueue_many(((i,) for i in range(count)), rate=rate) == count
    )
    return [job.delay_ms if job.eta_ms is None else job.eta_ms for job in recorder.jobs]


@pytest.mark.parametrize(
    ("rate", "step_ms"), [(100, 10), (0.5, 2000), ((1000, 2.0), 2), ((60, "1m"), 1000)]
)
async def test_jobs_at_a_rate_are_due_one_after_another(
    app: App, recorder: Recorder, rate, step_ms
):
    due = await paced(app, recorder, 1200, rate)
    assert due[0] is None
    # what was sent later had waited here
    for i in range(1, 1200):
        assert (due[i] or 0) == pytest.approx(i * step_ms, abs=1500)
        assert (due[i] or 0) <= i * step_ms


async def test_pace_goes_on_top_of_a_delay_or_an_eta(app: App, recorder: Recorder):
    due = await paced(app, recorder, 3, 10, delay=3600)
    assert due == pytest.approx([3_600_000, 3_600_100, 3_600_200], abs=50)


async def test_pace_goes_on_top_of_an_eta(app: App, recorder: Recorder):
    eta = datetime(2030, 1, 1, tzinfo=UTC)
    start = round(eta.timestamp() * 1000)
    assert await paced(app, recorder, 3, 10, eta=eta) == [start, start + 100, start + 200]


@pytest.mark.parametrize(
    "rate",
    [0, -1, True, "100", (1, 2, 3), (10, 0), (10, "-1s"), float("inf"), float("nan"), ("a", 1)],
)
async def test_rate_that_is_none_is_refused_and_nothing_enqueued(
    app: App, recorder: Recorder, rate: object
):
    with pytest.raises(ArgumentError, match=r"task .*work: rate"):
        await paced(app, recorder, 3, rate)
    assert recorder.jobs == []
