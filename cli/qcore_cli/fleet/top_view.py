"""What `qcore top` draws: queues, supervisors with their workers, and the jobs that run longest."""

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from qcore.model.fleet import RollState, RunningJob, WorkerView
from qcore.model.views import Member, QueueStats
from qcore_cli.format import by_depth, counted, short_age, size_of
from qcore_cli.terminal import printable

#: Jobs a second are those of the last so many seconds.
_WINDOW_S = 5.0
_FOOTER = "q quit   p pause   Tab queues/workers   ↑↓ or j k select"
#: Lines that are always there: the title, three heads with an empty line above each, the footer.
_FIXED = 8
_STYLES = {
    "running": "green",
    "starting": "cyan",
    "quiet": "yellow",
    "draining": "yellow",
    "rolling": "yellow",
}

#: Columns between two others, and those that the names keep at least.
_GAP, _NAME_MIN = 2, 14

Pane = Literal["queues", "workers"]
#: The cells of a line, and its style.
Line = tuple[tuple[str | Text, ...], str]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What Redis said at one moment."""

    members: Sequence[Member]
    queues: Sequence[QueueStats]


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the lower table: a supervisor, or a worker of the one above it."""

    key: str
    name: str
    pid: int
    state: str
    running: int
    rate: float
    rss_bytes: int
    cpu: float
    lag_ms: float
    age_s: float
    #: Each with the name of its worker.
    jobs: tuple[tuple[RunningJob, str], ...]
    is_worker: bool


class Rates:
    """Jobs a second of each worker, over a sliding window, by its supervisor's clock."""

    def __init__(self) -> None:
        self._seen: dict[str, deque[tuple[float, int]]] = {}

    def note(self, members: Iterable[Member]) -> None:
        """Take note of how many are done now, and forget workers that are gone."""
        seen: dict[str, deque[tuple[float, int]]] = {}
        for member in members:
            now_s = member.view.age_s
            for worker in member.view.workers:
                key = f"{member.id} {worker.pid}"
                points = seen[key] = self._seen.get(key, deque())
                if not points or points[-1][0] != now_s:
                    points.append((now_s, worker.done))
                while now_s - points[0][0] > _WINDOW_S and len(points) > 2:
                    points.popleft()
        self._seen = seen

    def of(self, key: str) -> float:
        """Return the jobs a second of `SUPERVISOR PID`; 0 when nothing is known yet."""
        points = self._seen.get(key, ())
        if len(points) < 2 or points[-1][0] <= points[0][0]:
            return 0.0
        return (points[-1][1] - points[0][1]) / (points[-1][0] - points[0][0])


@dataclass(slots=True)
class Sight:
    """What somebody looks at, and how."""

    where: str
    snapshot: Snapshot | None = None
    rates: Rates = field(default_factory=Rates)
    #: Why there is nothing newer.
    trouble: str = ""
    paused: bool = False
    pane: Pane = "workers"
    #: The line that is selected in each pane; "" is none.
    selected: dict[Pane, str] = field(default_factory=dict[Pane, str])

    def see(self, snapshot: Snapshot) -> None:
        """Show this from now on."""
        self.snapshot = Snapshot(snapshot.members, by_depth(snapshot.queues))
        self.trouble = ""
        self.rates.note(snapshot.members)

    def rows(self) -> list[Row]:
        """Return the supervisors, each with its workers below."""
        members = self.snapshot.members if self.snapshot else ()
        return [row for member in members for row in _rows_of(member, self.rates)]

    def move(self, step: int) -> None:
        """Select another line of the pane; beyond its ends nothing changes."""
        queues = self.snapshot.queues if self.snapshot else ()
        keys = [q.name for q in queues] if self.pane == "queues" else [r.key for r in self.rows()]
        if keys:
            at = _index(keys, self.selected.get(self.pane, ""))
            at = at + step if at is not None else 0
            self.selected[self.pane] = keys[max(0, min(len(keys) - 1, at))]

    def switch(self) -> None:
        """Go to the other pane."""
        self.pane = "workers" if self.pane == "queues" else "queues"


def drawn(sight: Sight, height: int | None, width: int) -> RenderableType:
    """Return a frame of at most `height` lines; None for all that there is to show.

    Where `width` columns are too few for every number, those that matter least are left out.
    """
    rows = sight.rows()
    queues = list(sight.snapshot.queues) if sight.snapshot else []
    jobs = _jobs(sight, rows)
    rooms = [len(queues), len(rows), len(jobs)]
    if height is not None:
        rooms = _shares(rooms, max(3, height - _FIXED))
    parts: list[RenderableType] = [
        _title(sight, rows),
        Text(),
        _queue_table(sight, queues, rooms[0], width),
        Text(),
        _worker_table(sight, rows, rooms[1], width),
        Text(),
        _job_table(jobs, rooms[2], width),
    ]
    if height is not None:
        used = _FIXED + sum(rooms)
        parts += [Text()] * max(0, height - used)
        parts.append(Text(_FOOTER, style="dim", no_wrap=True))
    return Group(*parts)


def _shares(wanted: list[int], room: int) -> list[int]:
    """Return how many lines each table gets: what it wants, or else its share of what is left."""
    given = [0] * len(wanted)
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    for place, i in enumerate(order):
        given[i] = min(wanted[i], room // (len(wanted) - place))
        room -= given[i]
    return given


def _title(sight: Sight, rows: list[Row]) -> RenderableType:
    line = Table.grid(expand=True)
    line.add_column(ratio=1, no_wrap=True, overflow="ellipsis")
    line.add_column(justify="right", no_wrap=True)
    left = Text.assemble(
        ("qcore top", "bold"),
        "  ",
        (printable(sight.trouble), "red") if sight.trouble else printable(sight.where),
    )
    # what is wrong needs the room, and the sums are of before; without a look there are none
    said = "" if sight.trouble or sight.snapshot is None else _sums(sight, rows)
    if sight.paused:
        said = "paused  " + said
    line.add_row(left, Text(f"  {said}" if said else ""))
    return line


def _sums(sight: Sight, rows: list[Row]) -> str:
    heads = [row for row in rows if not row.is_worker]
    queues = sight.snapshot.queues if sight.snapshot else ()
    held = sum(bool(_held(queue)) for queue in queues)
    said = [counted(held, "queue") + " held up"] if held else []
    said += [counted(len(rows) - len(heads), "worker"), f"{sum(h.rate for h in heads):,.0f} done/s"]
    return "  ".join(said)


def _queue_table(sight: Sight, queues: list[QueueStats], room: int, width: int) -> Table:
    shown, more = _window([q.name for q in queues], sight.selected.get("queues", ""), room)
    held = sum(bool(_held(queue)) for queue in queues)
    lines: list[Line] = []
    for queue in queues[shown]:
        wait = "-" if queue.oldest_ready_s is None else short_age(queue.oldest_ready_s)
        counts = (queue.ready, queue.scheduled, queue.active, queue.dead)
        cells = (queue.name, *(f"{count:,}" for count in counts), wait)
        state = Text(_held(queue), style="yellow")
        lines.append(((*cells, state), _chosen(sight, "queues", queue.name)))
    return _table(
        (f"QUEUE{more}", "READY", "SCHEDULED", "ACTIVE", "DEAD", "WAIT", "STATE"),
        lines,
        width,
        left=("STATE",),
        spare=("SCHEDULED", "DEAD", "WAIT", *(() if held else ("STATE",)), "ACTIVE"),
    )


def _held(queue: QueueStats) -> str:
    """Return what holds a queue up, in a word; empty when nothing does."""
    if queue.paused is not None:
        return "paused"
    return "closed" if queue.closed_ms is not None else ""


def _worker_table(sight: Sight, rows: list[Row], room: int, width: int) -> Table:
    shown, more = _window([row.key for row in rows], sight.selected.get("workers", ""), room)
    lines: list[Line] = []
    for row in rows[shown]:
        cells = (
            ("  " if row.is_worker else "") + row.name,
            str(row.pid),
            Text(printable(row.state), style=_STYLES.get(row.state, "red")),
            f"{row.running:,}",
            f"{row.rate:,.0f}",
            size_of(row.rss_bytes),
            f"{100 * row.cpu:.0f}%",
            f"{row.lag_ms:.0f} ms" if row.lag_ms < 1000 else short_age(row.lag_ms / 1000),
            short_age(row.age_s),
        )
        lines.append((cells, _chosen(sight, "workers", row.key)))
    return _table(
        (f"WORKER{more}", "PID", "STATE", "RUN", "DONE/S", "RSS", "CPU", "LAG", "UP"),
        lines,
        width,
        left=("STATE",),
        spare=("PID", "UP", "CPU", "RSS", "LAG", "DONE/S"),
    )


def _job_table(jobs: list[tuple[RunningJob, str]], room: int, width: int) -> Table:
    lines: list[Line] = []
    for job, worker in jobs[:room]:
        # the end of a name says most
        task = ".".join(job.task.split(".")[-2:]) or "?"
        lines.append(((task, job.ref, worker, short_age(job.age_s)), ""))
    names = ("RUNS LONGEST", "JOB", "WORKER", "AGE")
    return _table(names, lines, width, left=("JOB", "WORKER"), spare=("WORKER", "JOB"))


def _table(
    names: Sequence[str],
    lines: Sequence[Line],
    width: int,
    *,
    left: Sequence[str] = (),
    spare: Sequence[str],
) -> Table:
    """Return a table whose first column takes what is left and may be cut off.

    Args:
        names: The heads of the columns.
        lines: Cells and style of each.
        width: Columns of the terminal.
        left: Those that are no numbers.
        spare: Those that are left out where there is no room, the first one first.
    """
    drawn_lines = [
        (tuple(c if isinstance(c, Text) else Text(printable(c)) for c in cells), style)
        for cells, style in lines
    ]
    # without a least width all columns would move whenever a number grows
    widths = {
        name: max(len(name), 5, *(cells[i].cell_len for cells, _ in drawn_lines))
        for i, name in enumerate(names)
    }
    shown = list(names)
    for name in spare:
        if sum(widths[n] + _GAP for n in shown[1:]) + _NAME_MIN > width:
            shown.remove(name)
    table = Table(
        box=None, pad_edge=False, padding=(0, _GAP, 0, 0), expand=True, header_style="dim"
    )
    table.add_column(shown[0], ratio=1, no_wrap=True, overflow="ellipsis")
    for name in shown[1:]:
        side = "left" if name in left else "right"
        table.add_column(name, justify=side, no_wrap=True, min_width=widths[name])
    for cells, style in drawn_lines:
        kept = (cell for name, cell in zip(names, cells, strict=True) if name in shown)
        table.add_row(*kept, style=style)
    return table


def _chosen(sight: Sight, pane: Pane, key: str) -> str:
    return "reverse" if sight.pane == pane and sight.selected.get(pane) == key else ""


def _window(keys: list[str], chosen: str, room: int) -> tuple[slice, str]:
    """Return the lines to show, around the one that is selected, and a note when not all are."""
    if len(keys) <= room:
        return slice(0, len(keys)), ""
    at = _index(keys, chosen) or 0
    start = max(0, min(at - room // 2, len(keys) - room))
    return slice(start, start + room), f" {start + 1}-{start + room} of {len(keys)}"


def _index(keys: list[str], key: str) -> int | None:
    return keys.index(key) if key in keys else None


def _jobs(sight: Sight, rows: list[Row]) -> list[tuple[RunningJob, str]]:
    """Return the jobs of the line that is selected, else of all, the longest first."""
    chosen = sight.selected.get("workers", "") if sight.pane == "workers" else ""
    one = [row for row in rows if row.key == chosen]
    found = [job for row in one or [r for r in rows if not r.is_worker] for job in row.jobs]
    return sorted(found, key=lambda job: -job[0].age_s)


def _rows_of(member: Member, rates: Rates) -> list[Row]:
    view = member.view
    workers = [_worker_row(member, worker, rates) for worker in view.workers]
    state = "rolling" if view.roll.state is RollState.ROLLING else str(view.state)
    if member.is_silent:
        state = "silent"
    head = Row(
        key=member.id,
        name=f"{view.host} {view.name}",
        pid=view.pid,
        state=state,
        running=sum(row.running for row in workers),
        rate=sum(row.rate for row in workers),
        rss_bytes=sum(row.rss_bytes for row in workers),
        cpu=sum(row.cpu for row in workers),
        lag_ms=max((row.lag_ms for row in workers), default=0.0),
        age_s=view.age_s,
        jobs=tuple(job for row in workers for job in row.jobs),
        is_worker=False,
    )
    return [head, *workers]


def _worker_row(member: Member, worker: WorkerView, rates: Rates) -> Row:
    key = f"{member.id} {worker.pid}"
    return Row(
        key=key,
        name=worker.name,
        pid=worker.pid,
        state=worker.state,
        running=worker.running,
        rate=rates.of(key),
        rss_bytes=worker.rss_bytes,
        cpu=worker.cpu,
        lag_ms=worker.loop_lag_ms,
        age_s=worker.age_s,
        jobs=tuple((job, worker.name) for job in worker.oldest),
        is_worker=True,
    )
