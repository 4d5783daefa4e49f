"""How times, counts, ages, sizes, tables and documents are shown, wherever a command shows them."""

import json
from collections.abc import Collection, Iterable, Sequence
from typing import Any, cast

from qcore.model.reading import shown_time
from qcore.model.views import Pause, QueueStats
from qcore_cli.terminal import echo, printable

_JSON_DEPTH = 100


def by_depth(queues: Iterable[QueueStats]) -> list[QueueStats]:
    """Return queues, those that hold the most jobs first."""
    return sorted(queues, key=lambda q: (-depth(q), q.name))


def depth(queue: QueueStats) -> int:
    """Return how many jobs a queue holds, wherever they stand."""
    return queue.ready + queue.scheduled + queue.active + queue.dead


def state_of(stats: QueueStats) -> str:
    """Return what holds a queue up, as an operator reads it."""
    said: list[str] = []
    if stats.paused is not None:
        said.append(f"paused {span_of(stats.paused)}")
    if stats.closed_ms is not None:
        said.append(f"closed since {shown_time(stats.closed_ms)}")
    return ", ".join(said) or "open"


def span_of(pause: Pause) -> str:
    """Return since when and until when a pause lasts, and why."""
    until = "resumed" if pause.until_ms is None else shown_time(pause.until_ms)
    reason = f" ({pause.reason})" if pause.reason else ""
    return f"since {shown_time(pause.since_ms)} until {until}{reason}"


def counted(number: int, noun: str, many: str = "s") -> str:
    """Return a number of things, in words; `many` is what more than one of them have at the end."""
    return f"{number} {noun}{'' if number == 1 else many}"


def short_age(seconds: float) -> str:
    """Return a span of time in its largest unit that leaves more than one of it."""
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"


def size_of(count: int) -> str:
    """Return an amount of memory."""
    return f"{count / 1e6:.0f} MB" if count < 1e9 else f"{count / 1e9:.1f} GB"


def print_json(value: Any) -> None:
    """Print one JSON document on standard output."""
    try:
        text = json.dumps(value)
    except (TypeError, ValueError, RecursionError):  # keys of JSON are text, and it has an end
        text = json.dumps(_plain_json(value, 0))
    echo(text)


def _plain_json(value: Any, depth: int) -> Any:
    """Return the value as JSON can hold it: what it cannot is shown as Python would."""
    if isinstance(value, dict) and depth < _JSON_DEPTH:
        items = cast("dict[Any, Any]", value).items()
        return {k if isinstance(k, str) else repr(k): _plain_json(v, depth + 1) for k, v in items}
    if isinstance(value, list | tuple) and depth < _JSON_DEPTH:
        return [_plain_json(item, depth + 1) for item in cast("list[Any]", value)]
    if value is None or isinstance(value, str | int | float | bool):
        return value
    try:
        return repr(cast("object", value))
    except RecursionError:
        return "..."


def table(
    head: Sequence[str], rows: Sequence[Sequence[object]], *, right: Collection[int] | None = None
) -> list[str]:
    """Return aligned lines.

    Args:
        head: The names of the columns.
        rows: Their cells.
        right: The columns that go to the right, from 0; by default those of numbers.
    """
    columns = range(len(head))
    if right is None:
        right = {i for i in columns if rows and all(isinstance(r[i], int | float) for r in rows)}
    lines = [[printable(cell) for cell in row] for row in (head, *rows)]
    widths = [max(len(line[i]) for line in lines) for i in columns]
    return [
        "  ".join(
            line[i].rjust(widths[i]) if i in right else line[i].ljust(widths[i]) for i in columns
        ).rstrip()
        for line in lines
    ]
