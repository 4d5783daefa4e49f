"""`qcore pause`, `qcore resume`, `qcore wait-empty`: queues that are held up on purpose."""

import asyncio
import contextlib
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Annotated, Any

import msgspec
import typer

from qcore import BrokerError, BrokerUnavailable, ConfigError
from qcore.broker.redis.inspector import Inspector
from qcore.model.views import Pause, QueueStats
from qcore_cli.options import (
    AsJson,
    Namespace,
    Url,
    check_queue,
    counted,
    print_json,
    seconds_of,
    shown_time,
    span_of,
    where_of,
    with_inspector,
)
from qcore_cli.terminal import echo, printable

#: Between two looks at a queue, and between two lines of a log that say how far it is.
_LOOK_EVERY_S, _LINE_EVERY_S = 0.5, 5.0

Queue = Annotated[str | None, typer.Argument(help="Name of a queue.")]
All = Annotated[bool, typer.Option("--all", help="Every queue that was ever used.")]


def pause(
    queue: Queue = None,
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
    queue: Queue = None,
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


# -- wait-empty --------------------------------------------------------------------------------


def wait_empty(
    queue: Annotated[str, typer.Argument(help="Name of a queue.")],
    refuse_new: Annotated[
        bool, typer.Option("--refuse-new", help="Close it to new jobs, until `qcore resume`.")
    ] = False,
    timeout: Annotated[
        float | None,
        typer.Option(parser=seconds_of, metavar="TIME", help="As 90, 10m, 2h; else for ever."),
    ] = None,
    url: Url = None,
    namespace: Namespace = None,
) -> None:
    """Wait until a queue holds no job: none ready, scheduled or running; the dead do not count."""

    async def run(inspector: Inspector) -> bool:
        await check_queue(inspector, queue)
        if not refuse_new:
            return await _wait(inspector, queue, timeout)
        return await _wait_closed(inspector, queue, timeout)

    if not with_inspector(url, namespace, run):
        raise typer.Exit(1)


async def _wait_closed(inspector: Inspector, queue: str, timeout_s: float | None) -> bool:
    """Close the queue and wait; open it again unless it was empty, or closed before."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGHUP):  # as Ctrl-C: a queue must not stay closed
        loop.add_signal_handler(number, signal.raise_signal, signal.SIGINT)
    is_ours, is_empty = True, False  # ours also when nobody knows whether the call took effect
    try:
        is_ours = await inspector.close_queue(queue)
        is_empty = await _wait(inspector, queue, timeout_s)
    finally:
        if is_ours and not is_empty:
            await _open(inspector, queue)
    if is_empty:
        echo(f"It takes no new jobs until `qcore resume {queue}`.")
    return is_empty


async def _open(inspector: Inspector, queue: str) -> None:
    try:
        await inspector.open_queue(queue)
    except BrokerError as e:
        remedy = f"it may take no new jobs until `qcore resume {queue}`"
        echo(f"qcore: queue {queue} could not be opened: {e}; {remedy}", err=True)
    else:
        echo(f"qcore: queue {queue} takes new jobs again", err=True)


async def _wait(inspector: Inspector, queue: str, timeout_s: float | None) -> bool:
    """Show how many jobs are left until none is, or until the time is up.

    A Redis that is away for a while is waited for.
    """
    began, progress = time.monotonic(), _Progress()
    (stats,) = await inspector.queues([queue])
    while True:
        if not stats.ready + stats.scheduled + stats.active:
            progress.end()
            echo(printable(f"{queue} is empty in {inspector.where}."))
            return True
        if stats.paused is not None and stats.ready + stats.scheduled:
            progress.end()
            raise ConfigError(
                f"queue {queue} is paused and holds {_counts(stats)}, so it would not get empty: "
                f"`qcore resume {queue}` first"
            )
        waited_s = time.monotonic() - began
        if timeout_s is not None and waited_s >= timeout_s:
            progress.end()
            said = f"queue {queue} is not empty after {timeout_s:g} s: {_counts(stats)}"
            echo(f"qcore: {said}", err=True)
            return False
        progress.show(f"{queue}: {_counts(stats)}")
        await asyncio.sleep(_LOOK_EVERY_S)
        with contextlib.suppress(BrokerUnavailable):
            (stats,) = await inspector.queues([queue])


def _counts(stats: QueueStats) -> str:
    return f"{stats.ready} ready, {stats.scheduled} scheduled, {stats.active} active"


class _Progress:
    """One line that is written anew on a terminal; elsewhere a line every few seconds."""

    def __init__(self) -> None:
        self._is_live = sys.stdout.isatty()
        self._next = 0.0

    def show(self, line: str) -> None:
        if self._is_live:
            sys.stdout.write(f"\r{printable(line)}\x1b[K")
            sys.stdout.flush()
        elif time.monotonic() >= self._next:
            self._next = time.monotonic() + _LINE_EVERY_S
            echo(line)

    def end(self) -> None:
        if self._is_live:
            sys.stdout.write("\r\x1b[K")
            sys.stdout.flush()
