"""Options that several commands share, and how they run."""

import asyncio
import difflib
import json
import logging
import sys
from collections.abc import Awaitable, Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, TypeVar, cast

import typer
from typer.core import TyperGroup

from qcore import ConfigError
from qcore.broker.redis.broker import Broker
from qcore.broker.redis.inspector import Inspector
from qcore.broker.redis.urls import where_is
from qcore.config import BrokerConfig, broker_config, seconds
from qcore.model.views import Pause, QueueStats
from qcore_cli.logs import LogFormat, configure_logging
from qcore_cli.terminal import echo, printable

T = TypeVar("T")

_JSON_DEPTH = 100
#: So many queues are named in an error.
_NAMED = 8
#: Who mistyped a command may type what is suggested, so nothing is that changes anything.
_SUGGESTED = frozenset(
    ("worker", "status", "top", "doctor", "queues", "jobs", "dead", "show", "list", "redis")
)


#: Options that make a command do more, or not ask: nobody gets there by a slip of the finger.
BOLD = frozenset(
    [
        "--all",
        "--all-of",
        "--yes",
        "--exit",
        "--repair",
        "--fresh",
        "--refuse-new",
        "--allow-eviction",
    ]
)


class Commands(TyperGroup):
    """A group of commands that suggests only commands and options that are safe to type."""

    def invoke(self, ctx: Any) -> Any:
        """Run a command; its options are read in here."""
        try:
            return super().invoke(ctx)
        except Exception as e:
            error: Any = e
            if getattr(e, "possibilities", None):  # NoSuchOption, which typer does not export
                error.possibilities = [name for name in error.possibilities if name not in BOLD]
            raise

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find the command, as ever."""
        every = self.commands
        if args and args[0] not in every:
            self.commands = {name: every[name] for name in every if name in _SUGGESTED}
        try:
            return super().resolve_command(ctx, args)
        finally:
            self.commands = every


Url = Annotated[
    str | None,
    typer.Option(help="Redis, as redis://host:6379/0 or embedded://PATH; else QCORE_URL."),
]
Namespace = Annotated[
    str | None, typer.Option(help="Prefix of all keys; else QCORE_NAMESPACE, else qcore.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]


def with_inspector(
    url: str | None, namespace: str | None, use: Callable[[Inspector], Awaitable[T]]
) -> T:
    """Run `use` with an inspector of the Redis that the options name."""
    return with_broker(broker_config(url, namespace), lambda broker: use(Inspector(broker)))


def with_broker(config: BrokerConfig, use: Callable[[Broker], Awaitable[T]]) -> T:
    """Run `use` with a broker, and close it."""

    async def run() -> T:
        broker = Broker(config)
        try:
            return await use(broker)
        finally:
            await broker.close()

    configure_logging(LogFormat.CONSOLE, logging.WARNING)
    return asyncio.run(run())


def where_of(url: str | None, namespace: str | None) -> str:
    """Return which namespace of which Redis the options name."""
    return where_is(broker_config(url, namespace))


async def check_queue(inspector: Inspector, queue: str) -> None:
    """Raise ConfigError unless jobs were ever put into `queue`, or a worker served it."""
    names = await inspector.names()
    if queue not in names:
        close = difflib.get_close_matches(queue, names, _NAMED) or names[:_NAMED]
        more = f" and {len(names) - len(close)} more" if len(names) > len(close) else ""
        known = f"known are {', '.join(close)}{more}" if names else "no queue has been used yet"
        raise ConfigError(
            f"there is no queue {queue!r} in {inspector.where}: {known}; check --url and "
            "--namespace, or start a worker that serves it"
        )


def split_refs(refs: Sequence[str]) -> dict[str, list[str]]:
    """Return job ids by queue from references QUEUE/ID."""
    queues: dict[str, list[str]] = {}
    for ref in refs:
        queue, slash, id = ref.partition("/")
        if not (queue and slash and id) or not ref.isprintable():
            raise ConfigError(f"{ref!r} is no job reference: it reads QUEUE/ID")
        queues.setdefault(queue, []).append(id)
    return queues


def confirm(question: str, *, yes: bool) -> None:
    """Ask before something is destroyed; without a terminal only `--yes` will do."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise ConfigError(f"{question} Give --yes to do it without being asked")
    typer.confirm(printable(question), abort=True)


def seconds_of(text: str | float) -> float:
    """Return a duration in seconds: a number with a unit, s where there is none.

    A default is no text, and takes the same way.
    """
    try:
        return seconds("it", text)
    except ConfigError:
        raise typer.BadParameter(
            f"{text!r} is no duration: give it as 90, 90s, 10m, 2h or 1d"
        ) from None


def shown_time(ms: int) -> str:
    """Return a time on the Redis clock, unix ms, as operators read it."""
    try:
        return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
    except (ValueError, OverflowError, OSError):  # a year that no calendar has
        return f"{ms} ms"


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


def counted(number: int, noun: str) -> str:
    """Return a number of things, in words."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def short_age(seconds: float) -> str:
    """Return a span of time in its largest unit that leaves more than one of it."""
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"


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


def print_table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print columns, numbers to the right."""
    head = [printable(name) for name in head]
    cells = [[printable(cell) for cell in row] for row in rows]
    widths = [max(len(row[i]) for row in [head, *cells]) for i in range(len(head))]
    right = [
        bool(rows) and all(isinstance(row[i], int | float) for row in rows)
        for i in range(len(head))
    ]
    for row in [head, *cells]:
        line = (
            cell.rjust(width) if to_right else cell.ljust(width)
            for cell, width, to_right in zip(row, widths, right, strict=True)
        )
        echo("  ".join(line).rstrip())
