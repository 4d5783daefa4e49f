"""Client commands, round trips and bytes a job, counted on the wire."""

from benchmarks.harness.bench import Bench
from benchmarks.harness.probe import IN_ONE, Probe
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

        def count(proxy: Proxy, step: str, jobs: int) -> Traffic:
            before = proxy.traffic()
            probe.step(step, jobs)
            return proxy.traffic() - before

        for _ in bench.rounds():
            jobs, alone = max(bench.jobs(JOBS), 100) // 100 * 100, bench.jobs(ALONE)
            each = count(producing, "enqueue_each", alone)
            _emit(bench, "enqueue one by one", alone, each)
            _emit(bench, "enqueue from 100 tasks", jobs, count(producing, "enqueue_together", jobs))
            _emit(bench, "enqueue_many", jobs, count(producing, "enqueue_many", jobs))
            _emit(bench, "drain", alone + 2 * jobs, count(working, "drain", alone + 2 * jobs))
            _emit(bench, "one job at a time", alone, count(working, "one_at_a_time", alone))


def _emit(bench: Bench, case: str, jobs: int, traffic: Traffic) -> None:
    each = traffic.per_job(jobs)
    facts = {"jobs": jobs, "by_name": traffic.commands, **each, "process": IN_ONE}
    size = each["bytes_sent"] + each["bytes_received"]
    for what, value in (
        ("commands", each["commands"]),
        ("round trips", each["round_trips"]),
        ("bytes", size),
    ):
        bench.emit(f"{case}: {what}", "qcore", value, "a job", **facts)
