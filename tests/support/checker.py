"""The judge of a fault test: what producers were told, against what handlers wrote down."""

from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Run:
    """One start of a job, and when it ended; times are of the machine's monotonic clock."""

    n: int
    attempt: int
    pid: int
    started_at: float
    ended_at: float | None


@dataclass(slots=True)
class History:
    """What producers tried, by number: `ok`, `fail` (certainly not enqueued) or `unknown`."""

    outcomes: dict[int, str] = field(default_factory=dict[int, str])
    errors: list[Exception] = field(default_factory=list[Exception])
    _next: int = 0

    def number(self) -> int:
        """Return a number for a job that the test judges by itself."""
        self._next += 1
        return self._next - 1

    def invoke(self) -> int:
        """Write down that an enqueue begins, and return its number."""
        n = self._next
        self._next += 1
        self.outcomes[n] = "unknown"
        return n

    def having(self, outcome: str) -> set[int]:
        return {n for n, found in self.outcomes.items() if found == outcome}


@dataclass(frozen=True, slots=True)
class Findings:
    """What is wrong comes first: three sets that must be empty."""

    #: Acknowledged and never done.
    lost: set[int]
    #: Done and never asked for, or refused when it was asked for.
    unexpected: set[int]
    #: Run more often than 1 + the runs of it that a fault ended.
    unexplained: set[int]
    #: Done more than once: a fault came between the end of a run and its settlement.
    duplicated: set[int]
    #: The producer was told nothing, and it was done.
    recovered: set[int]
    done: int
    runs: int


def read_runs(journal: Path) -> dict[int, list[Run]]:
    """Return the runs of each number, in the order of their starts."""
    starts: dict[str, Run] = {}
    ends: dict[str, float] = {}
    lines = journal.read_text().splitlines() if journal.exists() else []
    for line in lines:
        n, run, attempt, pid, what, at = line.split()
        if what == "start":
            starts[run] = Run(int(n), int(attempt), int(pid), float(at), None)
        else:
            ends[run] = float(at)
    runs: defaultdict[int, list[Run]] = defaultdict(list)
    for run, found in starts.items():
        runs[found.n].append(
            Run(found.n, found.attempt, found.pid, found.started_at, ends.get(run))
        )
    return dict(runs)


def check(
    history: History, runs: dict[int, list[Run]], *, killed: Collection[int] = ()
) -> Findings:
    """Compare both sides.

    Args:
        history: What the producers saw.
        runs: What the handlers wrote.
        killed: The pids of workers that a fault ended: each of their runs may cause one more.
    """
    done = {n for n, found in runs.items() if any(run.ended_at is not None for run in found)}
    unknown = history.having("unknown")
    return Findings(
        lost=history.having("ok") - done,
        unexpected=set(runs) - history.having("ok") - unknown,
        unexplained={
            n for n, found in runs.items() if len(found) > 1 + sum(r.pid in killed for r in found)
        },
        duplicated={n for n, r in runs.items() if sum(x.ended_at is not None for x in r) > 1},
        recovered=unknown & done,
        done=len(done),
        runs=sum(map(len, runs.values())),
    )


def assert_sound(
    history: History, runs: dict[int, list[Run]], *, killed: Collection[int] = ()
) -> Findings:
    """Check, and fail unless nothing is lost, unexpected or run without a cause."""
    findings = check(history, runs, killed=killed)
    for what in ("lost", "unexpected", "unexplained"):
        numbers: set[int] = getattr(findings, what)
        shown = {n: runs.get(n) for n in sorted(numbers)[:5]}
        assert not numbers, f"{len(numbers)} {what}, the first: {shown}; {findings}"
    return findings
