"""One job at a time for a worker that has nothing to do: from just before the enqueue to its start.

`bare` is the denominator: EVALSHA, then in the worker BZPOPMIN and EVALSHA, with plain redis-py.
On two cores, and with producer, worker and Redis on one.
"""

import time

from benchmarks.harness.bench import Bench
from benchmarks.harness.journal import percentile
from benchmarks.harness.stage import CORES, stage
from benchmarks.harness.systems import ALL, BARE, System

PROBES, GAP_MS = 150, 12
#: Until all threads and connections of a worker are there.
SETTLE_S = 0.3


def run(bench: Bench) -> None:
    systems = bench.systems(*ALL, BARE)
    for _ in bench.rounds():
        for system in systems:
            with bench.turn(system.name):
                for name, cores in CORES.items():
                    _measure(bench, system, name, cores)


def _measure(bench: Bench, system: System, name: str, cores: int) -> None:
    probes = bench.jobs(PROBES)
    with (
        stage(bench, system, most=probes, cores=cores) as at,
        at.workers(100, 1) as workers,
    ):
        at.go()
        time.sleep(SETTLE_S)
        late = at.send("pickup", probes, workers, **{"gap-ms": GAP_MS})
    for percent in (50, 99):
        facts = {"run": name, "probes": probes, "cores": cores, **late.facts}
        case = f"p{percent}, {name}"
        bench.emit_of(system, case, percentile(late.ms, percent), "ms", **facts)
