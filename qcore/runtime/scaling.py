"""How many worker processes are worth having: arithmetic on what was seen; no clock, no I/O."""

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from qcore.model.fleet import WorkerState, WorkerView

#: Throughput is that of the last so many looks; after a gap as long everything begins anew.
_LOOKS = 5
#: Let go so many only that the others are busy for this share of their time: a steady load that
#: filled them would bring the last one back.
_BUSY_SHARE = 0.8


@dataclass(frozen=True, slots=True)
class Seen:
    """What a supervisor sees at one moment."""

    #: Seconds, on any clock that does not jump.
    at_s: float
    #: Jobs that are ready in the queues it serves.
    backlog: int
    #: The processes in its slots; only those that are running count.
    workers: Sequence[WorkerView]


class Scaling:
    """Decides by Little's law how many processes a supervisor wants.

    The load that is there, arrival rate x run time, is the jobs that run: together with the CPU
    time it says how many workers are busy. When jobs wait for longer than the target, the workers
    that would clear the backlog within the target come on top. More are wanted at once, fewer when
    all of the last `shrink_after_s` needed fewer.

    Args:
        least: Where it starts, and what it never goes below.
        most: What it never goes above.
        concurrency: Jobs that one process runs at most.
        target_wait_s: A backlog that is worked off within this is no reason to grow.
        shrink_after_s: How long fewer must have been enough.
        look_s: About how often `decide` is called.
    """

    def __init__(
        self,
        least: int,
        most: int,
        *,
        concurrency: int,
        target_wait_s: float,
        shrink_after_s: float,
        look_s: float,
    ) -> None:
        self._least = least
        self._most = most
        self._target_wait_s = target_wait_s
        self._shrink_after_s = shrink_after_s
        self._window_s = _LOOKS * look_s
        #: Jobs that a full process runs: less than its concurrency when threads or a pool limit it.
        self._capacity = concurrency
        #: When, and how many jobs as many workers had done, since some wait all the time.
        self._full: deque[tuple[float, int]] = deque()
        #: How many jobs each worker had done at the last look.
        self._done: dict[int, int] = {}
        #: When, and how many processes were needed then.
        self._needs: deque[tuple[float, int]] = deque()
        self.wanted = least

    def forget(self) -> None:
        """Begin anew, with as many as are wanted now: nothing was seen for a while."""
        self._full.clear()
        self._needs.clear()

    def decide(self, seen: Seen) -> str:
        """Take note of what was seen; return why `wanted` has changed, or nothing."""
        working = [w for w in seen.workers if w.state is WorkerState.RUNNING]
        if not working or (self._needs and seen.at_s - self._needs[-1][0] > self._window_s):
            self.forget()
        if not working:
            return ""
        if not self._needs:
            self._needs.append((seen.at_s, self.wanted))
        need, why = self._need(seen, working)
        self._needs.append((seen.at_s, min(max(need, self._least), self._most)))
        while self._needs[0][0] < seen.at_s - self._shrink_after_s:
            self._needs.popleft()
        was, self.wanted = self.wanted, max(need for _, need in self._needs)
        if self.wanted < was:
            return f"{self.wanted} would have done for the last {self._shrink_after_s:g} s"
        return why if self.wanted > was else ""

    def _need(self, seen: Seen, working: Sequence[WorkerView]) -> tuple[int, str]:
        """Return how many are needed by this look alone, and why more."""
        before, self._done = self._done, {worker.pid: worker.done for worker in working}
        fullest = max(worker.running for worker in working)
        # others in their places are as good as they were: recycling must not hide a backlog
        if not seen.backlog or len(before) != len(self._done):
            self._full.clear()
        if not seen.backlog:
            self._capacity = max(self._capacity, fullest)
            return min(self.wanted, self._busy(working)), ""
        did = sum(max(0, done - before.get(pid, 0)) for pid, done in self._done.items())
        self._full.append((seen.at_s, self._full[-1][1] + did if self._full else 0))
        while len(self._full) > 2 and self._full[0][0] < seen.at_s - self._window_s:
            self._full.popleft()
        if len(self._full) == 1:
            return self.wanted, ""  # these jobs may have come just now
        self._capacity = max(1, fullest)
        return self._crowded(seen.backlog, len(working))

    def _busy(self, working: Sequence[WorkerView]) -> int:
        """Return how many workers would have enough to do with what these do."""
        shares = [min(1.0, max(w.cpu, w.running / self._capacity)) for w in working]
        # float noise must not make 3 of 2.4 / 0.8
        return math.ceil(sum(shares) / _BUSY_SHARE - 1e-9)

    def _crowded(self, backlog: int, workers: int) -> tuple[int, str]:
        """Return how many work off the backlog in time; all of those that there are, are full."""
        (since_s, before), (at_s, done) = self._full[0], self._full[-1]
        rate = (done - before) / (at_s - since_s)
        if rate * self._target_wait_s >= backlog:
            return self.wanted, ""
        more = backlog / self._capacity  # no use in more than can take a job each
        said = f"{backlog} jobs wait, and none was done in {at_s - since_s:.1f} s"
        if rate > 0:
            more = min(more, workers * backlog / (rate * self._target_wait_s))
            said = f"{backlog} jobs wait, {rate:.1f} are done a second: {backlog / rate:.1f} s"
        return max(self.wanted, workers + math.ceil(more)), said
