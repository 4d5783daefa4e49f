"""A process of qcore alone under measurement: takes steps as JSON lines, answers with figures.

    python -m benchmarks.harness.probe_main '{"url": "redis://...", "namespace": "bench"}'

Producer and worker are in this one process: nothing but their own work is on its clock, which has
the least noise. Every step counts the runs of its jobs and what is left in Redis, to the last one.
"""

import asyncio
import itertools
import json
import logging
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any

import uvloop

from qcore import App, Context, Retry, Task, Unique
from qcore.broker.identity import new_owner
from qcore.runtime.worker.worker import Worker
from qcore.settings import WorkerConfig
from qcore_cli.logs import LogFormat, configure_logging

#: Jobs that a steady step puts in whenever as many were run.
FEED = 500
#: Options of `@app.task`, each alone on a job that does nothing.
OPTIONS: dict[str, dict[str, Any]] = {
    "retries": {"retry": Retry(max_attempts=20, backoff=[1.0, 10.0, 60.0])},
    "timeout": {"timeout": 60.0},
    "expires": {"expires": 24 * 3600.0},
    "exclusive": {"exclusive": True},
    "at_most_once": {"at_most_once": True},
    "unique": {"unique": Unique("n")},
}


class RunCounts:
    """How many jobs were run, and who waits for how many."""

    def __init__(self) -> None:
        self.done = 0
        self._goal = 0
        self._reached = asyncio.Event()

    def add(self) -> None:
        self.done += 1
        if self.done == self._goal:
            self._reached.set()

    async def reach(self, goal: int) -> None:
        if self.done < goal:
            self._goal = goal
            self._reached.clear()
            await self._reached.wait()


def register(app: App, feature: str, run: Callable[[], None]) -> Task[Any, Any]:
    """Register the job that does nothing, with one feature of qcore or none."""

    async def noop() -> None:
        run()

    async def returning() -> dict[str, int]:
        run()
        return {"rows": 17}

    async def injected(ctx: Context) -> None:
        run()

    async def keyed(n: int) -> None:
        run()

    functions = {"results": returning, "context": injected, "unique": keyed}
    function = functions.get(feature, noop)
    return app.task(name="noop", **OPTIONS.get(feature, {}))(function)


class Probe:
    """An app with one task; each public method is a step."""

    def __init__(
        self,
        url: str,
        namespace: str,
        *,
        producer_url: str = "",
        worker_url: str = "",
        feature: str = "plain",
        concurrency: int = 100,
    ) -> None:
        self._tally = RunCounts()
        self._feature = feature
        self._keys = itertools.count()
        self._producer = App(producer_url or url, namespace=namespace)
        self._app = App(worker_url or url, namespace=namespace)
        #: What it asks is on nobody's account.
        self._auditor = App(url, namespace=namespace)
        register(self._app, feature, self._tally.add)
        self._noop = register(self._producer, feature, self._tally.add)
        self._config = WorkerConfig(queues=self._app.queues, concurrency=concurrency)
        #: What was enqueued so far, and what of it for a time that does not come.
        self._put = self._scheduled = 0

    async def open(self) -> None:
        for app in (self._producer, self._app, self._auditor):
            await app.open()

    async def close(self) -> None:
        for app in (self._producer, self._app, self._auditor):
            await app.close()

    # -- producing ------------------------------------------------------------------------------

    async def enqueue_many(self, jobs: int) -> dict[str, Any]:
        with Clock() as clock:
            await self._noop.enqueue_many(self._calls(jobs))
        return await self._enqueued(jobs, clock)

    async def enqueue_together(self, jobs: int, tasks: int = 100) -> dict[str, Any]:
        """Enqueue from so many asyncio tasks at a time, each awaiting its call."""

        left = iter(range(jobs))

        async def produce() -> None:
            for _ in left:
                await self._enqueue_one()

        with Clock() as clock:
            await asyncio.gather(*(produce() for _ in range(tasks)))
        return await self._enqueued(jobs, clock)

    def _calls(self, jobs: int) -> Iterable[tuple[int, ...]]:
        if self._feature == "unique":
            return zip(itertools.islice(self._keys, jobs))
        return itertools.repeat((), jobs)

    async def _enqueue_one(self) -> None:
        if self._feature == "unique":
            await self._noop.enqueue(next(self._keys))
        elif self._feature == "idempotency":
            await self._noop.options(idempotency_key=next(self._keys)).enqueue()
        else:
            await self._noop.enqueue()

    async def enqueue_each(self, jobs: int) -> dict[str, Any]:
        """Enqueue one by one, each awaited."""
        took: list[float] = []
        with Clock() as clock:
            for _ in range(jobs):
                begin = time.perf_counter()
                await self._noop.enqueue()
                took.append(time.perf_counter() - begin)
        return await self._enqueued(jobs, clock, took_s=took)

    async def schedule(self, jobs: int) -> dict[str, Any]:
        """Put jobs beside the ready ones that become due within tomorrow: none while this runs."""
        left, batch, hour_s = jobs, 5_000, 3600.0
        with Clock() as clock:
            for i in range(0, jobs, batch):
                size = min(batch, left)
                task = self._noop.options(delay=24 * hour_s * (1 + i / jobs))
                await task.enqueue_many(self._calls(size))
                left -= size
        self._scheduled += jobs
        return await self._enqueued(jobs, clock)

    async def _enqueued(self, jobs: int, clock: "Clock", **more: Any) -> dict[str, Any]:
        self._put += jobs
        await self._check()
        return {"jobs": jobs, **clock.figures(), **more}

    # -- running --------------------------------------------------------------------------------

    async def drain(self, jobs: int) -> dict[str, Any]:
        """Start a worker, and stop it when so many jobs have run; those in its hands, too."""
        before = self._tally.done
        with Clock() as clock:
            async with self._working():
                await self._tally.reach(before + jobs)
        await self._check()
        return {"jobs": self._tally.done - before, **clock.figures()}

    async def steady(self, jobs: int) -> dict[str, Any]:
        """Run jobs while others are put in at the same rate: the depth of the queue stays."""
        before = self._tally.done
        with Clock() as clock:
            async with self._working():
                for due in range(before + FEED, before + jobs + 1, FEED):
                    await self._tally.reach(due)
                    await self._noop.enqueue_many(self._calls(FEED))
                    self._put += FEED
        done = self._tally.done - before
        await self._check()
        missing = done - jobs // FEED * FEED
        await self._noop.enqueue_many(self._calls(missing))
        self._put += missing
        return {"jobs": done, **clock.figures()}

    async def one_at_a_time(self, jobs: int) -> dict[str, Any]:
        """Enqueue a job for a worker with nothing to do; when it has run, the next."""
        async with self._working():
            await asyncio.sleep(0.2)  # until it blocks
            with Clock() as clock:
                for _ in range(jobs):
                    await self._noop.enqueue()
                    self._put += 1
                    await self._tally.reach(self._put - self._scheduled)
        await self._check()
        return {"jobs": jobs, **clock.figures()}

    @asynccontextmanager
    async def _working(self) -> AsyncIterator[None]:
        worker = Worker(self._app, self._config, owner=new_owner())
        running = asyncio.create_task(worker.run())
        try:
            yield
        finally:
            worker.drain()
            await running

    async def _check(self) -> None:
        """Each job ran once, or waits where it was put: there is no third place."""
        (stats,) = await self._auditor.inspector.queues(self._auditor.queues)
        found = (stats.ready, stats.scheduled, stats.active, stats.dead)
        ready = self._put - self._scheduled - self._tally.done
        assert found == (ready, self._scheduled, 0, 0), (
            f"{self._put} jobs were enqueued and {self._tally.done} runs counted, but ready, "
            f"scheduled, active and dead are {found}"
        )


class Clock:
    """Wall and CPU time of a block."""

    def __enter__(self) -> "Clock":
        self._begin, self._cpu = time.perf_counter(), time.process_time()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._end, self._cpu_end = time.perf_counter(), time.process_time()

    def figures(self) -> dict[str, float]:
        return {"seconds": self._end - self._begin, "cpu_s": self._cpu_end - self._cpu}


def main() -> None:
    given = json.loads(sys.argv[1])
    level = logging.DEBUG if given.get("feature") == "debug_log" else logging.WARNING
    configure_logging(LogFormat.JSON, level)
    loop = asyncio.new_event_loop if given.pop("loop", "") == "asyncio" else uvloop.new_event_loop
    with asyncio.Runner(loop_factory=loop) as runner:
        probe = Probe(**given)
        runner.run(probe.open())
        for line in sys.stdin:
            step = json.loads(line)
            figures = runner.run(getattr(probe, step.pop("step"))(**step))
            print(json.dumps(figures), flush=True)
        runner.run(probe.close())


if __name__ == "__main__":
    main()
