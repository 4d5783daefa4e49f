"""Enqueueing: awaited one by one, from 100 tasks at a time, and through the bulk API."""

from benchmarks.harness.bench import Bench
from benchmarks.harness.stage import stage
from benchmarks.harness.systems import ALL, BARE, SCRIPT, System

CASES = {"one": "one by one", "gathered": "100 at a time", "bulk": "bulk API"}
#: Jobs in each way, for about a second each.
JOBS = {
    "qcore": (8_000, 80_000, 150_000),
    "bullmq": (4_000, 15_000, 15_000),
    "bare": (8_000,),
    "script": (8_000,),
}
OTHERS = (2_500, 4_000, 5_000)


def run(bench: Bench) -> None:
    systems = bench.systems(*ALL, BARE, SCRIPT)
    for _ in bench.rounds():
        for system in systems:
            with bench.turn(system.name):
                _measure(bench, system)


def _measure(bench: Bench, system: System) -> None:
    sizes = (bench.jobs(jobs) for jobs in JOBS.get(system.name, OTHERS))
    jobs = dict(zip(system.ways, sizes, strict=False))  # `bare` has only the first way
    with stage(bench, system, most=0) as at:
        numbers = ",".join(str(number) for number in jobs.values())
        told = at.produce("enqueue", how=",".join(jobs), jobs=numbers)
        at.check_depth(sum(jobs.values()))
    for how, took in told.items():
        bench.emit_of(
            system,
            CASES[how],
            jobs[how] / took["seconds"],
            "jobs/s",
            jobs=jobs[how],
            producer_us=took["cpu_s"] / jobs[how] * 1e6,
        )
