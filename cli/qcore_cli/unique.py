"""`qcore unique`: the keys by which a queue holds at most one job of a kind."""

from typing import Annotated, Any

import msgspec
import typer

from qcore import ArgumentError, ConfigError, JobNotFound
from qcore.broker.redis.broker import Broker
from qcore.broker.redis.inspector import Inspector
from qcore.broker.redis.unique_keys import UniqueKeys
from qcore.environment import broker_config
from qcore.model.reference import reference
from qcore.model.views import UniqueKeyView
from qcore.uniqueness import value_text
from qcore_cli.format import print_json, table
from qcore_cli.job_view import key_end, time_of
from qcore_cli.options import AsJson, Commands, Namespace, Url, check_queue, with_broker
from qcore_cli.terminal import echo, printable

_HEAD = ("KIND", "TASK", "KEY", "UNTIL", "JOB", "FIRST", "TIMES")

Queue = Annotated[str, typer.Argument(help="Name of a queue.")]
OfTask = Annotated[str | None, typer.Option("--task", help="Only keys of this task.")]

unique = typer.Typer(
    cls=Commands, help="Look at unique and idempotency keys, and free them.", no_args_is_help=True
)


@unique.command("list")
def unique_list(
    queue: Queue,
    task: OfTask = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="At most so many.")] = 50,
    as_json: AsJson = False,
    url: Url = None,
    namespace: Namespace = None,
) -> None:
    """List the keys that jobs of a queue hold, and which job holds each."""

    async def read(broker: Broker) -> tuple[list[UniqueKeyView], str]:
        inspector = Inspector(broker)
        await check_queue(inspector, queue)
        found = await UniqueKeys(broker).held(queue, task=task, limit=limit + 1)
        return found, inspector.where

    found, where = with_broker(broker_config(url, namespace), read)
    shown = sorted(found[:limit], key=lambda view: (view.task, view.kind, view.value))
    if as_json:
        print_json([_plain(queue, view) for view in shown])
    elif not shown:
        of_task = "" if task is None else f" of task {task}"
        echo(printable(f"No job of {queue} holds a key{of_task}, {where}."))
    else:
        echo("\n".join(table(_HEAD, [_row(queue, view) for view in shown])))
        if len(found) > limit:
            echo(f"{limit} of more; see --limit and --task.")


@unique.command("show")
def unique_show(
    queue: Queue,
    key: Annotated[str, typer.Argument(help="Its value, or #DIGEST as listed.")],
    task: OfTask = None,
    as_json: AsJson = False,
    url: Url = None,
    namespace: Namespace = None,
) -> None:
    """Show who holds a key, until when, and where that job is."""

    async def read(broker: Broker) -> list[tuple[UniqueKeyView, str | None]]:
        inspector = Inspector(broker)
        await check_queue(inspector, queue)
        found = await _named(broker, queue, key, task)
        if not found:
            raise _unknown([key], queue, inspector.where)
        return [(view, await _status(inspector, queue, view.job)) for view in found.values()]

    found = with_broker(broker_config(url, namespace), read)
    if as_json:
        print_json([_plain(queue, view) | {"status": status} for view, status in found])
        return
    for n, (view, status) in enumerate(found):
        if n:
            echo()
        where = status or "it has ended, and left no trace"
        rows = [
            ("kind", view.kind),
            ("task", view.task),
            ("key", view.value),
            ("until", key_end(view)),
            ("job", f"{reference(queue, view.job)}  {where}"),
            ("asked first", time_of(view.first_ms)),
            ("times asked", view.times),
        ]
        echo("\n".join(f"{name:<12} {printable(value)}" for name, value in rows))


@unique.command("free")
def unique_free(
    queue: Queue,
    keys: Annotated[list[str], typer.Argument(help="The value of each, or #DIGEST as listed.")],
    task: OfTask = None,
    as_json: AsJson = False,
    url: Url = None,
    namespace: Namespace = None,
) -> None:
    """Free keys, so that the next enqueue creates a job; those that hold them go on."""

    async def act(broker: Broker) -> tuple[int, list[str], str]:
        inspector = Inspector(broker)
        await check_queue(inspector, queue)
        found: dict[bytes, UniqueKeyView] = {}
        unknown: list[str] = []
        for key in dict.fromkeys(keys):
            held = await _named(broker, queue, key, task)
            _check_one_task(key, queue, {view.task for view in held.values()})
            found |= held
            unknown += [] if held else [key]
        return await UniqueKeys(broker).free(queue, found), unknown, inspector.where

    freed, unknown, where = with_broker(broker_config(url, namespace), act)
    if as_json:
        print_json({"freed": freed, "not_held": unknown})
    elif freed or not unknown:
        echo(f"Freed {freed:,}.")
    if unknown:
        raise _unknown(unknown, queue, where)


async def _named(
    broker: Broker, queue: str, key: str, task: str | None
) -> dict[bytes, UniqueKeyView]:
    """Return the keys with this value; of a long one Redis knows the digest only."""
    found = await UniqueKeys(broker).named(queue, key, task=task)
    if found:
        return found
    try:
        stored = value_text("a key", key)
    except ArgumentError:
        return {}
    if not stored.startswith("#"):
        return {}
    return await UniqueKeys(broker).named(queue, stored, task=task)


def _check_one_task(key: str, queue: str, tasks: set[str]) -> None:
    if len(tasks) > 1:
        raise ConfigError(
            f"several tasks have a key {key!r} in queue {queue}: {', '.join(sorted(tasks))}; say "
            "which with --task; nothing was freed"
        )


def _unknown(keys: list[str], queue: str, where: str) -> ConfigError:
    named = ", ".join(map(repr, keys))
    return ConfigError(
        f"no job of {queue} holds the key {named} in {where}: `qcore unique list {queue}` shows "
        "those that are held"
    )


async def _status(inspector: Inspector, queue: str, id: str) -> str | None:
    try:
        record = await inspector.job(queue, id)
    except JobNotFound:  # as good as without a trace
        return None
    return None if record is None else record.status


def _plain(queue: str, view: UniqueKeyView) -> dict[str, Any]:
    return msgspec.to_builtins(view) | {"ref": reference(queue, view.job)}


def _row(queue: str, view: UniqueKeyView) -> tuple[object, ...]:
    return (
        *(view.kind, view.task, view.value, key_end(view)),
        *(reference(queue, view.job), time_of(view.first_ms), view.times),
    )
