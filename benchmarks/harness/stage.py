"""One measurement of one system: a server, a folder, its producer and its workers."""

import json
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Self

from benchmarks.harness import journal, processes
from benchmarks.harness.bench import Bench
from benchmarks.harness.driver import TOLD
from benchmarks.harness.records import ROOT
from benchmarks.harness.server import Server
from benchmarks.harness.systems import System
from benchmarks.harness.worker import Running, environment

#: Lone calls are measured on so many cores: a wake-up of another core costs more than a call.
CORES = {"2c": 2, "1c": 1}
POLL_S = 0.02
READY_S, STALLED_S = 30.0, 30.0


class Timed(NamedTuple):
    """What it took to enqueue jobs, or to run them from the first one's begin to the last's end."""

    jobs: int
    seconds: float
    #: CPU in microseconds a job: `producer_us` or `worker_us`, and `redis_us`.
    facts: dict[str, float]

    @property
    def per_s(self) -> float:
        return self.jobs / self.seconds


class Usage:
    """CPU seconds of Redis and of the workers while a block runs."""

    def __init__(self, server: Server, workers: Running | None = None) -> None:
        self._of = {"redis_us": server.cpu_s}
        if workers:
            self._of["worker_us"] = workers.cpu_s
        self._used: dict[str, float] = {}

    def __enter__(self) -> Self:
        self._used = {name: cpu_s() for name, cpu_s in self._of.items()}
        return self

    def __exit__(self, *_exc: object) -> None:
        self._used = {name: cpu_s() - self._used[name] for name, cpu_s in self._of.items()}

    def facts(self, jobs: int, told: Mapping[str, Any] | None = None) -> dict[str, float]:
        """Return microseconds a job, with those of the producer if it told what it used."""
        used = {"producer_us": told["cpu_s"]} if told else {}
        return {name: seconds / jobs * 1e6 for name, seconds in (used | self._used).items()}


class Late(NamedTuple):
    """How late jobs began, and the CPU that they took."""

    #: Sorted.
    ms: list[float]
    #: CPU in microseconds a job: `producer_us`, `worker_us` and `redis_us`.
    facts: dict[str, float]


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

    def enqueue(self, how: str, jobs: int) -> Timed:
        """Put jobs into the empty queue, in this way of the driver."""
        with Usage(self.server) as usage:
            told = self.produce("enqueue", how=how, jobs=jobs)
        self.check_depth(jobs)
        return Timed(jobs, told["seconds"], usage.facts(jobs, told))

    def preload(self, jobs: int) -> Timed:
        """Put jobs into the queue in the system's fastest way."""
        return self.enqueue("bulk" if self.system.has_bulk else "one", jobs)

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

    def drain(self, jobs: int, concurrency: int, processes: int) -> Timed:
        """Empty a queue that was filled with so many jobs."""
        with (
            self.workers(concurrency, processes) as workers,
            Usage(self.server, workers) as usage,
        ):
            self.go()
            self.wait(jobs, workers)
        return Timed(jobs, journal.seconds(self.runs(jobs)), usage.facts(jobs))

    def send(self, verb: str, jobs: int, workers: Running, **pace: object) -> Late:
        """Let the producer send jobs at its own pace, `pickup` or `paced`; the gate is open."""
        with Usage(self.server, workers) as usage:
            told = self.produce(verb, jobs=jobs, **pace)
            self.wait(jobs, workers)
        late = journal.latencies_ms(self.runs(jobs), told["times"])
        return Late(late, usage.facts(jobs, told))


@contextmanager
def stage(
    bench: Bench,
    system: System,
    *,
    workload: str = "noop",
    most: int,
    payload: int = 0,
    cores: int | None = None,
) -> Iterator[Stage]:
    """Set up one measurement; `most` is the number of jobs that it has at most.

    With `cores`, Redis, producer and workers share so many.
    """
    with processes.pinned(cores), bench.folder() as folder, Server(folder) as server:
        env = environment(
            BENCH_REDIS_URL=server.url,
            BENCH_FOLDER=str(folder),
            BENCH_WORKLOAD=workload,
            BENCH_MOST=str(2 * most + 1000),  # a system that repeats jobs is caught, not broken
            BENCH_PAYLOAD=str(payload),
            **system.environment,
        )
        yield Stage(system, server, folder, env)


def measure_enqueue(
    bench: Bench, system: System, case: str, how: str, full: int, cores: int | None = None
) -> None:
    """Let a system enqueue as many jobs as a run at full size has in this way; write the figure."""
    with stage(bench, system, most=0, cores=cores) as at:
        took = at.enqueue(how, bench.jobs(full))
    bench.emit_of(system, case, took.per_s, "jobs/s", jobs=took.jobs, cores=cores, **took.facts)
