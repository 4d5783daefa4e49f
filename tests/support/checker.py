"""The judge of a fault test: what producers were told, against what handlers wrote down."""

from collections import defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

#: From the end of a run until Redis knows it, on a loaded machine.
SETTLE_S = 2.0


@dataclass(frozen=True, slots=True)
class Run:
    """One start of a job, and when it ended; times are of the machine's monotonic clock."""

    n: int
    attempt: int
    pid: int
    started_at: float
    ended_at: float | None


@dataclass(frozen=True, slots=True)
class Fault:
    """What was done to a fleet, and when; times as in Run."""

    kind: str
    began_at: float
    #: The last moment at which a run could begin, or go on, under a lease that it cost.
    over_at: float
    #: When the workers had certainly found back to Redis, and settled what ended meanwhile.
    back_at: float
    #: The workers whose leases it may have cost; none of them when Redis itself was away, for
    #: then nobody takes a lease from another.
    pids: frozenset[int] = frozenset()


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
    #: Runs that a fault may have ended, or kept from being settled.
    orphaned: int
    done: int
    runs: int


class Journal:
    """The file in which handlers write, read as it grows."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._read_bytes = 0
        self._runs: dict[str, Run] = {}
        self._done: set[int] = set()
        #: The numbers of the jobs that hold their loop.
        self.blocking: set[int] = set()

    def _take(self) -> None:
        if not self.path.exists():
            return
        with self.path.open("rb") as file:
            file.seek(self._read_bytes)
            lines = file.read()
        whole = lines[: lines.rfind(b"\n") + 1]
        self._read_bytes += len(whole)
        for line in whole.decode().splitlines():
            n, run, attempt, pid, what, at = line.split()
            if what == "start":
                self._runs[run] = Run(int(n), int(attempt), int(pid), float(at), None)
            elif what == "blocks":
                self.blocking.add(int(n))
            else:
                self._runs[run] = replace(self._runs[run], ended_at=float(at))
                self._done.add(int(n))

    def runs(self) -> dict[int, list[Run]]:
        """Return the runs of each number, in the order of their starts."""
        self._take()
        runs: defaultdict[int, list[Run]] = defaultdict(list)
        for found in self._runs.values():
            runs[found.n].append(found)
        return dict(runs)

    def done(self) -> set[int]:
        """Return the numbers of the jobs of which a run has ended."""
        self._take()
        return set(self._done)

    def done_count(self) -> int:
        """Return how many jobs have a run that has ended."""
        self._take()
        return len(self._done)


class Orphaned:
    """Says whether a fault came upon a run before Redis knew of its end."""

    def __init__(self, faults: Iterable[Fault]) -> None:
        self._of_all: list[Fault] = []
        self._of: defaultdict[int, list[Fault]] = defaultdict(list)
        for fault in faults:
            for pid in fault.pids:
                self._of[pid].append(fault)
            if not fault.pids:
                self._of_all.append(fault)

    def __contains__(self, run: Run) -> bool:
        own = self._of.get(run.pid, [])
        upon = [f.began_at for f in own if run.started_at <= f.over_at]
        if run.ended_at is None or not upon:
            return bool(upon)
        until = run.ended_at + SETTLE_S
        if min(upon) > until:  # it was settled when its worker had found back
            back = [f.back_at for f in (*self._of_all, *own) if f.began_at <= until]
            until = max(until, *back) if back else until
        return min(upon) <= until


def check(
    history: History,
    runs: dict[int, list[Run]],
    *,
    killed: Collection[int] = (),
    faults: Iterable[Fault] = (),
) -> Findings:
    """Compare both sides.

    Args:
        history: What the producers saw.
        runs: What the handlers wrote.
        killed: The pids of workers that a fault ended: each of their runs may cause one more.
        faults: What else was done: each run that one came upon may cause one more.
    """
    by_faults = Orphaned(faults)
    done = {n for n, found in runs.items() if any(run.ended_at is not None for run in found)}
    unknown = history.having("unknown")
    orphaned = {
        n: sum(r.pid in killed or r in by_faults for r in found) for n, found in runs.items()
    }
    return Findings(
        lost=history.having("ok") - done,
        unexpected=set(runs) - history.having("ok") - unknown,
        unexplained={n for n, found in runs.items() if len(found) > 1 + orphaned[n]},
        duplicated={n for n, r in runs.items() if sum(x.ended_at is not None for x in r) > 1},
        recovered=unknown & done,
        orphaned=sum(orphaned.values()),
        done=len(done),
        runs=sum(map(len, runs.values())),
    )


def assert_sound(
    history: History,
    runs: dict[int, list[Run]],
    *,
    killed: Collection[int] = (),
    faults: Iterable[Fault] = (),
) -> Findings:
    """Check, and fail unless nothing is lost, unexpected or run without a cause."""
    findings = check(history, runs, killed=killed, faults=faults)
    for what in ("lost", "unexpected", "unexplained"):
        numbers: set[int] = getattr(findings, what)
        shown = {n: runs.get(n) for n in sorted(numbers)[:5]}
        assert not numbers, f"{len(numbers)} {what}, the first: {shown}; {brief(findings)}"
    return findings


def brief(findings: Findings) -> dict[str, int]:
    """Return how many of each."""
    values = {name: getattr(findings, name) for name in Findings.__slots__}
    return {name: v if isinstance(v, int) else len(v) for name, v in values.items()}
