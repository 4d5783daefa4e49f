"""How many worker processes are worth having: arithmetic on what was seen; no clock, no I/O."""

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from qcore.model.fleet import WorkerState, WorkerView

#: Throughput is that of the last so many looks; after a gap as long everything begins anew.
_LOOKS = 5
#: Let go so many only that the others are busy for this share of their time: a steady load that
#: filled them would bring the last one back.
_BUSY_SHARE = 0.8
#: A wait that is too long gets better when each look finds this share of it at most.
_BETTER_SHARE = 0.9


@dataclass(frozen=True, slots=True)
class Seen:
    """What a supervisor sees at one moment."""

    #: Seconds, on any clock that does not jump.
    at_s: float
    #: Jobs that are ready in the queues it serves.
    backlog: int
    #: The processes in its slots; only those that are running count.
    workers: Sequence[WorkerView]
    #: Of each queue with ready jobs, the seconds since its next job was enqueued.
    ages_s: Mapping[str, float] = field(default_factory=dict[str, float])


class ScalingPolicy:
    """Decides by Little's law how many processes a supervisor wants.

    The load that is there, arrival rate x run time, is the jobs that run: together with the CPU
    time it says how busy the workers are. When jobs wait for longer than the target, the workers
    that would clear the backlog within the target come on top; one more when the backlog as a whole
    is cleared in time, and a queue is not. More are wanted at once, fewer when all of the last
    `shrink_after_s` needed fewer.

    Args:
        least: Where it starts, and what it never goes below.
        most: What it never goes above.
        target_wait_s: A backlog that is worked off within this is no reason to grow.
        shrink_after_s: How long fewer must have been enough.
        look_s: About how often `decide` is called.
    """

    def __init__(
        self,
        least: int,
        most: int,
        *,
        target_wait_s: float,
        shrink_after_s: float,
        look_s: float,
    ) -> None:
        self._min = least
        self._max = most
        self._target_wait_s = target_wait_s
        self._shrink_after_s = shrink_after_s
        self._window_s = _LOOKS * look_s
        #: When, and how many jobs as many workers had done, since some wait all the time.
        self._full: deque[tuple[float, int]] = deque()
        #: How many jobs each worker had done at the last look.
        self._done: dict[int, int] = {}
        #: Since when each queue has had ready jobs at every look.
        self._waiting: dict[str, float] = {}
        #: How long the next job of one of them had waited at the last look, at most.
        self._waited_s = 0.0
        #: When, and how many processes were needed then.
        self._needs: deque[tuple[float, int]] = deque()
        self.wanted = least

    def forget(self) -> None:
        """Begin anew, with as many as are wanted now: nothing was seen for a while."""
        self._full.clear()
        self._waiting.clear()
        self._waited_s = 0.0
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
        need, why = self._need(seen, working, self._slow_queue(seen))
        self._needs.append((seen.at_s, min(max(need, self._min), self._max)))
        while self._needs[0][0] < seen.at_s - self._shrink_after_s:
            self._needs.popleft()
        was, self.wanted = self.wanted, max(need for _, need in self._needs)
        if self.wanted < was:
            return f"{self.wanted} would have done for the last {self._shrink_after_s:g} s"
        return why if self.wanted > was else ""

    def _slow_queue(self, seen: Seen) -> str:
        """Return the queue whose next job has waited for too long, unless that is getting better.

        Not for longer than there were ready jobs: a retried or delayed one was enqueued long ago.
        """
        since, before_s = self._waiting, self._waited_s
        self._waiting = {queue: since.get(queue, seen.at_s) for queue in seen.ages_s}
        waited = [
            (min(age_s, seen.at_s - self._waiting[queue]), queue)
            for queue, age_s in seen.ages_s.items()
        ]
        self._waited_s, queue = max(waited, default=(0.0, ""))
        is_slow = self._waited_s > self._target_wait_s and self._waited_s > before_s * _BETTER_SHARE
        return queue if is_slow else ""

    def _need(self, seen: Seen, working: Sequence[WorkerView], slow_queue: str) -> tuple[int, str]:
        """Return how many are needed by this look alone, and why more."""
        before, self._done = self._done, {worker.pid: worker.settled for worker in working}
        # others in their places are as good as they were: recycling must not hide a backlog
        if not seen.backlog or len(before) != len(self._done):
            self._full.clear()
        if not seen.backlog:
            return min(self.wanted, _busy(working)), ""
        did = sum(max(0, done - before.get(pid, 0)) for pid, done in self._done.items())
        self._full.append((seen.at_s, self._full[-1][1] + did if self._full else 0))
        while len(self._full) > 2 and self._full[0][0] < seen.at_s - self._window_s:
            self._full.popleft()
        if len(self._full) == 1:
            return self.wanted, ""  # these jobs may have come just now
        more, why = self._more(seen.backlog, working)
        if not why and slow_queue:
            # what is done is of other queues: how many would do shows when one more is there
            more, why = 1, f"jobs wait in {slow_queue} for {self._waited_s:.1f} s"
        return max(self.wanted, len(working) + math.ceil(more)) if why else self.wanted, why

    def _more(self, backlog: int, working: Sequence[WorkerView]) -> tuple[float, str]:
        """Return how many must come to these to work off the backlog in time, and why any."""
        (since_s, before), (at_s, done) = self._full[0], self._full[-1]
        rate = (done - before) / (at_s - since_s)
        if rate * self._target_wait_s >= backlog:
            return 0, ""
        # no use in more than can take a job each
        takers = backlog / max(1, *(worker.running for worker in working))
        if rate == 0:
            return takers, f"{backlog} jobs wait, and none was done in {at_s - since_s:.1f} s"
        said = f"{backlog} jobs wait, {rate:.1f} are done a second: {backlog / rate:.1f} s"
        return min(takers, len(working) * backlog / (rate * self._target_wait_s)), said


def _busy(working: Sequence[WorkerView]) -> int:
    """Return how many workers would have enough to do with what these do."""
    shares = [min(1.0, max(worker.cpu, worker.taken)) for worker in working]
    # float noise must not make 3 of 2.4 / 0.8
    return math.ceil(sum(shares) / _BUSY_SHARE - 1e-9)
