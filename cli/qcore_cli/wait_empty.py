"""`qcore wait-empty`: wait until a queue holds no job."""

import asyncio
import contextlib
import signal
import sys
import time
from typing import Annotated

import typer

from qcore import BrokerError, BrokerUnavailable, ConfigError
from qcore.broker.redis.inspector import Inspector
from qcore.model.views import QueueStats
from qcore_cli.options import (
    Namespace,
    Url,
    check_queue,
    seconds_of,
    with_inspector,
)
from qcore_cli.terminal import echo, printable

#: Between two looks at a queue, and between two lines of a log that say how far it is.
_LOOK_EVERY_S, _LINE_EVERY_S = 0.5, 5.0


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
