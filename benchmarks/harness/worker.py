"""The real `qcore worker` command, measured from outside."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from benchmarks.harness import processes
from benchmarks.harness.records import ROOT

T = TypeVar("T")


def environment(**extra: str) -> dict[str, str]:
    """Return an environment in which this checkout is imported, whatever is installed."""
    path = os.pathsep.join((str(ROOT), str(ROOT / "cli")))
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("QCORE_")}
    return inherited | {"PYTHONPATH": path, "PYTHONUNBUFFERED": "1"} | extra


class Running:
    """A started command with everything under it; `with` ends it."""

    def __init__(
        self, words: list[str], env: Mapping[str, str], log: Path, *, grace_s: float = 5.0
    ) -> None:
        self._log = log
        self._grace_s = grace_s
        with log.open("wb") as file:
            self.process = subprocess.Popen(
                words, stdin=subprocess.DEVNULL, stdout=file, stderr=file, env=env, cwd=ROOT
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        processes.end(self.process, self._grace_s)

    def pids(self) -> list[int]:
        return processes.tree(self.process.pid)

    def cpu_s(self) -> float:
        """Return the CPU seconds of all its processes so far."""
        return processes.cpu_s(*self.pids())

    def rss_bytes(self) -> int:
        return processes.rss_bytes(*self.pids())

    def ready(self, count: int) -> list[int]:
        """Wait until so many processes of `qcore worker` are ready; return their pids."""

        def enough() -> list[int]:
            found = re.findall(r"worker\.ready .*pid=(\d+)", self._log.read_text(encoding="utf-8"))
            return [int(pid) for pid in found] if len(found) >= count else []

        return self.until(enough, 30)

    def until(self, predicate: Callable[[], T], timeout_s: float) -> T:
        """Return the first true value of `predicate`, asked every few ms while the command runs.

        Raises:
            RuntimeError: it has ended, or the time is over.
        """
        last = time.monotonic() + timeout_s
        while not (value := predicate()):
            if self.process.poll() is not None or time.monotonic() > last:
                raise RuntimeError(f"waited {timeout_s:g} s in vain; the worker said {self.tail()}")
            time.sleep(0.005)
        return value

    def tail(self) -> str:
        """Return the end of what it printed."""
        return self._log.read_text(encoding="utf-8", errors="replace")[-2000:]


def qcore_worker(
    app: str,
    url: str,
    log: Path,
    *,
    processes: int = 1,
    concurrency: int = 100,
    env: Mapping[str, str] | None = None,
    more: Sequence[str] = (),
) -> Running:
    """Start `qcore worker APP` with its defaults and `more` words; `app` is MODULE:NAME."""
    words = [sys.executable, "-m", "qcore_cli", "worker", app, "--url", url]
    words += ["--processes", str(processes), "--concurrency", str(concurrency), *more]
    return Running(words, environment(**(env or {})), log)
