"""What qcore wants to reach, as ratios within one run; checked against the lines of any run."""

from collections.abc import Sequence
from statistics import median
from typing import NamedTuple

from benchmarks.harness.records import Record
from benchmarks.harness.systems import BARE, PYTHON_PEERS, SCRIPT

OURS, LIMIT = "qcore", "limit"


class Target(NamedTuple):
    """A bound for one case: for qcore's value, or for its ratio to the best of others.

    Others are systems in the same case, or other cases of qcore's own.
    """

    text: str
    part: str
    case: str
    bound: float
    against: Sequence[str] = ()
    at_least: bool = True


ONE, TWO = "1 process", "2 processes"
#: Not "debug log", which is a line for each job, nor "at most once", which is a write before each
#: run: they are measured, but no target bounds them.
FEATURES = ("result kept", "retry policy", "timeout", "context injected", "expires", "exclusive")
TARGETS = [
    Target("drain / fastest Python peer", "drain", ONE, 10, PYTHON_PEERS),
    Target("drain / BullMQ on Node", "drain", ONE, 3, ("bullmq",)),
    Target("drain / limit", "drain", ONE, 0.6, (LIMIT,)),
    Target("gain of a 2nd process / that of the limit", "drain", "gain", 1, (LIMIT,)),
    Target("enqueue one by one / one EVALSHA", "enqueue", "one by one, 2c", 1 / 1.2, (SCRIPT,)),
    Target("enqueue 100 at a time / Python peer", "enqueue", "100 at a time", 8, PYTHON_PEERS),
    Target("enqueue_many / Python peer", "enqueue", "bulk API", 8, PYTHON_PEERS),
    Target("50 ms jobs at 500, of ideal", "io", "50 ms at 500", 0.95),
    Target("50 ms jobs at 2,000, of ideal", "io", "50 ms at 2,000", 0.8),
    Target("pickup p50 / bare round trip", "pickup", "p50, 2c", 1.5, (BARE,), at_least=False),
    Target("pickup p99 / bare round trip", "pickup", "p99, 2c", 5, (BARE,), at_least=False),
    *(
        Target(f"{what}, {deep} / 1,000", "depth", f"{what}, {deep}", 1 / 1.3, (f"{what}, 1,000",))
        for what in ("run and refill", "enqueue one by one")
        for deep in ("1,000,000", "1,000,000 scheduled")
    ),
    Target(
        "drain, 1 ms away / near", "delay", "drain, 1 ms away", 0.7, ("drain, through a proxy",)
    ),
    Target("client commands a job", "commands", "drain: commands", 0.1, at_least=False),
    Target("round trips a job", "commands", "drain: round trips", 0.05, at_least=False),
    *(Target(f"drain, {one} / without", "tax", one, 0.5, ("no feature",)) for one in FEATURES),
    Target("drain, unique key / without", "tax", "unique key", 0.7, ("no feature",)),
    # its outcome is kept
    Target("drain, idempotency key / result kept", "tax", "idempotency key", 0.7, ("result kept",)),
    *(
        Target(
            f"enqueue {case}, a key each / without", "unique", f"{case}, a key each", 0.7, (case,)
        )
        for case in ("one by one", "100 at a time")
    ),
    Target("idle: commands a second", "idle", "commands", 2, at_least=False),
    Target("idle: CPU, %", "idle", "CPU of the worker", 0.5, at_least=False),
    Target("idle: memory, MB", "idle", "memory of the worker", 45, at_least=False),
    Target("memory: all jobs / 20 %", "memory", "all jobs", 1.1, ("20 % of jobs",), at_least=False),
    Target("kill -9, a new process: p99, ms", "recovery", "replaced: p99", 1000, at_least=False),
    Target("kill -9, a sibling: p99, ms", "recovery", "sibling: p99", 1000, at_least=False),
    Target("kill -9, another host: s", "recovery", "another host: most", 35, at_least=False),
]


def measured(records: list[Record], target: Target) -> list[float]:
    """Return the value of each round that has what the target needs."""
    rounds: dict[int, dict[str, float]] = {}
    for r in records:
        if r["part"] != target.part:
            continue
        if r["case"] == target.case:
            rounds.setdefault(r["round"], {})[r["system"]] = r["value"]
        elif r["system"] == OURS:
            rounds.setdefault(r["round"], {})[r["case"]] = r["value"]
    found: list[float] = []
    for _, values in sorted(rounds.items()):
        theirs = [values[name] for name in target.against if name in values]
        if OURS not in values or (target.against and not theirs):
            continue
        best = (max(theirs) if target.at_least else min(theirs)) if theirs else 1
        found.append(values[OURS] / best)
    return found


def is_met(target: Target, values: list[float]) -> bool:
    """Say whether the median of the rounds is within the bound."""
    value = median(values)
    return value >= target.bound if target.at_least else value <= target.bound
