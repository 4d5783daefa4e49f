"""What qcore wants to reach, as ratios within one run; checked against the lines of any run."""

from collections.abc import Sequence
from statistics import median
from typing import NamedTuple

from benchmarks.harness.records import Record
from benchmarks.harness.systems import BARE, PYTHON_PEERS

OURS, LIMIT = "qcore", "limit"


class Target(NamedTuple):
    """A bound for one case: for qcore's value, or for its ratio to the best of some systems."""

    text: str
    part: str
    case: str
    bound: float
    against: Sequence[str] = ()
    at_least: bool = True


ONE, TWO = "1 process", "2 processes"
TARGETS = [
    Target("drain / fastest Python peer", "drain", ONE, 10, PYTHON_PEERS),
    Target("drain / BullMQ on Node", "drain", ONE, 3, ("bullmq",)),
    Target("drain / limit", "drain", ONE, 0.6, (LIMIT,)),
    Target("gain of a 2nd process / that of the limit", "drain", "gain", 1, (LIMIT,)),
    Target("enqueue one by one / one EVALSHA", "enqueue", "one by one", 1 / 1.2, (BARE,)),
    Target("enqueue 100 at a time / Python peer", "enqueue", "100 at a time", 8, PYTHON_PEERS),
    Target("enqueue_many / Python peer", "enqueue", "bulk API", 8, PYTHON_PEERS),
    Target("50 ms jobs at 500, of ideal", "io", "50 ms at 500", 0.95),
    Target("50 ms jobs at 2,000, of ideal", "io", "50 ms at 2,000", 0.8),
    Target("pickup p50 / bare round trip", "pickup", "p50", 1.5, (BARE,), at_least=False),
    Target("pickup p99 / bare round trip", "pickup", "p99", 5, (BARE,), at_least=False),
]


def measured(records: list[Record], target: Target) -> list[float]:
    """Return the value of each round that has what the target needs."""
    rounds: dict[int, dict[str, float]] = {}
    for r in records:
        if (r["part"], r["case"]) == (target.part, target.case):
            rounds.setdefault(r["round"], {})[r["system"]] = r["value"]
    found: list[float] = []
    for _, values in sorted(rounds.items()):
        theirs = [values[name] for name in target.against if name in values]
        if OURS in values and (theirs or not target.against):
            best = max(theirs) if target.at_least else min(theirs)
            found.append(values[OURS] / best if theirs else values[OURS])
    return found


def is_met(target: Target, values: list[float]) -> bool:
    """Say whether the median of the rounds is within the bound."""
    value = median(values)
    return value >= target.bound if target.at_least else value <= target.bound
