"""Client commands, round trips and bytes a job, counted on the wire."""

from benchmarks.harness.bench import Bench
from benchmarks.harness.probe import Probe
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
    facts = {"jobs": jobs, "by_name": traffic.commands, **traffic.per_job(jobs)}
    bench.emit(f"{case}: commands", "qcore", facts["commands"], "a job", **facts)
    bench.emit(f"{case}: round trips", "qcore", facts["round_trips"], "a job")
    size = facts["bytes_sent"] + facts["bytes_received"]
    bench.emit(f"{case}: bytes", "qcore", size, "a job")
