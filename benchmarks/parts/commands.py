"""Client commands, round trips and bytes a job, counted on the wire."""

from benchmarks.harness.bench import Bench
from benchmarks.harness.probe import Figures, Probe
from benchmarks.harness.proxy import Proxy, Traffic

JOBS = 20_000
ALONE = 1_000


def run(bench: Bench) -> None:
    with (
        bench.server() as server,
        Proxy(server.port, counts=True) as producing,
        Proxy(server.port, counts=True) as working,
        Probe(server, producer_url=producing.url, worker_url=working.url) as probe,
    ):
        probe.warm_up()

        def count(proxy: Proxy, step: str, jobs: int) -> tuple[Figures, Traffic]:
            before = proxy.traffic()
            figures = probe.step(step, jobs)
            return figures, proxy.traffic() - before

        for _ in bench.rounds():
            jobs, alone = max(bench.jobs(JOBS), 100) // 100 * 100, bench.jobs(ALONE)
            _emit(bench, "enqueue one by one", *count(producing, "enqueue_each", alone))
            _emit(bench, "enqueue from 100 tasks", *count(producing, "enqueue_together", jobs))
            _emit(bench, "enqueue_many", *count(producing, "enqueue_many", jobs))
            _emit(bench, "drain", *count(working, "drain", alone + 2 * jobs))
            _emit(bench, "one job at a time", *count(working, "one_at_a_time", alone))


def _emit(bench: Bench, case: str, figures: Figures, traffic: Traffic) -> None:
    each = traffic.per_job(figures.jobs)
    facts = {"by_name": traffic.commands, "jobs": figures.jobs, **each}
    size = each["bytes_sent"] + each["bytes_received"]
    for what, value in (
        ("commands", each["commands"]),
        ("round trips", each["round_trips"]),
        ("bytes", size),
    ):
        cpu = figures.facts() if what == "commands" else {}
        bench.emit(f"{case}: {what}", "qcore", value, "a job", **(facts | cpu))
