"""The tables, from the lines alone: medians with their range, and ratios within a round."""

from pathlib import Path
from statistics import median

from benchmarks.harness import ahead
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
from benchmarks.harness.targets import OURS, TARGETS, is_met, measured

START, END = "<!-- tables: written by benchmarks/run.py --plots -->", "<!-- end of tables -->"
AHEAD = "Of the queues, whatever they guarantee; `bare`, `script` and `limit` are none."


def report(records: list[Record]) -> str:
    """Return all tables in Markdown: the systems, the targets, who is ahead, then each part."""
    if not records:
        return "no runs that count\n"
    pieces = [_host(records), _systems(records), "### Targets", _targets(records)]
    if standing := ahead.report(records):
        pieces += ["### Who is ahead", AHEAD, standing]
    for part in dict.fromkeys(r["part"] for r in records):
        of_part = [r for r in records if r["part"] == part]
        if {r["system"] for r in of_part} == {OURS}:
            pieces += [f"### {part}", _part_of_qcore(of_part)]
            continue
        pieces += [f"### {part}", _part(of_part)]
        for fact, title in FACTS.items():
            with_fact = [r for r in of_part if fact in r]
            if with_fact:
                pieces += [f"{title}:", _part(with_fact, fact)]
    return "\n\n".join(piece for piece in pieces if piece) + "\n"


def write_into(page: Path, text: str) -> None:
    """Replace what stands between the marks of a page."""
    before, start, rest = page.read_text(encoding="utf-8").partition(START)
    _, end, after = rest.partition(END)
    if not (start and end):
        raise ValueError(f"{page} lacks the marks {START} and {END}")
    page.write_text(f"{before}{START}\n\n{text}\n{END}{after}", encoding="utf-8")


def _host(records: list[Record]) -> str:
    host = records[-1]["host"]
    runs = len({r["round"] for r in records})
    return (
        f"{host['date']}, commit {host['commit']}: {host['cpu']}, {host['cores']} cores, "
        f"Linux {host['kernel']}, Python {host['python']}, {host['redis']} "
        f"({records[-1]['persistence']}). {runs} runs: median (least-most)."
    )


def _systems(records: list[Record]) -> str:
    said = {r["system"]: r for r in records if "guarantee" in r}
    rows = [["system", "versions", "guarantee", "settings"]]
    for name, r in said.items():
        versions = ", ".join(f"{key} {value}" for key, value in r["versions"].items())
        rows.append([name, versions, r["guarantee"], r["settings"]])
    return markdown(rows, numbers=False)


def _targets(records: list[Record]) -> str:
    rows = [["qcore's", "target", "measured", "met"]]
    parts = {r["part"] for r in records}
    for target in TARGETS:
        bound = f"{'at least' if target.at_least else 'at most'} {number(target.bound)}"
        values = measured(records, target)
        if values:
            met = "yes" if is_met(target, values) else "**no**"
            rows.append([target.text, bound, spread(values), met])
        elif target.part in parts:
            rows.append([target.text, bound, "", "not measured"])
    return markdown(rows, numbers=False)


def _part(records: list[Record], fact: str = "value") -> str:
    """Return the table of a part: a row for each system, a column for each case."""
    units = {column(r, fact): "" if fact in FACTS else f", {r['unit']}" for r in records}
    rows = [["system", *(name + unit for name, unit in units.items())]]
    for system in dict.fromkeys(r["system"] for r in records):
        of_column = ([r for r in records if column(r, fact) == name] for name in units)
        rows.append([system, *(_cell(found, system, fact) for found in of_column)])
    return markdown(rows, numbers=True)


def _cell(records: list[Record], system: str, fact: str) -> str:
    """Return median and range, and for others how many times better qcore is in the same round."""
    theirs = rounds(records, fact, system=system)
    if not theirs:
        return ""
    better = ratios(rounds(records, fact, system=OURS), theirs)
    if system == OURS or fact in FACTS or records[0]["unit"] == "times" or not better:
        return spread(theirs.values())
    ratio = median(better)
    if not is_more_better(fact, records[0]["unit"]):
        ratio = 1 / ratio
    return f"{spread(theirs.values())} x{number(ratio)}"


def _part_of_qcore(records: list[Record]) -> str:
    """Return a row for each case, with its ratio to the case that its lines name as its base."""
    facts = [fact for fact in FACTS if any(fact in r for r in records)]
    titles = [FACTS[fact] for fact in facts]
    rows = [["case", "unit", "median (least-most)", "ratio", *titles]]
    for case in dict.fromkeys(r["case"] for r in records):
        record = next(r for r in records if r["case"] == case)
        found, ratio = rounds(records, "value", case=case), ""
        if "base" in record:
            to_base = ratios(found, rounds(records, "value", case=record["base"]))
            ratio = f"x{number(median(to_base))} of {record['base']}" if to_base else ""
        cpu = (rounds(records, fact, case=case).values() for fact in facts)
        cells = [spread(values) if values else "" for values in cpu]
        rows.append([case, record["unit"], spread(found.values()), ratio, *cells])
    return markdown(rows, numbers=True)
