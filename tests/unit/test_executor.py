"""One lease becomes one outcome: without Redis, without a worker."""

import asyncio
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import msgspec
import pytest

from qcore import App, Context, GiveUp, Retry, RetryLater
from qcore.context import Lifecycle
from qcore.model.codec import ENVELOPE_VERSION, decode_outcome, decode_state, encode
from qcore.model.job import Acked, Buried, Envelope, JobState, Lease, Outcome, Released, Retried
from qcore.runtime.worker.execution import Executor
from qcore.runtime.worker.running_job import Running, Stop

app = App("redis://nowhere")


@app.task(name="double")
async def double(n: int) -> int:
    return 2 * n


@app.task(name="nothing")
async def nothing() -> None: ...


@app.task(name="fails", retry=Retry(max_attempts=2, backoff=7.0, jitter=0))
async def fails() -> None:
    raise ValueError("out of paper")


@app.task(name="gives_up")
async def gives_up() -> None:
    raise GiveUp("no such customer")


@app.task(name="comes_later")
async def comes_later() -> None:
    raise RetryLater(timedelta(seconds=9), charge=False)


@app.task(name="large")
async def large() -> str:
    return "x" * 5000


@app.task(name="attempts")
async def attempts(ctx: Context) -> int:
    return ctx.attempt


@app.task(name="waits")
async def waits() -> None:
    await asyncio.sleep(60)


@app.task(name="once", at_most_once=True)
async def once() -> str:
    return "done"


def lease_of(task: str, *, state: JobState | None = None, raw: bytes | None = None, **args: Any):
    whole = Envelope(ENVELOPE_VERSION, task, msgspec.Raw(encode(args)))
    envelope = encode(whole) if raw is None else raw
    return Lease(
        b"o:1:a", "default", "a", envelope, None if state is None else encode(state), 0, 0, 0
    )


def executor(*, keeps_lease: bool = True) -> tuple[Executor, list[bytes]]:
    written: list[bytes] = []

    async def write(lease: Lease, record: bytes) -> bool:
        written.append(record)
        return keeps_lease

    nowhere: Any = None
    made = Executor(
        app.tasks,
        Lifecycle(),
        threads=nowhere,
        pool=nowhere,
        write_record=write,
        result_limit_bytes=1000,
    )
    return made, written


async def outcome_of(lease: Lease, *, during: Callable[[Running], None] | None = None) -> Any:
    made, _ = executor()
    return await ended(made, Running(lease, 0.0, 1e9), during)


async def ended(
    made: Executor, running: Running, during: Callable[[Running], None] | None = None
) -> Outcome | None:
    """Run it as a worker does: in a task, with what ends it classified outside."""

    async def run() -> Outcome | None:
        try:
            return await made.execute(running)
        except BaseException as e:  # noqa: BLE001 - as in the worker
            return made.outcome_of(e, running)

    running.task = asyncio.ensure_future(run())  # pyright: ignore[reportAttributeAccessIssue]
    if during is not None:
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        during(running)
    return await running.task  # pyright: ignore[reportGeneralTypeIssues, reportOptionalOperand]


async def test_result_is_kept_and_none_is_not():
    kept = await outcome_of(lease_of("double", n=4))

    assert isinstance(kept, Acked)
    assert bytes(decode_outcome(kept.outcome or b"").result) == encode(8)
    assert await outcome_of(lease_of("nothing")) == Acked()


async def test_context_counts_the_attempt():
    kept = await outcome_of(lease_of("attempts", state=JobState(failures=2)))

    assert bytes(decode_outcome(kept.outcome or b"").result) == encode(3)


async def test_failure_is_retried_after_its_wait_and_the_last_one_is_dead():
    first = await outcome_of(lease_of("fails"))
    assert isinstance(first, Retried)
    assert first.delay_ms == 7000
    state = decode_state(first.state)
    assert [(e.kind, e.reason) for e in state.errors] == [
        ("ValueError", "ValueError: out of paper")
    ]

    last = await outcome_of(lease_of("fails", state=state))
    assert isinstance(last, Buried)
    assert decode_state(last.state).failures == 2


@pytest.mark.parametrize(
    "lease",
    [lease_of("gives_up"), lease_of("large"), lease_of("double", raw=b"\xc1 no envelope")],
    ids=["it gives up", "its result is too large", "its payload cannot be read"],
)
async def test_job_that_can_never_succeed_is_dead_at_once(lease: Lease):
    assert isinstance(await outcome_of(lease), Buried)


@pytest.mark.parametrize(
    "lease", [lease_of("unknown"), lease_of("double", m=4)], ids=["task", "arguments"]
)
async def test_job_of_other_code_waits_uncharged(lease: Lease):
    parked = await outcome_of(lease)

    assert isinstance(parked, Retried)
    assert decode_state(parked.state).failures == 0
    assert [error.kind for error in decode_state(parked.state).errors] == ["Parked"]


async def test_retry_later_comes_back_as_it_says():
    later = await outcome_of(lease_of("comes_later"))

    assert isinstance(later, Retried)
    assert later.delay_ms == 9000
    assert decode_state(later.state).failures == 0


@pytest.mark.parametrize(
    ("why", "kind"),
    [
        (Stop.TIMEOUT, Retried),
        (Stop.SHUTDOWN, Released),
        (Stop.UNTRUSTED, Released),
        (Stop.CANCELLED, Acked),
        (Stop.LEASE_LOST, type(None)),
    ],
)
async def test_run_that_is_stopped_ends_by_its_reason(why: Stop, kind: type):
    outcome = await outcome_of(lease_of("waits"), during=lambda running: running.cancel(why))

    assert isinstance(outcome, kind)


async def test_at_most_once_is_written_down_before_it_begins():
    made, written = executor()

    assert isinstance(await ended(made, Running(lease_of("once"), 0.0, 1e9)), Acked)
    assert [decode_state(record).started_ms > 0 for record in written] == [True]


async def test_at_most_once_does_not_begin_again():
    begun = lease_of("once", state=JobState(started_ms=1_800_000_000_000))

    assert isinstance(await outcome_of(begun), Buried)


async def test_at_most_once_does_not_begin_without_its_lease():
    made, _ = executor(keeps_lease=False)

    assert await ended(made, Running(lease_of("once"), 0.0, 1e9)) is None
