"""`qcore top`: queues, workers and the jobs that run, live."""

import asyncio
import os
import signal
import sys
import time

import anyio
from rich.console import Console
from rich.live import Live

from qcore import QcoreError
from qcore.broker.redis.broker import Broker
from qcore.broker.redis.fleet import Fleet
from qcore.broker.redis.inspector import Inspector
from qcore.environment import broker_config
from qcore_cli.fleet.keyboard import keyboard
from qcore_cli.fleet.top_view import Sight, Snapshot, drawn
from qcore_cli.format import short_age
from qcore_cli.options import Namespace, Url, with_broker

_LOOK_S = 1.0


def top(url: Url = None, namespace: Namespace = None) -> None:
    """Show queues, workers and what runs, live; once where there is no terminal.

    Keys: q quits, p pauses, Tab changes the table, arrows or j and k select.
    """
    config, console = broker_config(url, namespace), Console()
    is_live = console.is_terminal and sys.stdin.isatty()
    with_broker(config, lambda broker: (_live if is_live else _once)(broker, console))


async def _once(broker: Broker, console: Console) -> None:
    sight = _sight(broker)
    sight.see(await _look(broker))
    console.print(drawn(sight, None, console.width))


async def _live(broker: Broker, console: Console) -> None:
    sight, over, changed = _sight(broker), asyncio.Event(), asyncio.Event()
    away = asyncio.Event()

    def press(key: str) -> None:
        match key:
            case "quit":
                over.set()
            case "suspend":
                away.set()
            case "pause":
                sight.paused = not sight.paused
            case "tab":
                sight.switch()
            case _:
                sight.move(-1 if key == "up" else 1)
        changed.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGHUP):  # the terminal is to be as it was
        loop.add_signal_handler(number, press, "quit")
    async with anyio.create_task_group() as group:
        group.start_soon(_look_on, broker, sight, changed)
        while not over.is_set():
            away.clear()
            loop.add_signal_handler(signal.SIGTSTP, press, "suspend")
            with (
                keyboard(sys.stdin, press),
                Live(console=console, screen=True, auto_refresh=False) as live,
            ):
                while not (over.is_set() or away.is_set()):
                    live.update(drawn(sight, console.height, console.width), refresh=True)
                    with anyio.move_on_after(_LOOK_S):  # the window may have another size
                        await changed.wait()
                    changed.clear()
            if away.is_set():
                # all of the job in the shell; without a shell that could resume it nothing happens
                loop.remove_signal_handler(signal.SIGTSTP)
                os.kill(0, signal.SIGTSTP)
        group.cancel_scope.cancel()


async def _look_on(broker: Broker, sight: Sight, changed: asyncio.Event) -> None:
    """Look once a second, unless paused; a Redis that is away is said, and asked again."""
    heard_at = time.monotonic()
    while True:
        if not sight.paused:
            try:
                sight.see(await _look(broker))
            except QcoreError as e:
                away_s = time.monotonic() - heard_at
                sight.trouble = f"no answer for {short_age(away_s)}: {e}"
            else:
                heard_at = time.monotonic()
            changed.set()
        await anyio.sleep(_LOOK_S)


async def _look(broker: Broker) -> Snapshot:
    members = await Fleet(broker).members()
    return Snapshot(members, await Inspector(broker).queues())


def _sight(broker: Broker) -> Sight:
    return Sight(f"{broker.shown_url}  {broker.config.namespace}")
