"""What a type checker sees of the public API. Checked by `scripts/check`, never run.

Each line with an ignore comment is an error that must be found: an unnecessary ignore fails.
"""

from collections.abc import AsyncIterator, Coroutine
from datetime import UTC, datetime, timedelta
from typing import Any, assert_type

from qcore import App, Context, Enqueued, Exponential, JobHandle, JobStatus, Retry, Task

app = App("redis://localhost:6379/0", queues=["high", "default"], namespace="shop")


@app.task
async def pay(order: int, *, amount: float = 1.0) -> str:
    return f"{order} {amount}"


@app.task
def shrink(path: str) -> bytes:
    return path.encode()


@app.task(
    name="shop.count",
    queue="high",
    timeout=timedelta(minutes=1),
    retry=Retry(max_attempts=3, backoff=[10, 60.0, timedelta(minutes=5), "1h"], jitter=0.1),
    keep=60,
    run_in="process",
)
def count(words: list[str]) -> int:
    return len(words)


@app.task(retry=Retry(backoff=Exponential(first=1, factor=2, max=60)))
async def with_context(ctx: Context, order: int) -> None:
    assert_type(ctx.job_id, str)
    assert_type(ctx.attempt, int)
    assert_type(ctx.enqueued_at, datetime)
    assert_type(ctx.deadline, datetime | None)
    assert_type(ctx.shutdown_requested, bool)


@app.task(retry=3, timeout="5m", keep="1d")
async def optional_context(ctx: Context | None, order: int) -> None: ...


@app.task
def sync_with_context(ctx: Context, order: int) -> int:
    return ctx.attempt + order


@app.lifespan
async def life() -> AsyncIterator[dict[str, int]]:
    yield {"connections": 1}


async def enqueues() -> None:
    job = await pay.enqueue(1, amount=2.5)
    assert_type(job, JobHandle[str])
    assert_type(await job.result(timeout=5), str)
    assert_type(await job.result(timedelta(seconds=5)), str)
    assert_type(await job.status(), JobStatus)
    assert_type(job.ref, str)
    assert_type(await shrink.enqueue("a"), JobHandle[bytes])
    assert_type(await (await count.enqueue(["a"])).result(), int)
    assert_type(await pay.options(delay=5, queue="high").enqueue(1), JobHandle[str])
    assert_type(await pay.options(eta=datetime.now(UTC)).enqueue(order=1), JobHandle[str])
    assert_type(await pay.enqueue_many([(1,), (2,)]), Enqueued)
    assert_type(await pay.enqueue_many({"order": n} for n in range(3)), Enqueued)

    # the context is the worker's to give
    assert_type(await with_context.enqueue(1), JobHandle[None])
    assert_type(await sync_with_context.enqueue(order=1), JobHandle[int])
    assert_type(await optional_context.enqueue(1), JobHandle[None])


def blocks() -> None:
    job = pay.enqueue_sync(1, amount=2.5)
    assert_type(job, JobHandle[str])
    assert_type(job.result_sync(timeout=5), str)
    assert_type(job.status_sync(), JobStatus)
    assert_type(shrink.options(delay=5).enqueue_sync("a"), JobHandle[bytes])
    assert_type(with_context.enqueue_sync(1), JobHandle[None])
    pay.enqueue_sync("one")  # pyright: ignore[reportArgumentType]
    pay.options(delay=5).enqueue_sync()  # pyright: ignore[reportCallIssue]


async def calls() -> None:
    call: Coroutine[Any, Any, str] = pay(1)
    assert_type(await call, str)
    assert_type(await pay(1, amount=2), str)
    assert_type(shrink("a"), bytes)
    assert_type(sync_with_context(1), int)


async def mistakes() -> None:
    await pay.enqueue()  # pyright: ignore[reportCallIssue]
    await pay.enqueue("one")  # pyright: ignore[reportArgumentType]
    await pay.enqueue(1, 2.5)  # pyright: ignore[reportCallIssue]
    await pay.enqueue(1, total=2)  # pyright: ignore[reportCallIssue]
    await pay.options(delay=5).enqueue("one")  # pyright: ignore[reportArgumentType]
    await with_context.enqueue("one")  # pyright: ignore[reportArgumentType]
    _ = pay.options(delay=[5])  # pyright: ignore[reportArgumentType]
    app.task(retry="3")  # pyright: ignore[reportArgumentType]
    await pay.enqueue_many([1, 2])  # pyright: ignore[reportArgumentType]
    app.task(run_in="moon")  # pyright: ignore[reportArgumentType]
    Retry(5)  # pyright: ignore[reportCallIssue]


async def apps() -> None:
    async with app as opened:
        assert_type(opened, App)
        assert_type(app.job("default/x"), JobHandle[Any])
        assert_type(app.tasks["pay"], Task[Any, Any])
        for queue in await app.inspector.queues():
            assert_type(queue.oldest_ready_s, float | None)
