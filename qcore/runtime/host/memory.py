"""Memory of processes of this machine, and whom the kernel has killed for the lack of it."""

import os
import resource
import sys
from pathlib import Path

from qcore.runtime.host.cgroup import folders, read

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_RSS_UNIT = 1 if sys.platform == "darwin" else 1024
#: What is said of a SIGKILL that came with one more out-of-memory kill.
BY_THE_KERNEL = "likely by the kernel: this group of processes ran out of memory"


def rss_bytes(*pids: int) -> int:
    """Return the resident memory of the processes together; one that is gone counts nothing.

    Where there is no /proc, the peak of this process alone, and nothing of others.
    """
    if not sys.platform.startswith("linux"):
        if os.getpid() not in pids:
            return 0
        return peak_bytes(resource.getrusage(resource.RUSAGE_SELF))
    total = 0
    for pid in pids:
        try:
            total += int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE_BYTES
        except (OSError, IndexError):
            continue
    return total


def peak_bytes(usage: resource.struct_rusage) -> int:
    """Return the most resident memory that it tells of."""
    return usage.ru_maxrss * _RSS_UNIT


def children_peak_bytes() -> int:
    """Return what the largest child of this process, that has ended, took at its peak."""
    return peak_bytes(resource.getrusage(resource.RUSAGE_CHILDREN))


def oom_kills(root: Path = Path("/")) -> int:
    """Return how many processes of this one's cgroup the kernel has killed for lack of memory.

    0 where it does not tell, as outside Linux.

    Args:
        root: Where `proc` and `sys` are.
    """
    for folder in folders("memory", root):
        # of version 2, and of version 1
        words = f"{read(folder / 'memory.events')} {read(folder / 'memory.oom_control')}".split()
        if "oom_kill" in words:
            return int(words[words.index("oom_kill") + 1])
    return 0
