"""What qcore costs when a queue is deep, beside what it costs when it is not."""

from contextlib import ExitStack
from statistics import quantiles
from typing import Any

from benchmarks.harness.bench import Bench
from benchmarks.harness.probe import Figures, Probe
from benchmarks.harness.server import Server

SHALLOW, DEEP = 1_000, 1_000_000
#: Ready jobs, and scheduled ones beside them.
DEPTHS = {
    "1,000": (SHALLOW, 0),
    "1,000,000": (DEEP, 0),
    "1,000,000 scheduled": (SHALLOW, DEEP),
}
BASE = "1,000"
JOBS = 50_000
ONE_BY_ONE = 2_000


def run(bench: Bench) -> None:
    """Keep each depth on a server of its own, and let them take turns.

    A queue of 1,000 is empty after some 20 ms: drains of it would measure how a worker starts and
    stops. So in every case as many jobs are put in as are run, by the same process and in the same
    rhythm, and the depth stays: what differs is the depth alone.
    """
    with ExitStack() as stack:
        probes: dict[str, Probe] = {}
        sizes: dict[str, float] = {}
        depths = {name: _scaled(bench, *depth) for name, depth in DEPTHS.items()}
        for name, depth in depths.items():
            server = stack.enter_context(bench.server())
            probes[name] = stack.enter_context(Probe(server))
            sizes[name] = _fill(server, probes[name], *depth)
        for number in bench.rounds():
            for name, probe in probes.items():
                _measure(bench, name, probe, *depths[name])
                if number == 1 and name != BASE:
                    kind = "scheduled" if "scheduled" in name else "ready"
                    bench.emit(f"Redis memory of a {kind} job", "qcore", sizes[name], "bytes")


def _scaled(bench: Bench, *depth: int) -> tuple[int, ...]:
    return tuple(max(int(jobs * bench.options.scale), min(jobs, SHALLOW)) for jobs in depth)


def _fill(server: Server, probe: Probe, ready: int, scheduled: int) -> float:
    """Return the bytes of Redis for each job put in; there is nothing beside it but the keys."""
    probe.warm_up()
    before = server.info("memory")["used_memory"]
    probe.step("enqueue_many", ready)
    if scheduled:
        probe.step("schedule", scheduled)
    return (server.info("memory")["used_memory"] - before) / (ready + scheduled)


def _measure(bench: Bench, name: str, probe: Probe, ready: int, scheduled: int) -> None:
    depth = {"ready": ready, "scheduled": scheduled}

    def facts(case: str, figures: Figures) -> dict[str, Any]:
        base = {} if name == BASE else {"base": f"{case}, {BASE}"}
        return {**base, **depth, **figures.facts()}

    case = "run and refill"
    steady = probe.step("steady", max(bench.jobs(JOBS), SHALLOW))
    bench.emit(f"{case}, {name}", "qcore", steady.per_s, "jobs/s", **facts(case, steady))
    case = "enqueue one by one"
    each = probe.step("enqueue_each", bench.jobs(ONE_BY_ONE))
    bench.emit(
        f"{case}, {name}",
        "qcore",
        each.per_s,
        "jobs/s",
        **facts(case, each),
        p50_ms=quantiles(each.took_s, n=100, method="inclusive")[49] * 1000,
        p99_ms=quantiles(each.took_s, n=100, method="inclusive")[98] * 1000,
    )
    # back to the depth: a worker that stops has run a few more than it was to
    drained = probe.step("drain", each.jobs)
    probe.step("enqueue_many", drained.jobs - each.jobs)
