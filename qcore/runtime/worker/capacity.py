"""How many jobs of each queue a worker may take now."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from qcore.model.callee import RunIn
from qcore.model.job import ALONE, Lease
from qcore.settings import WorkerConfig
from qcore.task import Task


@dataclass(slots=True, frozen=True)
class ClaimBudget:
    """What a worker may claim."""

    #: The queues to claim from, in order, with the most jobs of each (1 and more).
    queues: Mapping[str, int]
    #: The most jobs in all.
    jobs: int
    #: Nothing runs.
    is_idle: bool = True


class Capacity:
    """Counts running jobs against the worker's concurrency, its threads and its pool.

    A queue whose tasks all run in threads, or all in processes, is claimed only as far as these
    are free: a job that would wait for one here may find a free one in another worker. A queue of
    mixed tasks is bounded by the concurrency alone.

    Args:
        config: The sizes.
        tasks: Every task of the app; `options(queue=...)` may still put its jobs elsewhere.
    """

    def __init__(self, config: WorkerConfig, tasks: Iterable[Task[Any, Any]]) -> None:
        self._concurrency = config.concurrency
        self._quarantined = config.quarantined
        #: A quarantined job that has to be alone runs.
        self._is_shut = False
        #: Nothing more may begin: a run has left something behind, a thread perhaps, and what that
        #: does must not be blamed on another job.
        self.closed = False
        self._sizes: dict[RunIn, int] = {
            "loop": config.concurrency,
            "thread": config.threads,
            "process": config.pool_size,
        }
        found: dict[str, set[RunIn]] = {queue: set() for queue in config.queues}
        for task in tasks:
            found.get(task.settings.queue, set[RunIn]()).add(task.settings.run_in)
        self._places: dict[str, RunIn] = {
            queue: places.pop() if len(places) == 1 else "loop" for queue, places in found.items()
        }
        #: Jobs that run, by queue.
        self._running = dict.fromkeys(self._places, 0)

    def take(self, lease: Lease) -> None:
        """Note that a job has started."""
        self._running[lease.queue] += 1
        self._is_shut = self._quarantined and lease.crashes >= ALONE

    def give(self, lease: Lease) -> None:
        """Note that a job has ended."""
        self._running[lease.queue] -= 1
        self._is_shut = False

    def admit(self, lease: Lease) -> bool:
        """Say whether a claimed, quarantined job may begin: another claim may have been late."""
        is_beside = lease.crashes >= ALONE and any(self._running.values())
        return not (self.closed or self._is_shut or is_beside)

    def budget(self, hanging_threads: int) -> ClaimBudget | None:
        """Return what may be claimed now, with so many threads that have no job any more.

        None when nothing may.
        """
        if self.closed or self._is_shut:
            return None
        running = sum(self._running.values())
        free = self._concurrency - running
        taken_in: Counter[RunIn] = Counter({"thread": hanging_threads})
        for queue, place in self._places.items():
            taken_in[place] += self._running[queue]
        queues: dict[str, int] = {}
        for queue, place in self._places.items():
            most = min(free, self._sizes[place] - taken_in[place])
            if most > 0:
                queues[queue] = most
        if not queues:
            return None
        return ClaimBudget(queues, min(free, sum(queues.values())), not running)
