"""One measurement of one system: a server, a folder, its producer and its workers."""

import json
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.harness import journal
from benchmarks.harness.bench import Bench
from benchmarks.harness.driver import TOLD
from benchmarks.harness.records import ROOT
from benchmarks.harness.server import Server
from benchmarks.harness.systems import System
from benchmarks.harness.worker import Running, environment

POLL_S = 0.02
READY_S, STALLED_S = 30.0, 30.0


class Drained(NamedTuple):
    """What it took to run all jobs, from the first one's begin to the last one's end."""

    seconds: float
    #: It took to enqueue them before, in the fastest way.
    enqueue_s: float
    #: CPU of all worker processes, and of Redis; microseconds a job.
    worker_us: float
    redis_us: float


class Stage:
    """What a system needs to be run; made anew for each measurement."""

    def __init__(self, system: System, server: Server, folder: Path, env: dict[str, str]) -> None:
        self.system = system
        self.server = server
        self.folder = folder
        self._env = env

    def produce(self, verb: str, **options: object) -> Any:
        """Run the system's producer to its end; return what it told."""
        words = [*self.system.command, verb]
        for name, value in options.items():
            words += [f"--{name}"] if value is True else [f"--{name}", str(value)]
        done = subprocess.run(words, env=self._env, cwd=ROOT, capture_output=True, check=False)
        if done.returncode != 0:
            said = done.stderr.decode(errors="replace")[-2000:]
            raise RuntimeError(f"{self.system.name} {verb} ended with {done.returncode}: {said}")
        return json.loads((self.folder / TOLD).read_text(encoding="utf-8"))

    def preload(self, jobs: int) -> float:
        """Put jobs into the queue in the system's fastest way; return the seconds it took."""
        way = "bulk" if self.system.has_bulk else "one"
        told = self.produce("enqueue", how=way, jobs=jobs)
        self.check_depth(jobs)
        return told[way]["seconds"]

    def check_depth(self, jobs: int) -> None:
        """Fail unless as many jobs wait as were enqueued."""
        depth = self.server.ask(*self.system.depth)
        if depth != jobs:
            raise RuntimeError(f"{self.system.name}: enqueued {jobs} jobs, but {depth} wait")

    @contextmanager
    def workers(self, concurrency: int, processes: int) -> Iterator[Running]:
        """Run the system's workers, behind the gate until `go`; killed at the end."""
        words = [*self.system.command, "worker"]
        words += ["--concurrency", str(concurrency), "--processes", str(processes)]
        log = self.folder / "worker.log"
        with Running(words, self._env, log, grace_s=0) as workers:
            self._await_ready(workers, processes)
            yield workers

    def _await_ready(self, workers: Running, processes: int) -> None:
        last = time.monotonic() + READY_S
        while len(list(self.folder.glob("*.ready"))) < processes:
            if time.monotonic() > last or workers.process.poll() is not None:
                raise RuntimeError(f"{self.system.name}: no worker came up: {workers.tail()}")
            time.sleep(POLL_S)

    def go(self) -> None:
        """Open the gate."""
        (self.folder / "go").touch()

    def wait(self, jobs: int, workers: Running) -> None:
        """Wait until so many runs have ended; fail when nothing ends any more."""
        done, last = 0, time.monotonic() + STALLED_S
        while done < jobs:
            time.sleep(POLL_S)
            before, done = done, journal.count(self.folder)
            if done > before:
                last = time.monotonic() + STALLED_S
            elif time.monotonic() > last:
                told = f"{self.system.name}: {done} of {jobs} jobs ended, then none for "
                raise RuntimeError(f"{told}{STALLED_S:g} s: {workers.tail()}")

    def runs(self, jobs: int) -> list[journal.Run]:
        """Return what ran, after checking that each job ran exactly once."""
        found = journal.runs(self.folder)
        journal.check(found, jobs)
        return found

    def drain(self, jobs: int, concurrency: int, processes: int) -> Drained:
        """Fill the queue, then empty it."""
        enqueue_s = self.preload(jobs)
        with self.workers(concurrency, processes) as workers:
            worker_s, redis_s = workers.cpu_s(), self.server.cpu_s()
            self.go()
            self.wait(jobs, workers)
            worker_s, redis_s = workers.cpu_s() - worker_s, self.server.cpu_s() - redis_s
        seconds = journal.seconds(self.runs(jobs))
        return Drained(seconds, enqueue_s, worker_s / jobs * 1e6, redis_s / jobs * 1e6)


@contextmanager
def stage(
    bench: Bench, system: System, *, workload: str = "noop", most: int, payload: int = 0
) -> Iterator[Stage]:
    """Set up one measurement; `most` is the number of jobs that it has at most."""
    with bench.folder() as folder, Server(folder) as server:
        env = environment(
            BENCH_REDIS_URL=server.url,
            BENCH_FOLDER=str(folder),
            BENCH_WORKLOAD=workload,
            BENCH_MOST=str(2 * most + 1000),  # a system that repeats jobs is caught, not broken
            BENCH_PAYLOAD=str(payload),
            **system.environment,
        )
        yield Stage(system, server, folder, env)
