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
            sent = at.preload(jobs)
            took = at.drain(jobs, CONCURRENCY, processes=1)
        for case, timed in (("enqueue_many", sent), ("drain", took)):
            value, facts = timed.per_s, timed.facts
            bench.emit_of(system, f"{name}, {case}", value, "jobs/s", jobs=jobs, **facts)
