"""Producers that block, as programs without an event loop do: in one thread, and in eight.

Each on two cores, and with producer and Redis on one. `bare` is redis-py's blocking client with one
EVALSHA for each job. A process of PHP has one thread.
"""

from benchmarks.harness.bench import Bench
from benchmarks.harness.stage import CORES, measure_enqueue
from benchmarks.harness.systems import BARE

SYSTEMS = ("qcore", "dramatiq", "laravel", "sidekiq", BARE)
#: Case -> the way of the driver.
WAYS = {"1 thread": "blocking", "8 threads": "threads"}
#: Jobs, for about a second.
JOBS = {"qcore": 5_000, "bare": 8_000, "laravel": 6_000}
OTHERS = 4_000


def run(bench: Bench) -> None:
    systems = bench.systems(*SYSTEMS)
    for _ in bench.rounds():
        for system in systems:
            with bench.turn(system.name):
                for threads, way in WAYS.items():
                    if way == "threads" and not system.is_concurrent:
                        continue
                    jobs = JOBS.get(system.name, OTHERS)
                    for name, cores in CORES.items():
                        measure_enqueue(bench, system, f"{threads}, {name}", way, jobs, cores)
