"""The workloads, defined once. `harness/driver.mjs` has the first two in JavaScript.

Every job gets its number and notes it at its end; see `harness/journal.py`.
Imported by every system in its own environment: standard library only.
"""

import asyncio
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.harness import journal

SLEEP_S = 0.05
CPU_S = 0.001
#: Characters of argument that each job carries beside its number.
PAYLOADS = {"100 B": 100, "1 KB": 1024, "10 KB": 10 * 1024}
#: Of the mixed delays: one job in so many waits, up to so long.
DELAYED_EACH, LONGEST_DELAY_S = 4, 1.0

Job = Callable[..., Any]


def note(number: int, began: int = 0) -> None:
    """Count a job: its last act, with the monotonic ns at which it began, 0 for just now."""
    raise RuntimeError("this process has not passed the gate")


def start() -> None:
    """Open the journal of this worker process; the gate does it."""
    global note
    note = journal.writer(Path(os.environ["BENCH_FOLDER"]), int(os.environ["BENCH_MOST"]))


async def noop(n: int, data: str = "") -> None:
    """Do nothing."""
    note(n)


async def sleep(n: int, data: str = "") -> None:
    """Wait 50 ms, as for a reply of another service."""
    began = time.monotonic_ns()
    await asyncio.sleep(SLEEP_S)
    note(n, began)


async def cpu(n: int, data: str = "") -> None:
    """Compute for 1 ms."""
    began = time.monotonic_ns()
    while time.monotonic_ns() - began < CPU_S * 1e9:
        pass
    note(n, began)


def noop_in_thread(n: int, data: str = "") -> None:
    note(n)


def sleep_in_thread(n: int, data: str = "") -> None:
    began = time.monotonic_ns()
    time.sleep(SLEEP_S)
    note(n, began)


JOBS: dict[str, Job] = {"noop": noop, "sleep": sleep, "cpu": cpu}
THREAD_JOBS: dict[str, Job] = {"noop": noop_in_thread, "sleep": sleep_in_thread}


def delay_s(n: int) -> float:
    """Return the delay of job `n` in the workload of mixed delays."""
    return 0.0 if n % DELAYED_EACH else n * 7919 % 1000 / 1000 * LONGEST_DELAY_S


def chosen(jobs: Mapping[str, Job] = JOBS) -> Job:
    """Return the job of this measurement."""
    return jobs[os.environ["BENCH_WORKLOAD"]]
