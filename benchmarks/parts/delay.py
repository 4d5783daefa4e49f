"""What 1 ms of network costs: the same work at once, through a proxy, and through a slow one."""

from contextlib import ExitStack
from statistics import median

from benchmarks.harness.bench import Bench
from benchmarks.harness.probe import Probe
from benchmarks.harness.proxy import Proxy

TOGETHER, MANY = 20_000, 50_000
ONE_BY_ONE = 300
#: Each way.
DELAY_S = 0.0005
NEAR = "through a proxy"
FAR = "1 ms away"


def run(bench: Bench) -> None:
    """Interleave the three ways; every job that is enqueued in a round is drained in it."""
    with bench.server() as server, ExitStack() as stack:
        near = stack.enter_context(Proxy(server.port))
        far = stack.enter_context(Proxy(server.port, delay_s=DELAY_S))
        urls = {"direct": server.url, NEAR: near.url, FAR: far.url}
        probes = {
            name: stack.enter_context(Probe(server, producer_url=url, worker_url=url))
            for name, url in urls.items()
        }
        for probe in probes.values():
            probe.warm_up()
        for _ in bench.rounds():
            for name, probe in probes.items():
                _measure(bench, name, probe)


def _measure(bench: Bench, name: str, probe: Probe) -> None:
    each = probe.step("enqueue_each", bench.jobs(ONE_BY_ONE))
    together = probe.step("enqueue_together", max(bench.jobs(TOGETHER), 100))
    many = probe.step("enqueue_many", bench.jobs(MANY))
    drained = probe.step("drain", each.jobs + together.jobs + many.jobs)
    p50_ms = median(each.took_s) * 1000
    bench.emit(f"enqueue one by one, p50, {name}", "qcore", p50_ms, "ms", **each.facts())
    for case, figures in (
        ("enqueue from 100 tasks", together),
        ("enqueue_many", many),
        ("drain", drained),
    ):
        base = {"base": f"{case}, {NEAR}"} if name == FAR else {}
        bench.emit(f"{case}, {name}", "qcore", figures.per_s, "jobs/s", **base, **figures.facts())
