"""The tables: medians with their range, and ratios within a round."""

from collections.abc import Iterable
from statistics import median

from benchmarks.harness.records import Record, cases_of

OURS = "qcore"
START = "<!-- table: benchmarks/run.py --compare writes from here -->"
END = "<!-- table: to here -->"


def values(records: Iterable[Record], part: str, case: str, system: str) -> dict[int, float]:
    """Return round -> value."""
    return {
        r["round"]: r["value"]
        for r in records
        if (r["part"], r["case"], r["system"]) == (part, case, system)
    }


def tables(records: list[Record]) -> str:
    """Return a table in Markdown for each part."""
    parts = dict.fromkeys(r["part"] for r in records)
    return "\n\n".join(f"### {part}\n\n{_of_part(records, part)}" for part in parts)


def _of_part(records: list[Record], part: str) -> str:
    cases = cases_of(records, part)
    systems = dict.fromkeys(r["system"] for r in records if r["part"] == part)
    if list(systems) == [OURS]:
        return _of_qcore(records, part)
    units = {r["case"]: r["unit"] for r in records if r["part"] == part}
    rows = [["system", *(f"{case}, {units[case]}" for case in cases)]]
    rows.append(["---", *("--:" for _ in cases)])
    rows += [[s, *(_cell(records, part, case, s) for case in cases)] for s in systems]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _of_qcore(records: list[Record], part: str) -> str:
    """Return a row for each case; its ratio is to the case that its record names as its base."""
    rows = [["case", "unit", "median (least-most)", "ratio"], ["---", "---", "--:", "--:"]]
    for case in cases_of(records, part):
        found = values(records, part, case, OURS)
        record = next(r for r in records if (r["part"], r["case"]) == (part, case))
        ratio = ""
        if "base" in record:
            of_base = ratios(found, values(records, part, record["base"], OURS))
            ratio = f"x{number(median(of_base))} of {record['base']}"
        rows.append([case, record["unit"], _cell(records, part, case, OURS), ratio])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _cell(records: list[Record], part: str, case: str, system: str) -> str:
    found = values(records, part, case, system)
    if not found:
        return ""
    cell = f"{number(median(found.values()))} ({number(min(found.values()))}-"
    cell += f"{number(max(found.values()))})"
    if system == OURS:
        return cell
    ratio = ratios(values(records, part, case, OURS), found)
    return f"{cell}, x{number(median(ratio))}" if ratio else cell


def ratios(ours: dict[int, float], theirs: dict[int, float]) -> list[float]:
    """Return ours / theirs for each round that has both."""
    return [ours[i] / theirs[i] for i in sorted(ours.keys() & theirs.keys()) if theirs[i]]


def number(value: float) -> str:
    """Return three figures that count, with separators."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
