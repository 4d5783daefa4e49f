"""Bulk enqueue and drain of no-op jobs: where the project stands, in jobs a second and µs a job.

    python benchmarks/micro/noop.py [--jobs 100000] [--concurrency 100] [--url URL] [--profile]

One process, one worker, uvloop. Prints one JSON object. Exact delivery is checked. With --profile
also the functions of the worker's drain, by their own time.
"""

import argparse
import asyncio
import cProfile
import json
import logging
import pstats
import tempfile
import time

import uvloop

from qcore import App
from qcore.broker.identity import new_owner
from qcore.runtime.worker.worker import Worker
from qcore.settings import WorkerConfig
from qcore_cli.logs import LogFormat, configure_logging


async def measure(url: str, jobs: int, concurrency: int, profile: cProfile.Profile | None) -> dict:
    app = App(url, namespace=f"bench-{new_owner()}")
    done, finished = 0, asyncio.Event()

    @app.task
    async def noop() -> None:
        nonlocal done
        done += 1
        if done == jobs:
            finished.set()

    async with app:
        begin = time.perf_counter()
        await noop.enqueue_many(() for _ in range(jobs))
        enqueue_s = time.perf_counter() - begin

        config = WorkerConfig(queues=app.queues, concurrency=concurrency)
        worker = Worker(app, config, owner=new_owner())
        begin, cpu = time.perf_counter(), time.process_time()
        if profile is not None:
            profile.enable()
        running = asyncio.create_task(worker.run())
        await finished.wait()
        worker.drain()
        await running
        if profile is not None:
            profile.disable()
        drain_s, cpu_s = time.perf_counter() - begin, time.process_time() - cpu
        (stats,) = await app.inspector.queues()
        assert done == jobs
        assert (stats.ready, stats.scheduled, stats.active, stats.dead) == (0, 0, 0, 0)
    return {
        "jobs": jobs,
        "concurrency": concurrency,
        "enqueue_many_per_s": round(jobs / enqueue_s),
        "drain_per_s": round(jobs / drain_s),
        "python_us_per_job": round(cpu_s / jobs * 1e6, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=100_000)
    parser.add_argument("--concurrency", type=int, default=100)
    parser.add_argument("--url")
    parser.add_argument("--profile", action="store_true")
    given = parser.parse_args()
    configure_logging(LogFormat.CONSOLE, logging.WARNING)
    profile = cProfile.Profile() if given.profile else None
    with tempfile.TemporaryDirectory() as folder:
        url = given.url or f"embedded://{folder}"
        row = uvloop.run(measure(url, given.jobs, given.concurrency, profile))
    print(json.dumps(row))
    if profile is not None:
        pstats.Stats(profile).sort_stats("tottime").print_stats(25)


if __name__ == "__main__":
    main()
