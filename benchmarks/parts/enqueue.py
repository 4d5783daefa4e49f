"""Enqueueing: awaited one by one, from 100 tasks at a time, and through the bulk API.

One by one is measured on two cores, and with producer and Redis on one.
"""

from typing import NamedTuple

from benchmarks.harness.bench import Bench
from benchmarks.harness.stage import CORES, measure_enqueue
from benchmarks.harness.systems import ALL, BARE, SCRIPT


class Case(NamedTuple):
    name: str
    #: As the driver calls it.
    way: str
    cores: int | None = None


CASES = (
    *(Case(f"one by one, {name}", "one", cores) for name, cores in CORES.items()),
    Case("100 at a time", "gathered"),
    Case("bulk API", "bulk"),
)
#: Jobs in each way, for about a second each.
JOBS = {
    "qcore": {"one": 8_000, "gathered": 80_000, "bulk": 150_000},
    "bullmq": {"one": 4_000, "gathered": 15_000, "bulk": 15_000},
    "laravel": {"one": 6_000, "bulk": 20_000},
    "sidekiq": {"one": 4_000, "gathered": 3_000, "bulk": 30_000},
    "bare": {"one": 8_000},
    "script": {"one": 8_000},
}
OTHERS = {"one": 2_500, "gathered": 4_000, "bulk": 5_000}


def run(bench: Bench) -> None:
    systems = bench.systems(*ALL, BARE, SCRIPT)
    for _ in bench.rounds():
        for system in systems:
            jobs = JOBS.get(system.name, OTHERS)
            with bench.turn(system.name):
                for case in CASES:
                    if case.way in system.ways and case.way in jobs:
                        full = jobs[case.way]
                        measure_enqueue(bench, system, case.name, case.way, full, case.cores)
