"""Who is ahead: of each column the best other queue, beside qcore."""

from statistics import median
from typing import NamedTuple

from benchmarks.harness.figures import (
    FACTS,
    column,
    is_more_better,
    markdown,
    number,
    ratios,
    rounds,
    spread,
)
from benchmarks.harness.records import Record
from benchmarks.harness.systems import BARE, SCRIPT
from benchmarks.harness.targets import LIMIT, OURS

#: They are measured beside, but are no queues.
NO_QUEUES = (BARE, SCRIPT, LIMIT)


class Standing(NamedTuple):
    """One column: qcore and the best other in it."""

    column: str
    ours: float
    best: str
    theirs: float
    #: How many times better qcore is, in each round that has both.
    better: list[float]

    @property
    def is_ahead(self) -> bool:
        return median(self.better) > 1


def standings(records: list[Record]) -> list[Standing]:
    """Return every column that qcore and another queue have: each case, and what CPU it took."""
    columns: dict[tuple[str, str, str], list[Record]] = {}
    for r in records:
        for fact in ("value", *FACTS):
            if fact in r and r["system"] not in NO_QUEUES:
                columns.setdefault((r["part"], fact, column(r, fact)), []).append(r)
    found = (_standing(*key, of_column) for key, of_column in columns.items())
    return [standing for standing in found if standing]


def report(records: list[Record]) -> str:
    """Return the table, and the columns in which qcore is not ahead; "" if nothing compares."""
    found = standings(records)
    if not found:
        return ""
    rows = [["column", "qcore", "best other", "its figure", "qcore is better by", "ahead"]]
    for one in found:
        verdict = "yes" if one.is_ahead else "**no**"
        cells = [number(one.ours), one.best, number(one.theirs), f"x{spread(one.better)}", verdict]
        rows.append([one.column, *cells])
    behind = [one for one in found if not one.is_ahead]
    said = f"qcore is not ahead in {len(behind)} of {len(found)} columns{':' if behind else '.'}"
    items = [f"- {one.column}: {one.best}, x{number(median(one.better))}" for one in behind]
    return "\n".join([markdown(rows, numbers=False), "", said, *[""] * bool(items), *items])


def _standing(part: str, fact: str, name: str, records: list[Record]) -> Standing | None:
    """Compare in one column; None if qcore or every other lacks it."""
    unit = records[0]["unit"]
    systems = dict.fromkeys(r["system"] for r in records)
    of_system = {system: rounds(records, fact, system=system) for system in systems}
    ours = of_system.pop(OURS, {})
    compared = {name: theirs for name, theirs in of_system.items() if ratios(ours, theirs)}
    if not compared:
        return None
    more = is_more_better(fact, unit)
    best = (max if more else min)(compared, key=lambda system: median(compared[system].values()))
    theirs = compared[best]
    return Standing(
        f"{part}: {name}, {FACTS.get(fact, unit)}",
        median(ours.values()),
        best,
        median(theirs.values()),
        ratios(ours, theirs) if more else ratios(theirs, ours),
    )
