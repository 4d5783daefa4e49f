"""Counts before a command changes a whole queue, and the message after it."""

from qcore.broker.redis.inspector import Inspector
from qcore.model.views import QueueStats
from qcore_cli.options import check_queue, where_of
from qcore_cli.terminal import echo, printable


async def stats_of(inspector: Inspector, queue: str) -> QueueStats:
    """Return how many jobs a queue holds; it was used before."""
    await check_queue(inspector, queue)
    (stats,) = await inspector.queues([queue])
    return stats


def say_done(
    done: str, count: int, queue: str | None, url: str | None, namespace: str | None
) -> None:
    """Say how many jobs were concerned, and where none was found in a queue."""
    if count or queue is None:
        echo(f"{done} {count:,}.")
    else:
        echo(printable(f"{done} 0: there is none in {queue} of {where_of(url, namespace)}."))


def all_of(count: int, noun: str) -> str:
    """Return all of so many things, in words."""
    return f"the {noun}" if count == 1 else f"all {count:,} {noun}s"
