"""Measures qcore and its peers; the whole comparison, or some parts of it.

python benchmarks/run.py [PART ...] [--runs 5] [--jobs-scale 1.0] [--systems qcore,saq]
python benchmarks/run.py --compare [FILE] [--plots]
"""

import argparse
import importlib
import pkgutil
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE.parent / "cli")]  # this checkout, whatever is installed

RESULTS = HERE / "results"
LATEST = RESULTS / "latest.jsonl"
#: The plots on the page; the others, and the lines, stay where they were measured.
SHOWN = ("drain", "enqueue", "pickup")


def main() -> None:
    given = _arguments()
    from benchmarks.harness import environments

    environments.enter(plots=given.plots)
    failures = _measure(given) if given.compare is None else []
    from benchmarks.harness import records, table

    lines = records.read(given.compare or given.out)
    text = table.report(lines)
    print(text)
    if given.plots:
        _publish(lines, text)
    if failures:
        sys.exit("\n".join(["not measured:", *failures]))


def _arguments() -> argparse.Namespace:
    from benchmarks.harness import systems
    from benchmarks.harness.targets import LIMIT

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(parts())}")
    parser.add_argument("--runs", type=int, default=5, help="that count, after one warm-up")
    parser.add_argument("--jobs-scale", type=float, default=1.0, help="less for a quick look")
    parser.add_argument("--systems", default="", help="only these, as qcore,saq")
    parser.add_argument("--out", type=Path, default=LATEST, help="where the lines go")
    parser.add_argument("--compare", nargs="?", type=Path, const=LATEST, help="only the table")
    parser.add_argument("--plots", action="store_true", help="draw plots; tables into README.md")
    given = parser.parse_args()
    given.systems = tuple(name for name in given.systems.split(",") if name)
    for kind, names, known in (
        ("part", given.parts, parts()),
        ("system", given.systems, (*systems.ALL, systems.BARE, systems.SCRIPT, LIMIT)),
    ):
        unknown = [name for name in names if name not in known]
        if unknown:
            parser.error(f"no {kind} {', '.join(unknown)}: there are {', '.join(known)}")
    return given


def parts() -> list[str]:
    return sorted(module.name for module in pkgutil.iter_modules([str(HERE / "parts")]))


def _publish(lines: list[dict[str, Any]], text: str) -> None:
    """Draw the plots, and put tables and plots into the page."""
    from benchmarks.harness import plots, table

    drawn = [path for path in plots.draw(lines, RESULTS) if path.stem in SHOWN]
    images = [f"![{path.stem}](results/{path.name})" for path in drawn]
    table.write_into(HERE / "README.md", "\n".join([text, *images, ""]))


def _measure(given: argparse.Namespace) -> list[str]:
    """Run the parts; return what failed."""
    from benchmarks.harness.bench import Bench, Options
    from benchmarks.harness.records import Lines

    options = Options(given.runs, given.jobs_scale, given.systems)
    lines = Lines(given.out)
    failures: list[str] = []
    for part in given.parts or parts():
        bench = Bench(part, options, lines)
        with bench.turn("part"):
            importlib.import_module(f"benchmarks.parts.{part}").run(bench)
        failures += bench.failures
    lines.close()
    return failures


if __name__ == "__main__":
    main()
