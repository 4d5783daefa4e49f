"""Sums of what the workers of one supervisor report in their beats: runs, ends, lag."""

from collections import Counter, deque
from dataclasses import dataclass, field

from qcore.runtime.ipc.run_counts import RunCounts

#: A lag is shown for so long: scrapes are further apart than beats.
_LAG_SHOWN_S = 60.0


@dataclass(slots=True)
class Totals:
    """What the workers of one supervisor came to since it started."""

    runs: RunCounts = field(default_factory=RunCounts)
    started: int = 0
    #: How they ended: left, killed by the supervisor, or crashed.
    ends: Counter[str] = field(default_factory=Counter[str])
    #: When a beat told of how much lag, in seconds.
    _lags: deque[tuple[float, float]] = field(default_factory=deque[tuple[float, float]])

    def note_lag(self, now: float, lag_s: float) -> None:
        """Remember for a minute how late the event loop of a worker was."""
        self._lags.append((now, lag_s))
        while self._lags[0][0] < now - _LAG_SHOWN_S:
            self._lags.popleft()

    @property
    def lag_s(self) -> float:
        """The longest lag that any worker told of in the last minute."""
        return max((lag_s for _, lag_s in self._lags), default=0.0)
