"""One job per key: what a request brings, and when a key is free."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest
from structlog.testing import capture_logs

from qcore import (
    AlreadyEnqueued,
    App,
    ArgumentError,
    JobNotFound,
    JobStatus,
    Unique,
)
from qcore.model.job import Acked, Buried, Retried
from tests.support.content import keys_of
from tests.support.moves import ask, failed_state, settle
from tests.support.moves import claim as claim_at
from tests.support.servers import on_standalone_and_cluster
from tests.support.workers import working

pytestmark = on_standalone_and_cluster

KEYS = ("unique", "unique_of", "unique_until", "answers")


@pytest.fixture
async def app(server_url: str, namespace: str) -> AsyncIterator[App]:
    async with App(server_url, namespace=namespace) as app:
        yield app


def export_of(app: App, unique: Unique) -> Any:
    @app.task(name="export", unique=unique)
    async def export(user: str, rows: int = 0) -> int:
        return rows

    return export


async def claim(app: App, limit: int = 500) -> list:
    """Claim now, as a worker."""
    turn = await claim_at(app.broker, limit, queues=["default"], now_ms=None)
    return turn.leases


async def end(app: App, *leases, how=None) -> None:
    await settle(app.broker, *((lease, how or Acked()) for lease in leases), now_ms=None)


async def arguments(app: App, task: Any, id: str) -> dict[str, Any]:
    record = await app.inspector.job("default", id)
    assert record is not None
    return task.arguments.decode(record.payload or b"")


async def left(app: App) -> dict:
    found = await keys_of(app.broker, "default")
    return {name: found[name] for name in KEYS if name in found}


async def test_second_request_joins_the_job_that_is_there(app: App):
    export = export_of(app, Unique("user"))
    first = await export.enqueue("ann", 1)
    again, other = await export.enqueue("ann", 2), await export.enqueue("bob", 3)
    assert (first.answer, again.answer, other.answer) == ("created", "joined", "created")
    assert again.id == first.id != other.id
    assert len(await claim(app)) == 2


async def test_key_is_held_until_the_job_has_ended_runs_and_retries_included(
    app: App,
):
    export = export_of(app, Unique("user"))
    first = await export.enqueue("ann")
    (lease,) = await claim(app)
    assert (await export.enqueue("ann")).answer == "joined"
    await end(app, lease, how=Retried(60_000, failed_state("no")))
    assert (await export.enqueue("ann")).id == first.id
    await ask(app.broker, b"ZADD", app.broker._keys_of("default").names["scheduled"], 1, first.id)
    await end(app, *await claim(app))
    assert await left(app) == {"answers": (await left(app))["answers"]}
    assert (await export.enqueue("ann")).answer == "created"


async def test_until_started_lets_one_run_and_one_wait(app: App):
    export = export_of(app, Unique("user", until="started"))
    first = await export.enqueue("ann")
    (lease,) = await claim(app)
    second, third = await export.enqueue("ann"), await export.enqueue("ann")
    assert (second.answer, third.answer) == ("created", "joined")
    assert third.id == second.id != first.id
    # what comes back does not take its key again
    await end(app, lease, how=Retried(0, failed_state("no")))
    assert (await export.enqueue("ann")).id == second.id


async def test_replaced_job_has_the_newest_arguments_and_its_delay_begins_anew(app: App):
    export = export_of(app, Unique("user", until="started", on_conflict="replace"))
    first = await export.options(delay=0.2).enqueue("ann", 1)
    second = await export.options(delay=60).enqueue("ann", 2)
    assert (second.answer, second.id) == ("replaced", first.id)
    assert await claim(app) == []
    await export.enqueue("ann", 3)
    (lease,) = await claim(app)
    assert await arguments(app, export, lease.id) == {"user": "ann", "rows": 3}


async def test_replace_forgets_what_the_job_went_through_and_leaves_a_run_alone(app: App):
    export = export_of(app, Unique("user", on_conflict="replace"))
    first = await export.enqueue("ann", 1)
    (lease,) = await claim(app)
    assert (await export.enqueue("ann", 2)).answer == "joined"
    await end(app, lease, how=Retried(60_000, failed_state("no")))
    assert (await export.enqueue("ann", 3)).answer == "replaced"
    (again,) = await claim(app)
    assert (again.id, again.state) == (first.id, None)


async def test_ready_job_that_is_replaced_keeps_its_place(app: App):
    export = export_of(app, Unique("user", on_conflict="replace"))
    ids = [(await export.enqueue(user)).id for user in ("ann", "bob", "eve")]
    await export.options(delay=60).enqueue("ann", 7)
    assert [lease.id for lease in await claim(app)] == ids


async def test_window_takes_the_first_whatever_becomes_of_it(app: App):
    export = export_of(app, Unique("user", until=timedelta(seconds=0.5)))
    first = await export.enqueue("ann")
    await end(app, *await claim(app))
    again = await export.enqueue("ann")
    assert (again.answer, again.id) == ("throttled", first.id)
    # it may have been cleared, as far as anybody knows now
    with pytest.raises(JobNotFound):
        await again.status()
    await asyncio.sleep(0.6)
    assert (await export.enqueue("ann")).answer == "created"


async def test_conflict_is_raised_where_the_task_says_so(app: App):
    export = export_of(app, Unique("user", on_conflict="raise"))
    first = await export.enqueue("ann")
    with pytest.raises(AlreadyEnqueued, match=f"job {first.ref} has its unique key$") as e:
        await export.enqueue("ann")
    assert e.value.ref == first.ref
    with pytest.raises(AlreadyEnqueued, match="the rest of its chunk, 2 of 3, is enqueued") as e:
        await export.enqueue_many([("bob",), ("ann",), ("eve",)])
    assert e.value.__notes__ == ["2 jobs were enqueued before"]
    assert len(await claim(app)) == 3


async def test_bulk_counts_what_became_of_its_items(app: App):
    export = export_of(app, Unique("user", on_conflict="replace"))
    there = await export.enqueue("ann", 1)
    (running,) = await claim(app)
    sent = await export.enqueue_many(
        [("ann", 2), ("bob", 3), ("eve", 4), ("bob", 5)], ids=True, chunk=3
    )
    assert (sent, sent.created, sent.joined, sent.replaced, sent.throttled) == (4, 2, 1, 1, 0)
    assert sent.ids[0] == there.id == running.id
    assert sent.ids[1] == sent.ids[3] != sent.ids[2]
    assert (await export.enqueue_many([("dan",)])).ids == []


@pytest.mark.parametrize("how", ["cancelled", "ready", "dead", "cleared", "expired"])
async def test_key_of_a_job_that_will_not_run_is_free(app: App, how: str):
    export = export_of(app, Unique("user"))
    if how == "cancelled":
        await (await export.options(delay=60).enqueue("ann")).cancel()
    elif how == "ready":
        await (await export.enqueue("ann")).cancel()
    elif how == "expired":
        await export.options(expires=0.05).enqueue("ann")
        await asyncio.sleep(0.1)
    else:
        await export.enqueue("ann")
        if how == "dead":
            await end(app, *await claim(app), how=Buried(failed_state("no")))
        else:
            await app.inspector.clear("default")
    assert (await export.enqueue("ann")).answer == "created"


async def test_revived_job_takes_its_key_again_or_stays_dead(app: App):
    export = export_of(app, Unique("user"))
    dead = await export.enqueue("ann")
    await end(app, *await claim(app), how=Buried(failed_state("no")))
    other = await export.enqueue("ann")
    assert (await app.inspector.revive("default", [dead.id])).held == {dead.id: other.id}
    assert await dead.status() is JobStatus.DEAD
    await end(app, *await claim(app))
    assert await app.inspector.revive("default", [dead.id]) == [dead.id]
    assert (await export.enqueue("ann")).id == dead.id


async def test_key_of_another_job_by_now_is_never_replaced(app: App):
    """An id of the user's own may be used again, and anybody may write into Redis."""
    export = export_of(app, Unique("user", until=timedelta(hours=1), on_conflict="replace"))

    @app.task(name="pay")
    async def pay(amount: int) -> None: ...

    await export.options(id="order-1").enqueue("ann")
    await end(app, *await claim(app))
    await pay.options(id="order-1").enqueue(100)
    assert (await export.enqueue("ann")).answer == "throttled"
    names = app.broker._keys_of("default").names
    await ask(app.broker, b"HSET", names["unique"], "u6 export=bob", "0 1 1 - 0 order-1")
    assert (await export.enqueue("bob")).answer == "created"
    assert await arguments(app, pay, "order-1") == {"amount": 100}


async def test_nothing_of_a_key_is_left_when_all_has_ended(app: App):
    tasks = [
        export_of(app, Unique("user")),
        app.task(name="a", unique=Unique("n", until="started"))(_numbered),
        app.task(name="b", unique=Unique("n", until=timedelta(milliseconds=50)))(_numbered),
    ]
    for task in tasks:
        for n in range(5):
            await task.enqueue(f"{n}")
            await task.enqueue(f"{n % 2}")
    await end(app, *await claim(app))
    await asyncio.sleep(0.1)
    await app.broker.prune("default")
    assert set(await left(app)) <= {"answers"}


async def _numbered(n: str) -> None: ...


# -- keys of idempotency, and ids ---------------------------------------------------------------


async def test_repeats_of_a_request_bring_one_job_and_its_result(app: App):
    @app.task
    async def charge(amount: int) -> int:
        return amount

    @app.task
    async def note(amount: int) -> None: ...

    async with working(app):
        for task, result in ((charge, 5), (note, None)):
            keyed = task.options(idempotency_key="evt_1", idempotency_ttl="3d")
            first = await keyed.enqueue(5)
            assert await first.result(timeout=10) == result
            again = await keyed.enqueue(5)
            assert (first.answer, again.answer, again.id) == ("created", "joined", first.id)
            assert await again.result(timeout=10) == result
            assert await again.status() is JobStatus.COMPLETED


async def test_repeat_is_logged_and_one_with_other_arguments_as_such(app: App):
    @app.task(name="charge")
    async def charge(amount: int) -> None: ...

    keyed = charge.options(idempotency_key="evt_1")
    with capture_logs() as logs:
        first = await keyed.enqueue(5)
        await keyed.enqueue(5)
        await keyed.enqueue(6)
    said = [(e["log_level"], e["answer"], e["count"], e["same_arguments"]) for e in logs]
    assert said == [
        ("debug", "created", 1, True),
        ("info", "joined", 2, True),
        ("warning", "joined", 3, False),
    ]
    assert {e["event"] for e in logs} == {"job.enqueued"}
    assert {(e["job"], e["key"]) for e in logs} == {(first.id, "evt_1")}


async def test_repeat_with_a_shorter_ttl_leaves_the_first_one_as_it_is(app: App):
    @app.task(name="charge")
    async def charge(amount: int) -> None: ...

    first = await charge.options(idempotency_key="evt_1", idempotency_ttl="3d").enqueue(5)
    short = charge.options(idempotency_key="evt_1", idempotency_ttl=0.05)
    assert (await short.enqueue(5)).id == first.id
    await asyncio.sleep(0.1)
    assert (await short.enqueue(5)).id == first.id


async def test_callers_of_one_moment_with_one_id_hear_each_their_own_answer(app: App):
    @app.task(name="charge")
    async def charge(amount: int) -> None: ...

    export = export_of(app, Unique("user"))
    there = await export.enqueue("ann")
    own: dict[str, Any] = {"id": "order-7"}
    busy = charge.enqueue(0)  # what comes next shares a call
    _, joined, created, again = await asyncio.gather(
        busy,
        export.options(**own).enqueue("ann"),
        charge.options(**own).enqueue(100),
        charge.options(**own).enqueue(100),
    )
    assert (joined.answer, joined.id) == ("joined", there.id)
    assert (created.answer, created.id) == ("created", "order-7")
    assert (again.answer, again.id) == ("joined", "order-7")


async def test_id_of_a_user_names_one_job(app: App):
    @app.task
    async def charge(amount: int) -> int:
        return amount

    own = charge.options(id="order:17", keep=60)
    first, again = await own.enqueue(1), await own.enqueue(2)
    assert (first.id, first.answer, again.answer) == ("order:17", "created", "joined")
    async with working(app):
        assert await again.result(timeout=10) == 1
    assert (await own.enqueue(3)).answer == "joined"


async def test_options_that_name_one_job_are_refused_where_they_cannot(app: App):
    @app.task(name="charge")
    async def charge(amount: int) -> None: ...

    export = export_of(app, Unique("user"))
    with pytest.raises(ArgumentError, match="idempotency_key names one job, and enqueue_many"):
        await charge.options(idempotency_key="a").enqueue_many([(1,)])
    with pytest.raises(ArgumentError, match="id names one job, and enqueue_many makes many"):
        await charge.options(id="a").enqueue_many([(1,)])
    with pytest.raises(ArgumentError, match="unique by its arguments already, and a job has one"):
        export.options(idempotency_key="a")


async def test_blocking_callers_hear_the_same(app: App):
    export = export_of(app, Unique("user", on_conflict="replace"))
    first = await asyncio.to_thread(export.enqueue_sync, "ann", 1)
    again = await asyncio.to_thread(export.enqueue_sync, "ann", 2)
    assert (first.answer, again.answer, again.id) == ("created", "replaced", first.id)
