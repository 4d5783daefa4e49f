"""What a process and everything under it has used, from /proc; and its end."""

import os
import signal
import subprocess
from contextlib import suppress
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")


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
    """Return the CPU seconds of these processes so far, with those of their ended children."""
    total = 0
    for pid in pids:
        with suppress(OSError):
            total += sum(int(ticks) for ticks in _fields(pid)[11:15])
    return total / TICKS


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
