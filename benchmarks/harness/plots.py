"""The plots, from the lines alone: a picture for each part, a row of bars for each case."""

from pathlib import Path
from statistics import median

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.harness.figures import number
from benchmarks.harness.records import Record
from benchmarks.harness.targets import OURS

OUR_COLOR, THEIR_COLOR = "#c0392b", "#7f8c8d"


def draw(records: list[Record], folder: Path) -> list[Path]:
    """Write `PART.svg` for each part; return the files."""
    mpl.rcParams.update({"svg.hashsalt": "qcore", "svg.fonttype": "none"})  # the same, and small
    folder.mkdir(exist_ok=True)
    paths: list[Path] = []
    for part in dict.fromkeys(r["part"] for r in records):
        of_part = [r for r in records if r["part"] == part]
        cases = list(dict.fromkeys(r["case"] for r in of_part))
        figure = Figure(figsize=(8, sum(_height(of_part, case) for case in cases)))
        ratios = [_height(of_part, case) for case in cases]
        grid = figure.subplots(len(cases), squeeze=False, height_ratios=ratios)
        for axes, case in zip(grid.flat, cases, strict=True):
            _bars(axes, [r for r in of_part if r["case"] == case])
        figure.tight_layout()
        paths.append(folder / f"{part}.svg")
        figure.savefig(paths[-1], metadata={"Date": None})
    return paths


def _height(records: list[Record], case: str) -> float:
    """Return inches."""
    return 0.8 + 0.25 * len({r["system"] for r in records if r["case"] == case})


def _bars(axes: Axes, records: list[Record]) -> None:
    """Draw the medians, longest first, with a line from the least to the most."""
    values: dict[str, list[float]] = {}
    for r in records:
        values.setdefault(r["system"], []).append(r["value"])
    names = sorted(values, key=lambda name: median(values[name]))
    middles = [median(values[name]) for name in names]
    below = [m - min(values[name]) for name, m in zip(names, middles, strict=True)]
    above = [max(values[name]) - m for name, m in zip(names, middles, strict=True)]
    colors = [OUR_COLOR if name == OURS else THEIR_COLOR for name in names]
    bars = axes.barh(names, middles, xerr=[below, above], color=colors, ecolor="#2c3e50")
    axes.bar_label(bars, [number(value) for value in middles], padding=4, fontsize=8)
    axes.margins(x=0.15)
    axes.set_title(f"{records[0]['case']}, {records[0]['unit']}", loc="left", fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
