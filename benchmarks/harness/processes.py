"""What a process and everything under it has used, from /proc; and its end."""

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")
#: The lowest bits of the id of a process' CPU clock, as clock_getcpuclockid(3) makes it.
CPU_CLOCK = 2


def tree(pid: int) -> list[int]:
    """Return `pid` and the pids of all its living descendants."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                children.setdefault(int(_fields(int(entry.name))[1]), []).append(int(entry.name))
    found = [pid]
    for parent in found:  # it grows while it is read: breadth first
        found += children.get(parent, [])
    return found


def cpu_s(*pids: int) -> float:
    """Return the CPU seconds of these processes so far, with those of their ended children.

    To the nanosecond by the clock that Linux keeps for each process; ended children in ticks.
    """
    total = 0.0
    for pid in pids:
        with suppress(OSError):
            total += sum(int(ticks) for ticks in _fields(pid)[13:15]) / TICKS
            total += time.clock_gettime(~pid << 3 | CPU_CLOCK)
    return total


def rss_bytes(*pids: int) -> int:
    """Return the resident memory of these processes."""
    total = 0
    for pid in pids:
        with suppress(OSError):
            pages = Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1]
            total += int(pages) * os.sysconf("SC_PAGE_SIZE")
    return total


def _fields(pid: int) -> list[str]:
    """Return the fields of /proc/PID/stat from the state on; a name may hold brackets."""
    return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()


@contextmanager
def pinned(cores: int | None) -> Iterator[None]:
    """Keep this thread, and every process that it starts meanwhile, on so many cores; None: on all.

    Raises:
        RuntimeError: there are not so many.
    """
    before = os.sched_getaffinity(0)
    if cores is not None and len(before) < cores:
        raise RuntimeError(f"{cores} cores are wanted, but this machine has {len(before)}")
    os.sched_setaffinity(0, sorted(before)[:cores])
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def end(process: subprocess.Popen[bytes], grace_s: float = 5.0) -> None:
    """Ask a process to leave; after `grace_s` seconds it and all that is under it are killed."""
    pids = tree(process.pid)
    if grace_s and process.poll() is None:
        process.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(grace_s)
    for pid in pids:  # parents first: they could start new ones
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.wait()
