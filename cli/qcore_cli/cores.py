"""How many cores this process may use: those it may run on, and what its control group grants."""

import math
import os
from collections.abc import Iterator
from pathlib import Path

from qcore.runtime.host.cgroup import folders, read


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
    for folder in folders("cpu", root):
        files = (folder / f"cpu.cfs_{of}_us" for of in ("quota", "period"))  # of version 1
        said = read(folder / "cpu.max") or " ".join(map(read, files))
        match said.split():
            # "max" and -1 stand for no limit
            case [quota, period] if quota.isdigit() and period.isdigit() and int(period):
                yield int(quota) / int(period)
            case _:
                pass
