"""One job per key: enqueues under a key each, beside peers that have keys, and without one.

arq's key is the id of the job, BullMQ's its deduplication; Sidekiq's keys are not free.
"""

from benchmarks.harness.bench import Bench
from benchmarks.harness.stage import measure_enqueue

SYSTEMS = ("qcore", "arq", "bullmq")
#: Case -> the ways of the driver, with a key and without.
CASES = {"one by one": ("keyed", "one"), "100 at a time": ("keyed gathered", "gathered")}
#: Jobs, for about a second.
JOBS = {"qcore": (6_000, 40_000), "bullmq": (4_000, 15_000)}
OTHERS = (2_500, 4_000)


def run(bench: Bench) -> None:
    systems = bench.systems(*SYSTEMS)
    for _ in bench.rounds():
        for system in systems:
            with bench.turn(system.name):
                for jobs, (case, ways) in zip(
                    JOBS.get(system.name, OTHERS), CASES.items(), strict=True
                ):
                    for way, name in zip(ways, (f"{case}, a key each", case), strict=True):
                        measure_enqueue(bench, system, name, way, jobs)
