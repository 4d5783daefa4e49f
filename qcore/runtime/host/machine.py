"""This machine and its processes, as the kernel tells of them."""

import os
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path


@cache
def machine() -> str:
    """Return a name for the space of this process's pid; empty where there is none.

    Another one after a boot, and in another container.
    """
    if sys.platform != "linux":
        return ""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""


def stat_of(pid: int) -> list[bytes]:
    """Return what /proc tells of a process: its state, its parent, its group, and more, else []."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return []
    return stat.rpartition(b")")[2].split()


def is_there(pid: int) -> bool:
    """Say whether a process lives, or may: a pid is given again some day.

    One that is dead is there until its parent looks, and the first process of a container may not.
    """
    return _can_be_signalled(os.kill, pid) and stat_of(pid)[:1] != [b"Z"]


def is_working(pid: int) -> bool:
    """Say whether a worker lives, or anything in its group: its pool runs jobs, too."""
    if is_there(pid):
        return True
    if not _can_be_signalled(os.killpg, pid):
        return False
    stats = [stat_of(int(entry.name)) for entry in Path("/proc").glob("[0-9]*")]
    states = [stat[0] for stat in stats if stat[2:3] == [str(pid).encode()]]
    # of what this user may not see nobody knows that it is dead
    return not states or states.count(b"Z") < len(states)


def _can_be_signalled(send: Callable[[int, int], None], pid: int) -> bool:
    try:
        send(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True  # it is another user's
    return True
