"""Counts of runs by task and outcome: a worker counts, beats carry them, its supervisor adds up."""

from bisect import bisect_left
from collections.abc import Container, Iterable

import msgspec

from qcore.model.job import Acked, Buried, Cancelled, Outcome, Released, Retried
from qcore.runtime.ipc.messages import Cell

#: Upper bounds of the run times that are told apart, in seconds; one more is without.
BOUNDS_S = (0.001, 0.005, 0.025, 0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0)
_SHORT_S = BOUNDS_S[0]
#: What an outcome is called; None: its lease was lost, so it has none to give.
OUTCOMES: dict[object, str] = {
    Acked: "completed",
    Cancelled: "cancelled",
    Retried: "retried",
    Buried: "dead",
    Released: "released",
    type(None): "lost",
}
#: Of cells that go into one beat, which is one write to a pipe.
_CELL_BYTES = 1000
_NAME_CHARS = 100
_encode = msgspec.json.Encoder().encode

#: Queue, task, outcome (its type where it was counted, its name where it was told), bound.
_Key = tuple[str, str, "type[Outcome] | type[None] | str", int]


class RunCounts:
    """How many runs ended how, and how long they took, by queue, task and outcome."""

    def __init__(self) -> None:
        #: Runs, and seconds of all of them.
        self._cells: dict[_Key, list[float]] = {}

    def __bool__(self) -> bool:
        return bool(self._cells)

    def count(self, queue: str, task: str, outcome: Outcome | None, took_s: float) -> None:
        """Count one run: the steps are few, for each job pays for them."""
        # nearly all of many jobs are short: no search
        bound = bisect_left(BOUNDS_S, took_s) if took_s > _SHORT_S else 0
        key = queue, task, type(outcome), bound
        try:
            cell = self._cells[key]
        except KeyError:
            self._cells[key] = [1, took_s]
        else:
            cell[0] += 1
            cell[1] += took_s

    def add(self, cells: Iterable[Cell]) -> None:
        """Count what was counted elsewhere, or could not be told."""
        for cell in cells:
            bound = min(max(cell.bound, 0), len(BOUNDS_S))  # another version may have more
            sums = self._cells.setdefault((cell.queue, cell.task, cell.outcome, bound), [0, 0])
            sums[0] += cell.runs
            sums[1] += cell.seconds

    def take(self, tasks: Container[str]) -> tuple[Cell, ...]:
        """Return as many cells as fit into a beat, and forget these.

        Args:
            tasks: Those that there are: others are counted as one, or anybody who enqueues could
                make any number of cells.
        """
        cells, left_bytes = list[Cell](), _CELL_BYTES
        while self._cells and left_bytes > 0:
            (queue, task, kind, bound), (runs, seconds) = self._cells.popitem()
            if not isinstance(kind, str):  # else it was taken before
                task = task[:_NAME_CHARS] if task in tasks else "(unknown)"
            cell = Cell(queue, task, _named(kind), bound, int(runs), round(seconds, 6))
            left_bytes -= len(_encode(cell))
            cells.append(cell)
        return tuple(cells)

    def cells(self) -> list[Cell]:
        """Return everything, by queue, task and outcome."""
        return sorted(
            Cell(queue, task, _named(kind), bound, int(runs), seconds)
            for (queue, task, kind, bound), (runs, seconds) in self._cells.items()
        )


def _named(kind: object) -> str:
    return OUTCOMES.get(kind) or str(kind)
