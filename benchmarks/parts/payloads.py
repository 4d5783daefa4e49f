"""qcore with arguments of 100 B, 1 KB and 10 KB: `enqueue_many`, then drained."""

from benchmarks import workloads
from benchmarks.harness.bench import Bench
from benchmarks.harness.stage import stage
from benchmarks.harness.systems import System

CONCURRENCY = 100
JOBS = {"100 B": 60_000, "1 KB": 40_000, "10 KB": 10_000}


def run(bench: Bench) -> None:
    systems = bench.systems("qcore")
    for _ in bench.rounds():
        for system in systems:
            with bench.turn(system.name):
                _measure(bench, system)


def _measure(bench: Bench, system: System) -> None:
    for name, size in workloads.PAYLOADS.items():
        jobs = bench.jobs(JOBS[name])
        with stage(bench, system, most=jobs, payload=size) as at:
            took = at.drain(jobs, CONCURRENCY, processes=1)
        bench.emit_of(system, f"{name}, enqueue_many", jobs / took.enqueue_s, "jobs/s", jobs=jobs)
        bench.emit_of(
            system,
            f"{name}, drain",
            jobs / took.seconds,
            "jobs/s",
            jobs=jobs,
            worker_us=took.worker_us,
            redis_us=took.redis_us,
        )
