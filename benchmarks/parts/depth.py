"""What qcore costs when a queue is deep, beside what it costs when it is not."""

from contextlib import ExitStack
from statistics import quantiles

from benchmarks.harness.bench import Bench
from benchmarks.harness.probe import Probe
from benchmarks.harness.server import Server

SHALLOW, DEEP = 1_000, 1_000_000
#: Ready jobs, and scheduled ones beside them.
DEPTHS = {
    "1,000 ready": (SHALLOW, 0),
    "1,000,000 ready": (DEEP, 0),
    "1,000 ready, 1,000,000 scheduled": (SHALLOW, DEEP),
}
BASE = "1,000 ready"
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
        for name, depth in DEPTHS.items():
            server = stack.enter_context(bench.server())
            probes[name] = stack.enter_context(Probe(server))
            sizes[name] = _fill(bench, server, probes[name], *depth)
        for number in bench.rounds():
            for name, probe in probes.items():
                _measure(bench, name, probe)
                if number == 1 and name != BASE:
                    kind = "scheduled" if "scheduled" in name else "ready"
                    bench.emit(f"Redis memory of a {kind} job", "qcore", sizes[name], "bytes")


def _fill(bench: Bench, server: Server, probe: Probe, ready: int, scheduled: int) -> float:
    """Return the bytes of Redis for each job put in; there is nothing beside it but the keys."""
    probe.warm_up()
    before = server.info("memory")["used_memory"]
    ready, scheduled = (
        max(int(n * bench.options.scale), min(n, SHALLOW)) for n in (ready, scheduled)
    )
    probe.step("enqueue_many", ready)
    if scheduled:
        probe.step("schedule", scheduled)
    return (server.info("memory")["used_memory"] - before) / (ready + scheduled)


def _measure(bench: Bench, name: str, probe: Probe) -> None:
    def base(case: str) -> dict[str, str]:
        return {} if name == BASE else {"base": f"{case}, {BASE}"}

    case = "run and refill"
    steady = probe.step("steady", max(bench.jobs(JOBS), SHALLOW))
    bench.emit(f"{case}, {name}", "qcore", steady.per_s, "jobs/s", **base(case), **steady.facts())
    case = "enqueue one by one"
    each = probe.step("enqueue_each", bench.jobs(ONE_BY_ONE))
    bench.emit(
        f"{case}, {name}",
        "qcore",
        each.per_s,
        "jobs/s",
        **base(case),
        **each.facts(),
        p50_ms=quantiles(each.took_s, n=100, method="inclusive")[49] * 1000,
        p99_ms=quantiles(each.took_s, n=100, method="inclusive")[98] * 1000,
    )
    probe.step("drain", each.jobs)  # back to the depth
