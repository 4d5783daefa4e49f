"""`qcore unique`, and what `qcore jobs show` and `qcore dead revive` say of unique keys."""

import json
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest

from qcore import App, JobHandle, JobStatus, Retry, Unique
from qcore.broker.redis.unique_keys import UniqueKeys
from qcore.task import Task
from tests.support.commands import Command, one_line
from tests.support.workers import dead, working

QUEUE = "default"
LONG = "https://example.org/a/page/with/a/long/name"


@pytest.fixture
async def app(redis_url: str, namespace: str) -> AsyncIterator[App]:
    async with App(redis_url, namespace=namespace, queues=(QUEUE, "other")) as app:
        yield app


@pytest.fixture
def pay(app: App) -> Task[[str], None]:
    @app.task(name="pay", unique=Unique("n"), retry=Retry(max_attempts=1))
    async def pay(n: str) -> None:
        raise ValueError("no money")

    return pay


def rows_of(out: str) -> dict[str, str]:
    """Return what stands behind each name at the begin of a line."""
    return {line[:12].strip(): line[13:] for line in out.splitlines() if line.strip()}


async def write(app: App, key: str, field: bytes, value: bytes) -> None:
    await app.broker._ask([(b"HSET", app.broker._keys_of(QUEUE).names[key], field, value)])


# -- list ------------------------------------------------------------------------------------------


async def test_list_tells_each_key_with_its_end_and_its_job(
    app: App, pay: Task[[str], None], qcore: Command
):
    @app.task(name="sync", unique=Unique("n", until="started"))
    async def sync(n: str) -> None: ...

    @app.task(name="hook", unique=Unique("n", until=timedelta(minutes=5)))
    async def hook(n: str) -> None: ...

    @app.task(name="event")
    async def event() -> None: ...

    first = await pay.enqueue("p1")
    assert (await pay.enqueue("p1")).id == first.id
    second, third = await sync.enqueue("s1"), await hook.enqueue(LONG)
    fourth = await event.options(idempotency_key="event-7").enqueue()
    listed = (await qcore("unique", "list", QUEUE, "--json")).json
    found = {row["ref"]: row for row in listed}
    assert set(found) >= {job.ref for job in (first, second, third, fourth)}
    paid = found[first.ref]
    assert paid.pop("first_ms") > 1_700_000_000_000
    assert paid == {
        "kind": "unique",
        "task": "pay",
        "value": "p1",
        "until": "done",
        "until_ms": None,
        "job": first.id,
        "ref": first.ref,
        "times": 2,
    }
    assert found[second.ref]["until"] == "started"
    assert (found[third.ref]["until"], found[third.ref]["value"][0]) == ("window", "#")
    assert (found[fourth.ref]["kind"], found[fourth.ref]["value"]) == ("idempotency", "event-7")
    head, *lines = (await qcore("unique", "list", QUEUE)).out.splitlines()
    assert head.split() == ["KIND", "TASK", "KEY", "UNTIL", "JOB", "FIRST", "TIMES"]
    assert ["unique", "pay", "p1", "done", first.ref] in [line.split()[:5] for line in lines]
    of_task = (await qcore("unique", "list", QUEUE, "--task", "pay", "--json")).json
    assert [row["value"] for row in of_task] == ["p1"]


async def test_list_is_limited_and_says_so(app: App, pay: Task[[str], None], qcore: Command):
    await pay.enqueue_many((f"p{n}",) for n in range(700))
    assert len((await qcore("unique", "list", QUEUE, "--json")).json) == 50
    said = (await qcore("unique", "list", QUEUE, "--limit", "3")).out.splitlines()
    assert len(said) == 5
    assert said[-1] == "3 of more; see --limit and --task."
    listed = (await qcore("unique", "list", QUEUE, "--limit", "700", "--json")).json
    assert {row["value"] for row in listed} == {f"p{n}" for n in range(700)}


async def test_list_of_no_keys_names_queue_and_namespace(
    app: App, pay: Task[[str], None], qcore: Command
):
    await pay.options(queue="other").enqueue("p1")
    await app.broker.register([QUEUE])
    assert (await qcore("unique", "list", QUEUE)).out == (
        f"No job of {QUEUE} holds a key, {app.inspector.where}.\n"
    )
    assert "holds a key of task x" in (await qcore("unique", "list", "other", "--task", "x")).out


async def test_window_that_is_over_is_not_listed(app: App, qcore: Command):
    await app.broker.register([QUEUE])
    await write(app, "unique", b"u1 t=over", b"5 4 1 - 0 a")
    assert (await qcore("unique", "list", QUEUE, "--json")).json == []


async def test_hostile_bytes_do_not_break_the_list(
    app: App, pay: Task[[str], None], qcore: Command
):
    await pay.enqueue("p1")
    for field, value in {
        b"": b"0 1 1 - 0 a",
        b"\xff\xfe": b"0 1 1 - 0 \xff\xfe",
        b"u4 \x1b[2J=\x1b[2J\n": b"0 999999999999999 7 - 0 b/c\x1b[2J",
        b"u1 t=unreadable": b"\xff 1 1 - 0 a",
        b"u1 t=empty": b"",
        b"u1 t=[*?\\]": b"0 1 1 - 0 a",
    }.items():
        await write(app, "unique", field, value)
    await write(app, "unique_of", b"a", b"\xff")
    for form in ((), ("--json",)):
        said = await qcore("unique", "list", QUEUE, *form)
        assert (said.code, said.err) == (0, "")
        assert "\x1b" not in said.out
    values = {row["value"] for row in (await qcore("unique", "list", QUEUE, "--json")).json}
    assert values == {"p1", "", "\\xff\\xfe", "\x1b[2J\n", "[*?\\]"}
    shown = await qcore("unique", "show", QUEUE, "\\xff\\xfe")
    assert (shown.code, "\x1b" in shown.out, rows_of(shown.out)["kind"]) == (0, False, "unknown")
    told = (await qcore("unique", "free", QUEUE, "\\xff\\xfe", "[*?\\]", "--json")).json
    assert told == {"freed": 2, "not_held": []}


# -- show ------------------------------------------------------------------------------------------


async def test_show_tells_where_the_job_is(app: App, pay: Task[[str], None], qcore: Command):
    job = await pay.options(delay=60).enqueue("p1")
    rows = rows_of((await qcore("unique", "show", QUEUE, "p1")).out)
    assert rows.pop("asked first").endswith("Z")
    assert rows == {
        "kind": "unique",
        "task": "pay",
        "key": "p1",
        "until": "done",
        "job": f"{job.ref}  scheduled",
        "times asked": "1",
    }
    assert (await qcore("unique", "show", QUEUE, "p1", "--task", "pay", "--json")).json[0][
        "status"
    ] == "scheduled"
    nobody = await qcore("unique", "show", QUEUE, "p1", "--task", "other")
    assert "no job of default holds the key 'p1'" in one_line(nobody)


async def test_long_key_is_found_by_its_text_and_by_its_digest(
    app: App, pay: Task[[str], None], qcore: Command
):
    job = await pay.enqueue(LONG)
    (view,) = await UniqueKeys(app.broker).held(QUEUE)
    for words in ((LONG,), (view.value,), (LONG, "--task", "pay"), (view.value, "--task", "pay")):
        (row,) = (await qcore("unique", "show", QUEUE, *words, "--json")).json
        assert row["ref"] == job.ref
    assert (await qcore("unique", "free", QUEUE, LONG)).out == "Freed 1.\n"


async def test_show_of_a_job_that_left_no_trace(app: App, qcore: Command):
    await app.broker.register([QUEUE])
    await write(app, "unique", b"u1 t=gone", b"0 1 1 - 0 a")
    (row,) = (await qcore("unique", "show", QUEUE, "gone", "--json")).json
    assert (row["status"], row["until"]) == (None, "unknown")
    said = (await qcore("unique", "show", QUEUE, "gone")).out
    assert "default/a  it has ended, and left no trace" in said


# -- free ------------------------------------------------------------------------------------------


async def test_freed_key_lets_the_next_enqueue_create_a_job(
    app: App, pay: Task[[str], None], qcore: Command
):
    first = await pay.enqueue("p1")
    await pay.enqueue("p2")
    told = await qcore("unique", "free", QUEUE, "p1", "p2", "p1")
    assert (told.code, told.out) == (0, "Freed 2.\n")
    second = await pay.enqueue("p1")
    assert second.id != first.id
    assert (await first.status(), await second.status()) == (JobStatus.READY, JobStatus.READY)


async def test_unknown_key_is_named_with_what_to_do(
    app: App, pay: Task[[str], None], qcore: Command
):
    await pay.enqueue("p1")
    said = await qcore("unique", "free", QUEUE, "p1", "p9")
    assert (said.code, said.out) == (1, "Freed 1.\n")
    assert one_line(said) == (
        f"qcore: no job of default holds the key 'p9' in {app.inspector.where}: "
        "`qcore unique list default` shows those that are held"
    )
    again = await qcore("unique", "free", QUEUE, "p1", "--json")
    assert json.loads(again.out) == {"freed": 0, "not_held": ["p1"]}


async def test_key_of_several_tasks_is_freed_of_one_that_is_named(
    app: App, pay: Task[[str], None], qcore: Command
):
    @app.task(name="refund", unique=Unique("n"))
    async def refund(n: str) -> None: ...

    job = await pay.enqueue("p1")
    await refund.enqueue("p1")
    said = await qcore("unique", "free", QUEUE, "p1")
    assert said.code == 1
    assert "several tasks have a key 'p1' in queue default: pay, refund; say" in one_line(said)
    assert len((await qcore("unique", "show", QUEUE, "p1", "--json")).json) == 2
    assert (await qcore("unique", "free", QUEUE, "p1", "--task", "refund")).out == "Freed 1.\n"
    (row,) = (await qcore("unique", "list", QUEUE, "--json")).json
    assert row["ref"] == job.ref


# -- jobs and dead jobs ----------------------------------------------------------------------------


async def test_jobs_show_tells_the_key_of_a_job(app: App, pay: Task[[str], None], qcore: Command):
    job = await pay.enqueue("p1")
    await pay.enqueue("p1")
    shown = (await qcore("jobs", "show", job.ref, "--json")).json["unique"]
    assert (shown["task"], shown["value"], shown["times"]) == ("pay", "p1", 2)
    rows = rows_of((await qcore("jobs", "show", job.ref)).out)
    assert rows["key"] == "p1  unique, until done"
    assert rows["times asked"] == "2"
    assert rows["asked first"].endswith("Z")


async def test_jobs_show_tells_the_key_of_an_ended_job_while_its_window_lasts(
    app: App, qcore: Command
):
    @app.task(name="hook")
    async def hook() -> None: ...

    job = await hook.options(idempotency_key="event-7").enqueue()
    plain = await hook.enqueue()
    async with working(app):
        await job.result(timeout=10)
        await plain.result(timeout=10)
    shown = (await qcore("jobs", "show", job.ref, "--json")).json
    assert (shown["status"], shown["unique"]["value"]) == ("completed", "event-7")
    assert shown["unique"]["until_ms"] > shown["unique"]["first_ms"]
    (row,) = (await qcore("unique", "show", QUEUE, "event-7", "--json")).json
    assert row["status"] == "completed"


async def died(app: App, job: JobHandle[None]) -> None:
    async with working(app):
        await dead(app, job)


async def test_dead_job_whose_key_another_holds_is_not_revived(
    app: App, pay: Task[[str], None], qcore: Command
):
    old = await pay.enqueue("p1")
    await died(app, old)
    assert (await qcore("jobs", "show", old.ref, "--json")).json["unique"] is None
    new = await pay.enqueue("p1")
    assert new.id != old.id
    said = await qcore("dead", "revive", old.ref)
    assert (said.code, said.out) == (1, "")
    assert one_line(said) == (
        f"qcore: not revived, since another job holds the unique key: {old.ref} ({new.ref} holds "
        "it); wait until that one has ended, or free the key, which `qcore jobs show` tells, with "
        "`qcore unique free`"
    )
    assert await old.status() is JobStatus.DEAD
    told = await qcore("dead", "revive", "--all-of", QUEUE, "--yes", "--json")
    assert json.loads(told.out) == {"revived": [], "not_dead": [], "held": {old.ref: new.ref}}
    await qcore("unique", "free", QUEUE, "p1")
    assert (await qcore("dead", "revive", old.ref)).out == "Revived 1.\n"


async def test_those_not_revived_are_told_in_one_line(
    app: App, pay: Task[[str], None], qcore: Command
):
    jobs = [await pay.enqueue(f"p{n}") for n in range(6)]
    async with working(app):
        for job in jobs:
            await dead(app, job)
    for n in range(5):
        await pay.enqueue(f"p{n}")
    refs = [job.ref for job in jobs]
    said = await qcore("dead", "revive", *refs)
    assert (said.code, said.out) == (1, "Revived 1.\n")
    assert " and 2 more; wait until" in one_line(said)
    said = await qcore("dead", "revive", refs[0], "default/nobody")
    assert f"; not dead in {app.inspector.where}, or without" in one_line(said)
