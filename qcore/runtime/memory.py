"""Resident memory of processes of this machine."""

import os
import resource
import sys
from pathlib import Path

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def rss_bytes(*pids: int) -> int:
    """Return the resident memory of the processes together; one that is gone counts nothing.

    Where there is no /proc, the peak of this process alone, and nothing of others.
    """
    if not sys.platform.startswith("linux"):
        if os.getpid() not in pids:
            return 0
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    total = 0
    for pid in pids:
        try:
            total += int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE_BYTES
        except (OSError, IndexError):
            continue
    return total
