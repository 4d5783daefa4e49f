"""Options that several commands share, and how they run."""

import asyncio
import difflib
import logging
import sys
from collections.abc import Awaitable, Callable, Sequence
from typing import Annotated, Any, TypeVar

import typer
from typer.core import TyperGroup

from qcore import ConfigError
from qcore.broker.redis.broker import Broker
from qcore.broker.redis.inspector import Inspector
from qcore.broker.redis.urls import where_is
from qcore.durations import seconds
from qcore.environment import broker_config
from qcore.model.reference import parts_of
from qcore.settings import BrokerConfig
from qcore_cli.logs import LogFormat, configure_logging
from qcore_cli.terminal import printable

T = TypeVar("T")

#: So many queues are named in an error.
_NAMED = 8
#: Who mistyped a command may type what is suggested, so nothing is that changes anything.
_SUGGESTED = frozenset(
    (
        *("worker", "status", "top", "doctor", "queues", "jobs", "dead", "unique", "show", "list"),
        "redis",
    )
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
        parts = parts_of(ref)
        if parts is None or not ref.isprintable():
            raise ConfigError(f"{ref!r} is no job reference: it reads QUEUE/ID")
        queues.setdefault(parts[0], []).append(parts[1])
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
