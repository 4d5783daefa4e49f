"""`qcore pause`, `qcore resume` and `qcore wait-empty`, as a user runs them."""

import asyncio
import json
import signal
import subprocess
import sys
from collections.abc import AsyncIterator

import pytest

from qcore import App, BrokerUnavailable
from qcore.model.views import QueueStats
from qcore_cli.wait_empty import _wait, _wait_closed
from tests.support.commands import Command, one_line
from tests.support.moves import claim
from tests.support.waiting import eventually
from tests.support.workers import working


@pytest.fixture
async def app(redis_url: str, namespace: str) -> AsyncIterator[App]:
    async with App(redis_url, namespace=namespace, queues=("default", "other")) as app:
        await app.broker.register(app.queues)
        yield app


async def stats_of(app: App, queue: str = "default") -> QueueStats:
    (stats,) = await app.inspector.queues([queue])
    return stats


# -- pause and resume ------------------------------------------------------------------------------


async def test_pause_and_resume_of_one_queue(app: App, qcore: Command):
    said = await qcore("pause", "default", "--for", "10m", "--reason", "deploy 42")
    pause = (await stats_of(app)).paused
    assert pause is not None
    assert pause.until_ms == pause.since_ms + 600_000
    assert pause.reason == "deploy 42"
    assert (said.code, said.err) == (0, "")
    assert said.out.startswith("Paused default until 20")
    assert said.out.endswith("Z; what runs goes on.\n")
    assert (await stats_of(app, "other")).paused is None
    assert (await qcore("resume", "default")).out == "Resumed default.\n"
    assert (await stats_of(app)).paused is None
    assert (await qcore("resume", "default")).out == (
        f"default was neither paused nor closed in {app.inspector.where}.\n"
    )


async def test_pause_without_a_time_says_how_it_ends(app: App, qcore: Command):
    said = await qcore("pause", "default")
    assert said.out == "Paused default until `qcore resume default`; what runs goes on.\n"
    told = (await qcore("pause", "default", "--for", "1.5h", "--json")).json["paused"]["default"]
    assert told["until_ms"] == told["since_ms"] + 5_400_000


async def test_all_queues_are_paused_and_resumed_and_counted(app: App, qcore: Command):
    await app.inspector.close_queue("other")
    said = await qcore("pause", "--all", "--for", "60")
    assert [line.split()[1] for line in said.out.splitlines()[:2]] == ["default", "other"]
    assert said.out.splitlines()[2:] == [f"2 queues of {app.inspector.where}."]
    assert [q.paused is not None for q in await app.inspector.queues()] == [True, True]
    told = (await qcore("resume", "--all", "--json")).json
    assert told == {"resumed": ["default", "other"], "not_held": []}
    assert [(q.paused, q.closed_ms) for q in await app.inspector.queues()] == [(None, None)] * 2
    assert (await qcore("resume", "--all")).out == f"0 of 2 queues of {app.inspector.where}.\n"


async def test_pause_says_which_pause_it_replaces(app: App, qcore: Command):
    await app.broker.register(["default"])
    assert "replaces" not in (await qcore("pause", "default", "--reason", "deploy 42")).out
    lines = (await qcore("pause", "default", "--for", "10m")).out.splitlines()
    assert lines[0].startswith("Paused default until 20")
    assert lines[1].startswith("This replaces a pause since 20")
    assert lines[1].endswith("Z until resumed (deploy 42).")


async def test_reason_holds_nothing_that_a_terminal_would_obey(app: App, qcore: Command):
    await app.broker.register(["default"])
    await qcore("pause", "default", "--reason", "a\x1b[31m\tb")
    (stats,) = await app.inspector.queues(["default"])
    assert stats.paused is not None
    assert stats.paused.reason == "a[31m b"


async def test_queues_shows_what_is_held_up(app: App, qcore: Command):
    await app.inspector.pause("default", reason="deploy 42")
    await app.inspector.close_queue("other")
    default, other = (await qcore("queues", "--json")).json
    assert default["paused"]["reason"] == "deploy 42"
    assert default["closed_ms"] is None
    assert other["paused"] is None
    assert other["closed_ms"] > 0
    lines = (await qcore("queues")).out.splitlines()
    assert "  paused since 20" in lines[1]
    assert lines[1].endswith("Z until resumed (deploy 42)")
    assert "  closed since 20" in lines[2]


async def test_status_shows_what_is_held_up(app: App, qcore: Command):
    await app.inspector.pause("default", reason="deploy 42")
    said = await qcore("status")
    assert said.code == 4
    head, *_, line = said.out.splitlines()
    assert head == f"No supervisor runs in {app.inspector.where}."
    assert line.startswith("queue default: paused since 20")
    assert line.endswith("Z until resumed (deploy 42), 0 ready")
    (held,) = json.loads((await qcore("status", "--json")).out)["held"]
    assert (held["name"], held["paused"]["reason"]) == ("default", "deploy 42")


# -- wait-empty ------------------------------------------------------------------------------------


async def test_wait_empty_waits_for_what_is_ready_scheduled_and_running(app: App, qcore: Command):
    going = asyncio.Event()

    @app.task
    async def work(wait: bool) -> None:
        if wait:
            await going.wait()

    running = await work.enqueue(wait=True)
    scheduled = await work.options(delay=0.5).enqueue(wait=False)
    ready = await work.enqueue(wait=False)
    waiting = asyncio.ensure_future(qcore("wait-empty", "default"))
    async with working(app):
        await ready.result(timeout=20)
        await scheduled.result(timeout=20)
        going.set()
        said = await waiting
    assert (said.code, said.err) == (0, "")
    assert said.out.endswith(f"default is empty in {app.inspector.where}.\n")
    await running.result(timeout=1)
    assert (await work.enqueue(wait=False)).queue == "default"


@pytest.mark.parametrize(
    ("delays", "claimed", "counts"),
    [
        ([0, 0], 0, "2 ready, 0 scheduled, 0 active"),
        ([60], 0, "0 ready, 1 scheduled, 0 active"),
        ([0], 1, "0 ready, 0 scheduled, 1 active"),
    ],
)
async def test_wait_empty_gives_up_at_its_timeout_with_the_counts(
    app: App, qcore: Command, delays: list[int], claimed: int, counts: str
):
    @app.task
    async def nothing() -> None: ...

    for delay in delays:
        await nothing.options(delay=delay).enqueue()
    if claimed:
        await claim(app.broker, claimed, queues=["default"], now_ms=None)
    said = await qcore("wait-empty", "default", "--timeout", "0.1")
    assert said.code == 1
    assert one_line(said) == f"qcore: queue default is not empty after 0.1 s: {counts}"
    assert said.out == f"default: {counts}\n"


async def test_wait_empty_of_a_paused_queue_is_an_error_unless_it_is_empty(
    app: App, qcore: Command
):
    @app.task
    async def nothing() -> None: ...

    await app.inspector.pause("default")
    assert "default is empty in " in (await qcore("wait-empty", "default")).out
    await nothing.enqueue()
    said = await qcore("wait-empty", "default")
    assert said.code == 1
    assert one_line(said) == (
        "qcore: queue default is paused and holds 1 ready, 0 scheduled, 0 active, so it would not "
        "get empty: `qcore resume default` first"
    )


async def test_wait_empty_waits_for_the_last_running_job_of_a_paused_queue(
    app: App, qcore: Command
):
    began, going = asyncio.Event(), asyncio.Event()

    @app.task
    async def work() -> None:
        began.set()
        await going.wait()

    async with working(app):
        await work.enqueue()
        await began.wait()
        await app.inspector.pause("default")
        waiting = asyncio.ensure_future(qcore("wait-empty", "default"))
        # it has seen the queue by then, or sees it empty later: the answer is the same
        await qcore("queues")
        going.set()
        said = await waiting
    assert (said.code, said.err) == (0, "")


async def test_refuse_new_leaves_the_queue_closed_when_it_is_empty(app: App, qcore: Command):
    said = await qcore("wait-empty", "default", "--refuse-new")
    assert said.code == 0
    assert said.out.splitlines() == [
        f"default is empty in {app.inspector.where}.",
        "It takes no new jobs until `qcore resume default`.",
    ]
    assert (await stats_of(app)).closed_ms is not None
    assert (await qcore("resume", "default")).out == "Resumed default.\n"
    assert (await stats_of(app)).closed_ms is None


async def test_refuse_new_opens_the_queue_again_at_the_timeout(app: App, qcore: Command):
    @app.task
    async def nothing() -> None: ...

    await nothing.enqueue()
    said = await qcore("wait-empty", "default", "--refuse-new", "--timeout", "0.1s")
    assert said.code == 1
    assert said.err.splitlines() == [
        "qcore: queue default is not empty after 0.1 s: 1 ready, 0 scheduled, 0 active",
        "qcore: queue default takes new jobs again",
    ]
    assert (await stats_of(app)).closed_ms is None


async def test_refuse_new_leaves_closed_what_was_closed_before(app: App, qcore: Command):
    @app.task
    async def nothing() -> None: ...

    await nothing.enqueue()
    await app.inspector.close_queue("default")
    said = await qcore("wait-empty", "default", "--refuse-new", "--timeout", "0.1")
    assert said.code == 1
    assert "not empty" in one_line(said)
    assert (await stats_of(app)).closed_ms is not None


async def test_refuse_new_opens_the_queue_again_when_nobody_knows_whether_it_was_closed(
    app: App, monkeypatch: pytest.MonkeyPatch
):
    inspector = app.inspector
    close = inspector.close_queue

    async def lose_reply(queue: str) -> bool:
        await close(queue)
        raise BrokerUnavailable("it went away")

    monkeypatch.setattr(inspector, "close_queue", lose_reply)
    with pytest.raises(BrokerUnavailable):
        await _wait_closed(inspector, "default", None)
    assert (await stats_of(app)).closed_ms is None


async def test_wait_empty_waits_for_a_redis_that_is_away(app: App, monkeypatch: pytest.MonkeyPatch):
    @app.task
    async def nothing() -> None: ...

    await nothing.enqueue()
    inspector = app.inspector
    looks, look = 0, inspector.queues

    async def fail(names: list[str]) -> list[QueueStats]:
        nonlocal looks
        looks += 1
        if looks == 2:
            await inspector.clear("default")
            raise BrokerUnavailable("it is away")
        return await look(names)

    monkeypatch.setattr(inspector, "queues", fail)
    assert await _wait(inspector, "default", None)
    assert looks == 3


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
async def test_refuse_new_opens_the_queue_again_when_it_is_interrupted(
    app: App, environment: dict[str, str], number: signal.Signals
):
    @app.task
    async def nothing() -> None: ...

    await nothing.enqueue()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "qcore_cli", "wait-empty", "default", "--refuse-new"),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
    )
    assert process.stdout is not None
    assert await asyncio.wait_for(process.stdout.readline(), 20)
    assert (await stats_of(app)).closed_ms is not None
    process.send_signal(number)
    _, err = await asyncio.wait_for(process.communicate(), 20)
    assert process.returncode not in (0, None)
    assert b"queue default takes new jobs again" in err
    assert b"Traceback" not in err
    assert (await stats_of(app)).closed_ms is None


async def test_pause_that_comes_while_it_waits_ends_the_wait(app: App, qcore: Command):
    @app.task
    async def nothing() -> None: ...

    await nothing.enqueue()
    waiting = asyncio.ensure_future(qcore("wait-empty", "default", "--refuse-new"))

    async def is_closed() -> bool:
        return (await stats_of(app)).closed_ms is not None

    await eventually(is_closed, 20)
    await app.inspector.pause("default")
    said = await waiting
    assert said.code == 1
    assert "takes new jobs again" in said.err
    assert "so it would not get empty" in said.err
    stats = await stats_of(app)
    assert stats.closed_ms is None
    assert stats.paused is not None


# -- mistakes --------------------------------------------------------------------------------------


MISTAKES = {
    "pause nowhere": "there is no queue 'nowhere'",
    "pause": "name a queue, or give --all, not both",
    "pause default --all": "name a queue, or give --all, not both",
    "pause default --for 0": "for_ is 0",
    "resume": "name a queue, or give --all, not both",
    "resume nowhere": "there is no queue 'nowhere'",
    "wait-empty nowhere": "there is no queue 'nowhere'",
}


@pytest.mark.parametrize("words", MISTAKES)
async def test_mistake_is_one_line_and_exit_code_1(app: App, qcore: Command, words: str):
    said = await qcore(*words.split())
    assert (said.code, said.out) == (1, "")
    assert MISTAKES[words] in one_line(said)
    assert [q.paused for q in await app.inspector.queues()] == [None, None]


@pytest.mark.parametrize(
    "words",
    ["pause default --for 10x", "pause default --for -5", "wait-empty", "wait-empty q --timeout x"],
)
async def test_wrong_usage_has_exit_code_2(qcore: Command, words: str):
    said = await qcore(*words.split())
    assert said.code == 2
    assert "Traceback" not in said.err


async def test_json_of_pause_is_one_document(app: App, qcore: Command):
    told = json.loads((await qcore("pause", "--all", "--json")).out)
    assert set(told["paused"]) == {"default", "other"}
    assert told["paused"]["default"]["until_ms"] is None
