"""How many cores this process may use: those it may run on, and what its control group grants."""

import math
import os
from collections.abc import Iterator
from pathlib import Path


def usable_cores(root: Path = Path("/")) -> int:
    """Return the cores of this process: 1 at least, and a part of one counts as one.

    A container, or a systemd unit with `CPUQuota=`, may run on every core of its machine, but only
    for a share of the time.

    Args:
        root: Where `proc` and `sys` are.
    """
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    return min([cores, *(math.ceil(quota) for quota in cpu_quotas(root))])


def cpu_quotas(root: Path) -> Iterator[float]:
    """Yield the limits, in cores, of the control group of this process and those above it."""
    groups = root / "sys" / "fs" / "cgroup"
    for line in _read(root / "proc" / "self" / "cgroup").splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:
            for folder in _upwards(groups, path):
                yield from _quota(_read(folder / "cpu.max"))
        elif "cpu" in controllers.split(","):
            for folder in _upwards(groups / "cpu", path):
                files = (folder / f"cpu.cfs_{of}_us" for of in ("quota", "period"))
                yield from _quota(" ".join(map(_read, files)))


def _upwards(top: Path, path: str) -> Iterator[Path]:
    """Yield a group and all above it; in a container the path may be one of its host."""
    group = top / path.strip("/")
    yield from (group, *group.parents)  # above the top there are no such files


def _quota(said: str) -> Iterator[float]:
    """Yield what `QUOTA PERIOD` comes to; "max" and -1 stand for no limit."""
    match said.split():
        case [quota, period] if quota.isdigit() and period.isdigit() and int(period):
            yield int(quota) / int(period)
        case _:
            pass


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
