"""Jobs that wait 50 ms at concurrency 500 and 2,000, in one process: ideal time / actual time.

Not for Laravel, whose worker runs one job at a time: it would need 500 processes.
For qcore alone also jobs that compute for 1 ms: the ideal is one after the other without a gap.
"""

from benchmarks import workloads
from benchmarks.harness.bench import Bench
from benchmarks.harness.stage import stage
from benchmarks.harness.systems import ALL, System

SYSTEMS = [name for name in ALL if name != "laravel"]
#: Concurrency -> how often all slots are filled.
WAVES = {"qcore": {500: 30, 2000: 20}, "bullmq": {500: 10, 2000: 5}}
OTHERS = {500: 4, 2000: 2}
CPU_JOBS, CPU_CONCURRENCY = 1500, 100


def run(bench: Bench) -> None:
    systems = bench.systems(*SYSTEMS)
    for _ in bench.rounds():
        for system in systems:
            with bench.turn(system.name):
                _measure(bench, system)


def _measure(bench: Bench, system: System) -> None:
    for concurrency, full in WAVES.get(system.name, OTHERS).items():
        jobs = -(-bench.jobs(full * concurrency) // concurrency) * concurrency  # whole waves
        ideal_s = jobs / concurrency * workloads.SLEEP_S
        _emit(bench, system, f"50 ms at {concurrency:,}", "sleep", jobs, concurrency, ideal_s)
    if system.name == "qcore":
        jobs = bench.jobs(CPU_JOBS)
        ideal_s = jobs * workloads.CPU_S
        _emit(bench, system, "1 ms of CPU", "cpu", jobs, CPU_CONCURRENCY, ideal_s)


def _emit(
    bench: Bench,
    system: System,
    case: str,
    workload: str,
    jobs: int,
    concurrency: int,
    ideal_s: float,
) -> None:
    with stage(bench, system, workload=workload, most=jobs) as at:
        at.preload(jobs)
        took = at.drain(jobs, concurrency, processes=1)
    bench.emit_of(
        system,
        case,
        ideal_s / took.seconds,
        "of ideal",
        jobs=jobs,
        concurrency=concurrency,
        per_s=took.per_s,
        **took.facts,
    )
