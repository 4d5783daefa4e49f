"""How much of this machine's CPU was used, by worker processes and by all, where that is known."""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Self

import msgspec

_PROC = Path("/proc")
#: Where a container finds what became of its quota, in the second and in the first kind of groups.
_QUOTA = (Path("/sys/fs/cgroup/cpu.stat"), Path("/sys/fs/cgroup/cpu/cpu.stat"))
#: Fields of /proc/stat, after the word in front.
_IDLE, _IOWAIT, _GUEST = 3, 4, 8


class Shares(msgspec.Struct, frozen=True, kw_only=True):
    """Parts of 1, of the time between two moments; None is unknown."""

    #: Of a core, by the main thread of each process.
    process: float | None
    #: Of all cores of the machine, by whatever runs there.
    machine: float | None
    #: Of the periods of the container's quota, those in which it was used up.
    throttled: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What was used up to one moment; empty or None where the system does not say."""

    at: float
    ran_s: dict[int, float]
    machine: tuple[int, int] | None
    quota: tuple[int, int] | None

    @classmethod
    def now(
        cls, pids: Iterable[int], *, proc: Path = _PROC, quota: Sequence[Path] = _QUOTA
    ) -> Self:
        """Return that of some processes, of the machine and of the container around us."""
        return cls(
            at=time.monotonic(),
            ran_s=_ran_s(proc, pids),
            machine=_machine(proc),
            quota=next((found for path in quota if (found := _quota(path))), None),
        )

    def since(self, before: Self) -> Shares:
        """Return the shares of the time from `before` until this moment."""
        seconds, pids = self.at - before.at, self.ran_s.keys() & before.ran_s.keys()
        ran_s = [self.ran_s[pid] - before.ran_s[pid] for pid in pids]
        return Shares(
            process=round(fmean(ran_s) / seconds, 3) if ran_s else None,
            machine=_part(before.machine, self.machine),
            throttled=_part(before.quota, self.quota),
        )


def _ran_s(proc: Path, pids: Iterable[int]) -> dict[int, float]:
    """Return how long the main threads ran: in a worker that is where its loop is."""
    found: dict[int, float] = {}
    for pid in pids:
        try:
            found[pid] = int((proc / str(pid) / "schedstat").read_text().split()[0]) / 1e9
        except (OSError, ValueError, IndexError):
            continue
    return found


def _machine(proc: Path) -> tuple[int, int] | None:
    """Return ticks of all cores: busy ones, and all."""
    try:
        ticks = [int(word) for word in (proc / "stat").read_text().split("\n", 1)[0].split()[1:]]
        ticks = ticks[:_GUEST]  # guests count as users already
        return sum(ticks) - ticks[_IDLE] - ticks[_IOWAIT], sum(ticks)
    except (OSError, ValueError, IndexError):
        return None


def _quota(path: Path) -> tuple[int, int] | None:
    """Return the periods in which the quota was used up, and all; None without a quota."""
    try:
        lines = (line.split() for line in path.read_text().splitlines())
        fields = {name: int(value) for name, value in lines}
    except (OSError, ValueError):
        return None
    periods = fields.get("nr_periods", 0)
    return (fields.get("nr_throttled", 0), periods) if periods else None


def _part(before: tuple[int, int] | None, after: tuple[int, int] | None) -> float | None:
    if before is None or after is None or after[1] <= before[1]:
        return None
    return round((after[0] - before[0]) / (after[1] - before[1]), 3)
