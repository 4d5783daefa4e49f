"""Jobs that arrive at fixed times, whatever the system does: latency from when each was due.

A system is loaded with 10, 50 and 80 % of its own capacity: what it carries when 100 tasks enqueue
as fast as they can while a worker drains. qcore also gets every fourth job with a delay, 0 to 1 s.
"""

from benchmarks.harness.bench import Bench
from benchmarks.harness.journal import percentile, seconds
from benchmarks.harness.stage import Usage, stage
from benchmarks.harness.systems import System

#: Those where it costs little time: the fastest peer in Python and that on Node.
SYSTEMS = ("qcore", "taskiq", "bullmq")
CONCURRENCY = 100
LOADS = (10, 50, 80)
SECONDS = 2.5
CAPACITY_JOBS = {"qcore": 40_000, "bullmq": 10_000}
OTHERS = 4_000


def run(bench: Bench) -> None:
    systems = bench.systems(*SYSTEMS)
    for _ in bench.rounds():
        for system in systems:
            with bench.turn(system.name):
                _measure(bench, system)


def _measure(bench: Bench, system: System) -> None:
    capacity = _capacity(bench, system)
    for load in LOADS:
        _paced(bench, system, load, capacity * load / 100)
    if system.name == "qcore":
        _paced(bench, system, 50, capacity * 50 / 100, mixed=True)


def _capacity(bench: Bench, system: System) -> float:
    jobs = bench.jobs(CAPACITY_JOBS.get(system.name, OTHERS))
    with stage(bench, system, most=jobs) as at, at.workers(CONCURRENCY, 1) as workers:
        at.go()
        with Usage(at.server, workers) as usage:
            told = at.produce("enqueue", how="gathered", jobs=jobs)
            at.wait(jobs, workers)
        rate = jobs / seconds(at.runs(jobs))
    bench.emit_of(system, "capacity", rate, "jobs/s", jobs=jobs, **usage.facts(jobs, told))
    return rate


def _paced(bench: Bench, system: System, load: int, rate: float, *, mixed: bool = False) -> None:
    jobs = bench.jobs(int(rate * SECONDS))
    with stage(bench, system, most=jobs) as at, at.workers(CONCURRENCY, 1) as workers:
        at.go()
        late = at.send("paced", jobs, workers, rate=rate, **({"mixed": True} if mixed else {}))
    name = f"{load} % mixed delays" if mixed else f"{load} %"
    for percent in (50, 99):
        facts = {"run": name, "jobs": jobs, "rate": rate, **late.facts}
        bench.emit_of(system, f"{name}, p{percent}", percentile(late.ms, percent), "ms", **facts)
