"""What `qcore demo` shows: a live view on a terminal, lines elsewhere, and the table at the end."""

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskProgressColumn, TextColumn
from rich.table import Table

from qcore.model.fleet import WorkerView

#: Speed is that of the last so many seconds.
_WINDOW_S = 10.0
_LINE_EVERY_S = 5.0
_MIB = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """The state of a run at one moment."""

    total: int
    done: int
    dead: int
    ready: int
    active: int
    wait_p50_ms: int
    workers: Sequence[WorkerView]


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a run came to; these names are the keys of `--json`."""

    students: int
    ok: int
    dead: int
    missing: int
    corrupt: int
    duplicates: int
    seconds: float
    per_minute: float
    wait_p50_ms: int
    wait_p99_ms: int
    rss_max_mb: float


class View(Protocol):
    """Shows a run while it goes on."""

    def __enter__(self) -> "View": ...
    def __exit__(self, *error: object) -> None: ...

    def show(self, snapshot: Snapshot) -> None:
        """Show a new state."""
        ...


class Speed:
    """Documents a minute, over a sliding window."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque()

    def per_minute(self, done: int) -> float:
        """Return the speed now that so many are done."""
        now = time.monotonic()
        self._seen.append((now, done))
        while now - self._seen[0][0] > _WINDOW_S:
            self._seen.popleft()
        began, before = self._seen[0]
        return (done - before) / (now - began) * 60 if now > began else 0.0


class Lines:
    """One line every few seconds: for logs and pipes."""

    def __init__(self) -> None:
        self._speed = Speed()
        self._next = time.monotonic() + _LINE_EVERY_S

    def __enter__(self) -> "Lines":
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def show(self, snapshot: Snapshot) -> None:
        """Print a line when it is time."""
        speed = self._speed.per_minute(snapshot.done)
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + _LINE_EVERY_S
        memory = ", ".join(mib(worker.rss_bytes) for worker in snapshot.workers)
        say(
            f"{snapshot.done:,} of {snapshot.total:,}  {speed:,.0f} a minute  "
            f"{snapshot.dead} failed  wait p50 {seconds(snapshot.wait_p50_ms)}  "
            f"{snapshot.ready:,} ready, {snapshot.active} active  workers {memory or 'starting'}"
        )


class Screen:
    """A bar and a table that are drawn anew in place."""

    def __init__(self, console: Console) -> None:
        self._speed = Speed()
        self._bar = Progress(
            TextColumn("audits"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TaskProgressColumn(),
            console=console,
        )
        self._task = self._bar.add_task("audits", total=None)
        self._live = Live(self._bar, console=console, refresh_per_second=4, transient=True)

    def __enter__(self) -> "Screen":
        self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._live.stop()

    def show(self, snapshot: Snapshot) -> None:
        """Draw the new state."""
        self._bar.update(self._task, total=snapshot.total, completed=snapshot.done + snapshot.dead)
        facts = Table.grid(padding=(0, 3))
        facts.add_row("a minute", "failed", "wait p50", "ready", "active", style="dim")
        facts.add_row(
            f"{self._speed.per_minute(snapshot.done):,.0f}",
            f"{snapshot.dead:,}",
            seconds(snapshot.wait_p50_ms),
            f"{snapshot.ready:,}",
            f"{snapshot.active:,}",
        )
        workers = Table.grid(padding=(0, 3))
        workers.add_row("worker", "pid", "state", "done", "memory", "loop lag", style="dim")
        for worker in snapshot.workers:
            workers.add_row(
                worker.name,
                str(worker.pid),
                worker.state.value,
                f"{worker.done:,}",
                mib(worker.rss_bytes),
                f"{worker.loop_lag_ms:.0f} ms",
            )
        self._live.update(Group(self._bar, facts, workers))


def choose_view() -> View:
    """Return a screen on a terminal, else lines."""
    console = Console()
    return Screen(console) if console.is_terminal else Lines()


def print_report(report: Report, workers: int) -> None:
    """Print the result beside the reference: the numbers of the system that this one replaces."""
    subjects = report.ok + report.dead + report.missing + report.corrupt
    failed = 100 * (report.dead + report.missing + report.corrupt) / max(1, subjects)
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
    table.add_column("")
    table.add_column("this run", justify="right")
    table.add_column("reference", justify="right")
    table.add_row("PDFs a minute", f"{report.per_minute:,.0f}", "400")
    table.add_row("failed", f"{failed:.2f} %", "0.00 %")
    table.add_row("memory of a worker, most", f"{report.rss_max_mb:.0f} MB", "64 MB")
    table.add_row("worker processes", str(workers), "8")
    table.add_row("from first enqueue to last document", f"{report.seconds:,.1f} s", "30 min")
    table.add_row("wait in the queue, p50", seconds(report.wait_p50_ms), "")
    table.add_row("wait in the queue, p99", seconds(report.wait_p99_ms), "")
    Console().print(table)


def print_sum(report: Report) -> None:
    """Print in one line what the folder holds now."""
    say(
        f"{report.ok:,} documents of {report.students:,} students: {report.dead} dead, "
        f"{report.missing} missing, {report.corrupt} corrupt, {report.duplicates} made twice"
    )


def say(text: str) -> None:
    """Print a line at once."""
    print(text, flush=True)


def seconds(ms: int) -> str:
    """Return a duration for people."""
    return f"{ms} ms" if ms < 1000 else f"{ms / 1000:.1f} s"


def mib(count: int) -> str:
    """Return an amount of memory as the system that the demo is compared with counts it."""
    return f"{count / _MIB:.0f} MB"
