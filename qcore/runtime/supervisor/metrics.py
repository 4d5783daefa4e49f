"""What a supervisor knows, in the text format of Prometheus."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate, groupby

from prometheus_client import CollectorRegistry
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from qcore.model.fleet import SupervisorView, WorkerState
from qcore.model.views import QueueStats
from qcore.runtime.ipc.messages import Cell
from qcore.runtime.ipc.run_counts import BOUNDS_S, OUTCOMES
from qcore.runtime.supervisor.totals import Totals

CONTENT_TYPE = CONTENT_TYPE_LATEST
_ENDS = ("left", "crashed", "killed")


class _Families:
    """What a registry asks for: one exposition."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


def exposition(view: SupervisorView, totals: Totals, queues: Sequence[QueueStats] | None) -> bytes:
    """Return all metrics of a supervisor.

    Args:
        view: Its workers as their last beats said.
        totals: What they came to since it started.
        queues: The depths; None when Redis did not tell.
    """
    registry = CollectorRegistry(auto_describe=False)
    families = [*_of_queues(queues), *_of_runs(totals.runs.cells()), *_of_workers(view, totals)]
    registry.register(_Families(families))
    return generate_latest(registry)


def _of_queues(queues: Sequence[QueueStats] | None) -> Iterator[Metric]:
    yield GaugeMetricFamily(
        "qcore_redis_up", "Whether Redis told the depths.", value=int(queues is not None)
    )
    depth = GaugeMetricFamily(
        "redis_queue_depth", "Jobs that wait for a worker, quarantined jobs too.", labels=["queue"]
    )
    jobs = GaugeMetricFamily("qcore_queue_jobs", "Jobs by state.", labels=["queue", "state"])
    wait = GaugeMetricFamily(
        "qcore_queue_wait_seconds", "Age of the oldest ready job; 0: none.", labels=["queue"]
    )
    most = GaugeMetricFamily(
        "qcore_queue_max_jobs", "So many jobs may wait in a queue with a limit.", labels=["queue"]
    )
    for stats in queues or ():
        depth.add_metric([stats.name], stats.ready)
        wait.add_metric([stats.name], stats.oldest_ready_s or 0)
        counts = {
            "ready": stats.ready - stats.quarantined,
            "quarantined": stats.quarantined,
            "scheduled": stats.scheduled,
            "active": stats.active,
            "dead": stats.dead,
        }
        for state, count in counts.items():
            jobs.add_metric([stats.name, state], count)
        if stats.max_jobs is not None:
            most.add_metric([stats.name], stats.max_jobs)
    yield from (depth, jobs, wait, most)


def _of_runs(cells: Sequence[Cell]) -> Iterator[Metric]:
    runs = CounterMetricFamily(
        "qcore_job_runs", "Runs that ended, by outcome.", labels=["queue", "task", "outcome"]
    )
    times = HistogramMetricFamily(
        "qcore_job_run_seconds", "From the claim to the outcome.", labels=["queue", "task"]
    )
    for (queue, task), group in groupby(cells, lambda cell: (cell.queue, cell.task)):
        by_outcome = dict.fromkeys(OUTCOMES.values(), 0)
        by_bound: defaultdict[int, int] = defaultdict(int)
        seconds = 0.0
        for cell in group:
            by_outcome[cell.outcome] = by_outcome.get(cell.outcome, 0) + cell.runs
            by_bound[cell.bound] += cell.runs
            seconds += cell.seconds
        for outcome, count in by_outcome.items():
            runs.add_metric([queue, task, outcome], count)
        names = [*map(str, BOUNDS_S), "+Inf"]
        counts = accumulate(by_bound[i] for i in range(len(names)))
        times.add_metric([queue, task], list(zip(names, counts, strict=True)), seconds)
    yield from (runs, times)


def _of_workers(view: SupervisorView, totals: Totals) -> Iterator[Metric]:
    workers = view.workers
    states = GaugeMetricFamily("qcore_workers", "Worker processes by state.", labels=["state"])
    for state in WorkerState:
        states.add_metric([state], sum(worker.state is state for worker in workers))
    yield states
    sizes = [worker.rss_bytes for worker in workers]
    for name, said, value in (
        ("qcore_jobs_running", "Jobs that run now.", sum(w.running for w in workers)),
        ("qcore_memory_bytes", "Resident memory of all workers.", sum(sizes)),
        ("qcore_memory_max_bytes", "That of the largest worker.", max(sizes, default=0)),
        ("qcore_loop_lag_seconds", "The longest of a worker in a minute.", totals.lag_s),
    ):
        yield GaugeMetricFamily(name, said, value=value)
    yield CounterMetricFamily(
        "qcore_workers_started", "Worker processes that were started.", value=totals.started
    )
    ends = CounterMetricFamily(
        "qcore_worker_ends", "Worker processes that ended, by how.", labels=["how"]
    )
    for how in _ENDS:
        ends.add_metric([how], totals.ends[how])
    yield ends
