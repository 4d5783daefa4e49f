"""`qcore dead`: jobs that will not run again by themselves."""

import shutil
from typing import Annotated

import typer

from qcore import ConfigError
from qcore.broker.contract import Revived
from qcore.broker.redis.inspector import Inspector
from qcore.model.reference import reference
from qcore.model.views import JobRecord
from qcore_cli.asking import all_of, say_done, stats_of
from qcore_cli.format import (
    counted,
    print_json,
    short_age,
)
from qcore_cli.job_view import find, plain_of, show, time_of
from qcore_cli.options import (
    AsJson,
    Commands,
    Namespace,
    Url,
    Yes,
    check_queue,
    confirm,
    seconds_of,
    split_refs,
    where_of,
    with_inspector,
)
from qcore_cli.terminal import echo, printable

_MIN_WIDTH = 40
#: So many jobs that were not revived are named.
_NAMED = 3
Ref = Annotated[str, typer.Argument(help="QUEUE/ID, as printed everywhere.")]
Queue = Annotated[str, typer.Argument(help="Name of a queue.")]

dead = typer.Typer(
    cls=Commands, help="Jobs that will not run again by themselves.", no_args_is_help=True
)


@dead.command("list")
def dead_list(
    queue: Queue,
    limit: Annotated[int, typer.Option(min=1, max=500, help="At most so many.")] = 50,
    skip: Annotated[int, typer.Option(min=0, help="Pass over so many first.")] = 0,
    all_: Annotated[bool, typer.Option("--all", help="All of them, however many.")] = False,
    as_json: AsJson = False,
    url: Url = None,
    namespace: Namespace = None,
) -> None:
    """List dead jobs of a queue, the latest death first."""

    async def read(inspector: Inspector) -> tuple[list[JobRecord], int, str]:
        await check_queue(inspector, queue)
        (stats,) = await inspector.queues([queue])
        records = await inspector.dead(queue, limit=limit, skip=skip)
        while all_ and (more := await inspector.dead(queue, limit=500, skip=skip + len(records))):
            records += more
        return records, stats.dead, inspector.where

    records, count, where = with_inspector(url, namespace, read)
    if as_json:
        print_json([plain_of(record) for record in records])
    elif not records and not skip:
        echo(printable(f"No dead jobs in {queue}, {where}."))
    else:
        width = max(_MIN_WIDTH, shutil.get_terminal_size().columns)
        for record in records:
            ref, tries = reference(record.queue, record.id), counted(record.attempts, "attempt")
            echo(printable(f"{ref}  {time_of(record.at_ms)}  {tries}"))
            said = printable(f"{record.task or '-'}  {record.reason or ''}")
            echo(f"  {said if len(said) <= width - 2 else said[: width - 3] + '…'}")
        if len(records) < count:
            echo(f"{len(records)} of {count:,}; see --limit, --skip and --all.")


@dead.command("show")
def dead_show(
    ref: Ref, as_json: AsJson = False, url: Url = None, namespace: Namespace = None
) -> None:
    """Show a dead job with the error of every attempt."""
    record, _ = find(ref, url, namespace)
    if record.status != "dead":
        raise ConfigError(f"job {ref} is not dead, it is {record.status}: use `qcore jobs show`")
    show(record, None, as_json)
    if not as_json:
        echo(f"\nRun it again: qcore dead revive {ref}\nForget it:    qcore dead purge {ref}")


@dead.command("revive")
def dead_revive(
    refs: Annotated[list[str] | None, typer.Argument(help="QUEUE/ID of each job.")] = None,
    queue: Annotated[str | None, typer.Option("--all-of", help="All dead of a queue.")] = None,
    yes: Yes = False,
    as_json: AsJson = False,
    url: Url = None,
    namespace: Namespace = None,
) -> None:
    """Put dead jobs back into their queue, with all attempts again."""
    _one_of(refs, queue)
    if queue is not None and not yes:
        count = with_inspector(url, namespace, lambda i: stats_of(i, queue)).dead
        confirm(f"Revive {all_of(count, 'dead job')} of {queue}?", yes=yes)

    async def act(inspector: Inspector) -> dict[str, Revived]:
        if queue is not None:
            await check_queue(inspector, queue)
            return {queue: await inspector.revive_all(queue)}
        named = split_refs(refs or [])
        return {name: await inspector.revive(name, ids) for name, ids in named.items()}

    done = with_inspector(url, namespace, act)
    revived = [reference(name, id) for name, ids in done.items() for id in ids]
    held = {
        reference(name, id): reference(name, holder)
        for name, ids in done.items()
        for id, holder in ids.held.items()
    }
    missed = sorted(set(refs or ()) - set(revived) - held.keys())
    if as_json:
        print_json({"revived": revived, "not_dead": missed, "held": held})
    elif revived or not held:
        say_done("Revived", len(revived), queue, url, namespace)
    said = [] if not held else [_held(held)]
    if missed:
        where = where_of(url, namespace)
        said.append(f"not dead in {where}, or without payload: {', '.join(missed)}")
    if said:
        raise ConfigError("; ".join(said))


def _held(held: dict[str, str]) -> str:
    """Say which jobs stay dead since others hold their unique keys, and what to do."""
    named = list(held.items())[:_NAMED]
    pairs = ", ".join(f"{ref} ({holder} holds it)" for ref, holder in named)
    more = f" and {len(held) - len(named):,} more" if len(held) > len(named) else ""
    return (
        f"not revived, since another job holds the unique key: {pairs}{more}; wait until that one "
        "has ended, or free the key, which `qcore jobs show` tells, with `qcore unique free`"
    )


@dead.command("purge")
def dead_purge(
    refs: Annotated[list[str] | None, typer.Argument(help="QUEUE/ID of each job.")] = None,
    queue: Annotated[str | None, typer.Option("--all-of", help="All dead of a queue.")] = None,
    older_than: Annotated[
        float | None,
        typer.Option(
            parser=seconds_of, metavar="TIME", help="With --all-of: dead for so long, as 90 or 7d."
        ),
    ] = None,
    yes: Yes = False,
    as_json: AsJson = False,
    url: Url = None,
    namespace: Namespace = None,
) -> None:
    """Forget dead jobs for ever."""
    _one_of(refs, queue)
    if older_than is not None and queue is None:
        raise ConfigError("--older-than needs --all-of QUEUE: jobs that are named go at any age")
    if not yes:
        what = counted(len(refs or []), "dead job")
        if queue is not None:
            count = with_inspector(url, namespace, lambda i: stats_of(i, queue)).dead
            what = f"{all_of(count, 'dead job')} of {queue}"
            if older_than is not None:
                what = f"of {what} those that have been dead for {short_age(older_than)}"
        confirm(f"Forget {what} for ever?", yes=yes)

    async def act(inspector: Inspector) -> int:
        if queue is not None:
            await check_queue(inspector, queue)
            return await inspector.purge(queue, older_than_s=older_than or 0.0)
        counts = [await inspector.purge(n, ids=i) for n, i in split_refs(refs or []).items()]
        return sum(counts)

    purged = with_inspector(url, namespace, act)
    if as_json:
        print_json({"purged": purged})
    else:
        say_done("Purged", purged, queue, url, namespace)
    if refs and purged < len(set(refs)):
        missed, where = len(set(refs)) - purged, where_of(url, namespace)
        raise ConfigError(f"{missed} of {len(set(refs))} were not dead in {where}")


def _one_of(refs: list[str] | None, queue: str | None) -> None:
    if bool(refs) == (queue is not None):
        raise ConfigError("name the jobs as QUEUE/ID, or a queue with --all-of, not both")
