"""`qcore queues`, `qcore clear`, `qcore pause`, `qcore resume`: queues, and what holds them up."""

from collections.abc import Awaitable, Callable
from typing import Annotated, Any

import msgspec
import typer
from typer.core import TyperGroup

from qcore import ConfigError
from qcore.broker.redis.broker import Broker
from qcore.broker.redis.forget_queue import Holders, forget_queue, holders
from qcore.broker.redis.inspector import Inspector
from qcore.environment import broker_config
from qcore.model.reading import shown_time
from qcore.model.views import Pause, QueueStats
from qcore_cli.asking import all_of, say_done, stats_of
from qcore_cli.format import (
    by_depth,
    counted,
    depth,
    print_json,
    short_age,
    span_of,
    state_of,
    table,
)
from qcore_cli.options import (
    AsJson,
    Namespace,
    Url,
    Yes,
    check_queue,
    confirm,
    seconds_of,
    where_of,
    with_broker,
    with_inspector,
)
from qcore_cli.terminal import echo, printable

#: Of more queues than this those that are empty are only counted.
_QUEUES = 20

_COUNTS = ("READY", "QUARANTINED", "SCHEDULED", "ACTIVE", "DEAD")

Queue = Annotated[str, typer.Argument(help="Name of a queue.")]
QueueOrNone = Annotated[str | None, typer.Argument(help="Name of a queue.")]
All = Annotated[bool, typer.Option("--all", help="Every queue that was ever used.")]


class _ShowsByDefault(TyperGroup):
    """`qcore queues` and `qcore queues NAMES` are `qcore queues show`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not args or args[0] not in (*self.commands, "--help"):
            args = ["show", *args]
        return super().parse_args(ctx, args)


queues = typer.Typer(help="Show the depth of queues, or forget one.", cls=_ShowsByDefault)


@queues.command("show")
def show(
    names: Annotated[list[str] | None, typer.Argument(help="Only these.")] = None,
    as_json: AsJson = False,
    url: Url = None,
    namespace: Namespace = None,
) -> None:
    """Show the depth of every queue, the age of its next job, and whether it is held up."""

    async def read(inspector: Inspector) -> tuple[list[QueueStats], str]:
        for name in names or ():
            await check_queue(inspector, name)
        return await inspector.queues(names or None), inspector.where

    found, where = with_inspector(url, namespace, read)
    if as_json:
        print_json(msgspec.to_builtins(found))
    elif not found:
        echo(printable(f"No queue has been used yet in {where}."))
    else:
        _print_queues(found, bool(names))


def _print_queues(found: list[QueueStats], named: bool) -> None:
    """Print the fullest first; of many those that are empty and open are only counted."""
    shown = found
    if not named and len(found) > _QUEUES:
        shown = [q for q in found if depth(q) or state_of(q) != "open"]
    if shown:
        has_limits = any(q.max_jobs is not None for q in shown)
        limit = ("LIMIT",) if has_limits else ()
        rows = [
            (
                *(q.name, q.ready, q.quarantined, q.scheduled, q.active, q.dead),
                *((q.max_jobs or "-",) if has_limits else ()),
                *(_age(q), state_of(q)),
            )
            for q in by_depth(shown)
        ]
        head = ("QUEUE", *_COUNTS, *limit, "OLDEST READY", "STATE")
        numbers = range(1, 1 + len(_COUNTS) + len(limit))
        echo("\n".join(table(head, rows, right=numbers)))
    if len(shown) < len(found):
        echo(f"{len(found)} queues, {len(found) - len(shown)} of them empty; --json lists all.")


@queues.command("forget")
def queues_forget(
    queue: Annotated[str, typer.Argument(help="Name of a queue.")],
    yes: Yes = False,
    as_json: AsJson = False,
    url: Url = None,
    namespace: Namespace = None,
) -> None:
    """Remove all that is stored of a queue that holds no job and that nobody uses."""
    config = broker_config(url, namespace)

    async def look(broker: Broker) -> Holders:
        await check_queue(Inspector(broker), queue)
        return await holders(broker, queue)

    async def act(broker: Broker) -> Holders | None:
        return None if await forget_queue(broker, queue) else await holders(broker, queue)

    found: Holders | None = with_broker(config, look)
    kept = f", with {counted(found.outcomes, 'kept outcome')}" if found.outcomes else ""
    if not found.reasons:
        confirm(f"Forget queue {queue}{kept}?", yes=yes)
        found = with_broker(config, act)
    if found is not None:
        raise ConfigError(f"queue {queue} was not forgotten: {'; '.join(found.reasons)}")
    if as_json:
        print_json({"forgotten": queue})
    else:
        echo(f"Forgot {queue}{kept}.")


def clear(
    queue: Queue,
    yes: Yes = False,
    as_json: AsJson = False,
    url: Url = None,
    namespace: Namespace = None,
) -> None:
    """Cancel every ready and scheduled job of a queue; what runs goes on."""
    if not yes:
        found = with_inspector(url, namespace, lambda i: stats_of(i, queue))
        waiting = all_of(found.ready + found.scheduled, "waiting job")
        confirm(f"Cancel {waiting} of {queue}?", yes=yes)

    async def act(inspector: Inspector) -> int:
        await check_queue(inspector, queue)
        return await inspector.clear(queue)

    cleared = with_inspector(url, namespace, act)
    if as_json:
        print_json({"cleared": cleared})
    else:
        say_done("Cleared", cleared, queue, url, namespace)


def pause(
    queue: QueueOrNone = None,
    all_queues: All = False,
    for_: Annotated[
        float | None,
        typer.Option("--for", parser=seconds_of, metavar="TIME", help="As 90, 10m, 2h, 1d."),
    ] = None,
    reason: Annotated[str, typer.Option(help="What other operators are shown.")] = "",
    as_json: AsJson = False,
    url: Url = None,
    namespace: Namespace = None,
) -> None:
    """Let no worker claim from a queue, for some time or until it is resumed; what runs goes on."""

    async def act(inspector: Inspector, name: str) -> tuple[Pause | None, Pause]:
        (before,) = await inspector.queues([name])
        return before.paused, await inspector.pause(name, for_=for_, reason=reason)

    paused = _each(queue, all_queues, url, namespace, act)
    if as_json:
        now = {name: msgspec.to_builtins(held) for name, (_, held) in paused.items()}
        print_json({"paused": now})
        return
    for name, (before, held) in paused.items():
        until = f"`qcore resume {name}`" if held.until_ms is None else shown_time(held.until_ms)
        echo(f"Paused {name} until {until}; what runs goes on.")
        if before is not None:  # maybe of somebody else, who counts on it
            echo(printable(f"This replaces a pause {span_of(before)}."))
    if all_queues:
        echo(printable(f"{counted(len(paused), 'queue')} of {where_of(url, namespace)}."))


def resume(
    queue: QueueOrNone = None,
    all_queues: All = False,
    as_json: AsJson = False,
    url: Url = None,
    namespace: Namespace = None,
) -> None:
    """Let workers claim from a queue again, and producers enqueue to it if it was closed."""

    async def act(inspector: Inspector, name: str) -> bool:
        return await inspector.resume(name)

    found = _each(queue, all_queues, url, namespace, act)
    resumed = [name for name, was_held in found.items() if was_held]
    others = [name for name, was_held in found.items() if not was_held]
    if as_json:
        print_json({"resumed": resumed, "not_held": others})
        return
    for name in resumed:
        echo(f"Resumed {name}.")
    if all_queues:
        known = counted(len(found), "queue")
        echo(printable(f"{len(resumed)} of {known} of {where_of(url, namespace)}."))
    elif others:
        where = where_of(url, namespace)
        echo(printable(f"{others[0]} was neither paused nor closed in {where}."))


def _each(
    queue: str | None,
    all_queues: bool,
    url: str | None,
    namespace: str | None,
    act: Callable[[Inspector, str], Awaitable[Any]],
) -> dict[str, Any]:
    """Do something to one queue or to all; return what came of it by their names."""
    if (queue is None) != all_queues:
        raise ConfigError("name a queue, or give --all, not both")

    async def run(inspector: Inspector) -> dict[str, Any]:
        if queue is not None:
            await check_queue(inspector, queue)
        names = await inspector.names() if queue is None else [queue]
        return {name: await act(inspector, name) for name in names}

    return with_inspector(url, namespace, run)


def _age(queue: QueueStats) -> str:
    return "-" if queue.oldest_ready_s is None else short_age(queue.oldest_ready_s)
