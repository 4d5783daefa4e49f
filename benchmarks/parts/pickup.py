"""One job at a time for a worker that has nothing to do: from just before the enqueue to its start.

`bare` is the denominator: EVALSHA, then in the worker BZPOPMIN and EVALSHA, with plain redis-py.
"""

from benchmarks.harness.bench import Bench
from benchmarks.harness.journal import latencies_ms, percentile
from benchmarks.harness.stage import stage
from benchmarks.harness.systems import ALL, BARE, System

PROBES, GAP_MS = 150, 12


def run(bench: Bench) -> None:
    systems = bench.systems(*ALL, BARE)
    for _ in bench.rounds():
        for system in systems:
            with bench.turn(system.name):
                _measure(bench, system)


def _measure(bench: Bench, system: System) -> None:
    probes = bench.jobs(PROBES)
    with stage(bench, system, most=probes) as at, at.workers(100, 1) as workers:
        at.go()
        sent = at.produce("pickup", jobs=probes, **{"gap-ms": GAP_MS})
        at.wait(probes, workers)
        late = latencies_ms(at.runs(probes), sent)
    for percent in (50, 99):
        bench.emit_of(system, f"p{percent}", percentile(late, percent), "ms", probes=probes)
