"""arq, started by its Python API."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import uvloop
from arq import ArqRedis, Worker, create_pool, func
from arq.connections import RedisSettings

from benchmarks import workloads
from benchmarks.harness.driver import URL, System, gate, main

GUARANTEE = "at least once: a lease of 310 s, never renewed"
SETTINGS = "poll_delay=0.01, queue_read_limit=1000, keep_result=0, log_results off, uvloop"
DEPTH = "ZCARD arq:queue"
BULK = False

function = workloads.chosen()
settings = RedisSettings.from_dsn(URL)
pool: ArqRedis


async def job(ctx: dict[Any, Any], n: int) -> None:
    await function(n)


async def behind_the_gate(ctx: dict[Any, Any]) -> None:
    gate()


@asynccontextmanager
async def opened() -> AsyncIterator[None]:
    global pool
    pool = await create_pool(settings)
    yield
    await pool.aclose()


async def one(n: int, key: str | None = None) -> None:
    await pool.enqueue_job("job", n, _job_id=key)


def work(concurrency: int, processes: int) -> None:
    asyncio.set_event_loop(uvloop.new_event_loop())
    Worker(
        functions=[func(job, name="job")],
        redis_settings=settings,
        on_startup=behind_the_gate,
        max_jobs=concurrency,
        poll_delay=0.01,
        queue_read_limit=1000,
        keep_result=0,
        log_results=False,
    ).run()


if __name__ == "__main__":
    main(System(one, work, opened=opened, keyed=lambda n: one(n, f"key-{n}")))
