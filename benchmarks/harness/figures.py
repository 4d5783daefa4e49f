"""Figures of lines: their rounds, ratios within a round, and how they look in a table."""

from collections.abc import Collection
from statistics import median

from benchmarks.harness.records import Record

#: Of values in other units less is better.
MORE_IS_BETTER = ("jobs/s", "of ideal", "times")
#: Facts of a measurement that get a table of their own; less is better.
FACTS = {
    "producer_us": "CPU of the producer, µs a job",
    "worker_us": "CPU of the worker processes, µs a job",
    "process_us": "CPU of the process, µs a job",
    "redis_us": "CPU of Redis, µs a job",
}


def number(value: float) -> str:
    """Return three figures that count, with separators."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def spread(values: Collection[float]) -> str:
    """Return median, least and most."""
    return f"{number(median(values))} ({number(min(values))}-{number(max(values))})"


def rounds(records: list[Record], fact: str, **which: str) -> dict[int, float]:
    """Return round -> value of the lines that have the fact, and every key of `which` as given."""
    return {
        r["round"]: r[fact]
        for r in records
        if fact in r and all(r[k] == v for k, v in which.items())
    }


def ratios(ours: dict[int, float], theirs: dict[int, float]) -> list[float]:
    """Return ours / theirs for each round that has both."""
    return [ours[i] / theirs[i] for i in sorted(ours.keys() & theirs.keys()) if theirs[i]]


def column(record: Record, fact: str) -> str:
    """Return the name of the column: a run that has several cases has one for its CPU."""
    return record["case"] if fact == "value" else record.get("run", record["case"])


def is_more_better(fact: str, unit: str) -> bool:
    """Say which way a column is read."""
    return fact == "value" and unit in MORE_IS_BETTER


def markdown(rows: list[list[str]], *, numbers: bool) -> str:
    """Return a table; its first row is the head."""
    rule = ["---", *(["--:" if numbers else "---"] * (len(rows[0]) - 1))]
    return "\n".join(f"| {' | '.join(row)} |" for row in (rows[0], rule, *rows[1:]))
