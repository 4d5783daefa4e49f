"""taskiq with the stream broker of taskiq-redis, by its command."""

import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from taskiq import TaskiqEvents, TaskiqState
from taskiq.serializers import ORJSONSerializer
from taskiq_redis import RedisStreamBroker

from benchmarks import workloads
from benchmarks.harness.driver import URL, System, gate, main

GUARANTEE = "at least once: a stream with its group, entries idle for 600 s run again"
SETTINGS = "RedisStreamBroker (never trims), ORJSON, --max-prefetch 200, uvloop, no results"
DEPTH = "XLEN taskiq"
BULK = False

broker = RedisStreamBroker(URL).with_serializer(ORJSONSerializer())
job = broker.task(task_name="job")(workloads.chosen())


@broker.on_event(TaskiqEvents.WORKER_STARTUP)
async def behind_the_gate(state: TaskiqState) -> None:
    gate()


@asynccontextmanager
async def opened() -> AsyncIterator[None]:
    await broker.startup()
    yield
    await broker.shutdown()


async def one(n: int) -> None:
    await job.kiq(n)


def work(concurrency: int, processes: int) -> None:
    words = [sys.executable, "-m", "taskiq", "worker", "benchmarks.systems.taskiq_:broker"]
    words += ["--max-async-tasks", str(concurrency), "--workers", str(processes)]
    words += ["--max-prefetch", "200", "--log-level", "WARNING"]
    os.execv(sys.executable, words)


if __name__ == "__main__":
    main(System(one, work, opened=opened, own_processes=True))
