"""`qcore queues`, `qcore jobs`, `qcore dead`, `qcore clear`: what is in Redis, and repairs."""

import shutil
from typing import Annotated, Any

import msgspec
import typer

from qcore import ConfigError
from qcore.broker.redis.broker import Broker
from qcore.broker.redis.fleet import Fleet
from qcore.broker.redis.inspector import Inspector
from qcore.config import broker_config
from qcore.model.job import Death
from qcore.model.views import JobRecord, QueueStats, RunsOn
from qcore_cli.options import (
    AsJson,
    Commands,
    Namespace,
    Url,
    Yes,
    by_depth,
    check_queue,
    confirm,
    counted,
    depth,
    print_json,
    print_table,
    seconds_of,
    short_age,
    shown_time,
    split_refs,
    state_of,
    where_of,
    with_broker,
    with_inspector,
)
from qcore_cli.terminal import echo, printable

jobs = typer.Typer(cls=Commands, help="Look at single jobs.", no_args_is_help=True)
_MIN_WIDTH = 40
#: Of more queues than this those that are empty are only counted.
_QUEUES = 20

dead = typer.Typer(
    cls=Commands, help="Jobs that will not run again by themselves.", no_args_is_help=True
)

Ref = Annotated[str, typer.Argument(help="QUEUE/ID, as printed everywhere.")]
Queue = Annotated[str, typer.Argument(help="Name of a queue.")]


def queues(
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
        print_table(
            (
                "QUEUE",
                "READY",
                "QUARANTINED",
                "SCHEDULED",
                "ACTIVE",
                "DEAD",
                "OLDEST READY",
                "STATE",
            ),
            [
                (
                    *(q.name, q.ready, q.quarantined, q.scheduled, q.active, q.dead),
                    *(_age(q.oldest_ready_s), state_of(q)),
                )
                for q in by_depth(shown)
            ],
        )
    if len(shown) < len(found):
        echo(f"{len(found)} queues, {len(found) - len(shown)} of them empty; --json lists all.")


@jobs.command("show")
def jobs_show(
    ref: Ref, as_json: AsJson = False, url: Url = None, namespace: Namespace = None
) -> None:
    """Show everything known about one job."""
    _show(*_find(ref, url, namespace), as_json)


@jobs.command("cancel")
def jobs_cancel(
    refs: Annotated[list[str], typer.Argument(help="QUEUE/ID of each job.")],
    as_json: AsJson = False,
    url: Url = None,
    namespace: Namespace = None,
) -> None:
    """Cancel jobs: what waits will not run, what runs is told to end."""

    async def act(inspector: Inspector) -> dict[str, str]:
        places: dict[str, str] = {}
        for name, ids in split_refs(refs).items():
            found = await inspector.cancel(name, ids)
            places |= {f"{name}/{id}": place for id, place in zip(ids, found, strict=True)}
        return places

    places = with_inspector(url, namespace, act)
    cancelled = [ref for ref, place in places.items() if place in ("scheduled", "ready")]
    asked = [ref for ref, place in places.items() if place == "active"]
    ended = [ref for ref, place in places.items() if place == "ended"]
    unknown = [ref for ref, place in places.items() if place == ""]
    if as_json:
        print_json({"cancelled": cancelled, "asked": asked, "ended": ended, "unknown": unknown})
    else:
        echo(f"Cancelled {len(cancelled)}.")
        if asked:
            echo(f"Asked {len(asked)} that run to end: {', '.join(asked)}")
        if ended:
            echo(f"Ended before: {', '.join(ended)}")
    if unknown:
        where = where_of(url, namespace)
        raise ConfigError(f"there is no trace in {where} of {', '.join(unknown)}")


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
        print_json([_plain(record) for record in records])
    elif not records and not skip:
        echo(printable(f"No dead jobs in {queue}, {where}."))
    else:
        width = max(_MIN_WIDTH, shutil.get_terminal_size().columns)
        for record in records:
            tries = counted(record.attempts, "attempt")
            echo(printable(f"{record.queue}/{record.id}  {_time(record.at_ms)}  {tries}"))
            said = printable(f"{record.task or '-'}  {record.reason or ''}")
            echo(f"  {said if len(said) <= width - 2 else said[: width - 3] + '…'}")
        if len(records) < count:
            echo(f"{len(records)} of {count:,}; see --limit, --skip and --all.")


@dead.command("show")
def dead_show(
    ref: Ref, as_json: AsJson = False, url: Url = None, namespace: Namespace = None
) -> None:
    """Show a dead job with the error of every attempt."""
    record, _ = _find(ref, url, namespace)
    if record.status != "dead":
        raise ConfigError(f"job {ref} is not dead, it is {record.status}: use `qcore jobs show`")
    _show(record, None, as_json)
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
        count = with_inspector(url, namespace, lambda i: _counts(i, queue)).dead
        confirm(f"Revive {_all(count, 'dead job')} of {queue}?", yes=yes)

    async def act(inspector: Inspector) -> list[str]:
        if queue is not None:
            await check_queue(inspector, queue)
            return [f"{queue}/{id}" for id in await inspector.revive_all(queue)]
        done: list[str] = []
        for name, ids in split_refs(refs or []).items():
            done += [f"{name}/{id}" for id in await inspector.revive(name, ids)]
        return done

    revived = with_inspector(url, namespace, act)
    missed = sorted(set(refs or ()) - set(revived))
    if as_json:
        print_json({"revived": revived, "not_dead": missed})
    else:
        _say_done("Revived", len(revived), queue, url, namespace)
    if missed:
        where = where_of(url, namespace)
        raise ConfigError(f"not dead in {where}, or without payload: {', '.join(missed)}")


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
            count = with_inspector(url, namespace, lambda i: _counts(i, queue)).dead
            what = f"{_all(count, 'dead job')} of {queue}"
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
        _say_done("Purged", purged, queue, url, namespace)
    if refs and purged < len(set(refs)):
        missed, where = len(set(refs)) - purged, where_of(url, namespace)
        raise ConfigError(f"{missed} of {len(set(refs))} were not dead in {where}")


def clear(
    queue: Queue,
    yes: Yes = False,
    as_json: AsJson = False,
    url: Url = None,
    namespace: Namespace = None,
) -> None:
    """Cancel every ready and scheduled job of a queue; what runs goes on."""
    if not yes:
        found = with_inspector(url, namespace, lambda i: _counts(i, queue))
        waiting = _all(found.ready + found.scheduled, "waiting job")
        confirm(f"Cancel {waiting} of {queue}?", yes=yes)

    async def act(inspector: Inspector) -> int:
        await check_queue(inspector, queue)
        return await inspector.clear(queue)

    cleared = with_inspector(url, namespace, act)
    if as_json:
        print_json({"cleared": cleared})
    else:
        _say_done("Cleared", cleared, queue, url, namespace)


async def _counts(inspector: Inspector, queue: str) -> QueueStats:
    await check_queue(inspector, queue)
    (stats,) = await inspector.queues([queue])
    return stats


def _say_done(
    done: str, count: int, queue: str | None, url: str | None, namespace: str | None
) -> None:
    """Say how many jobs were concerned, and where none was found in a queue."""
    if count or queue is None:
        echo(f"{done} {count:,}.")
    else:
        echo(printable(f"{done} 0: there is none in {queue} of {where_of(url, namespace)}."))


def _all(count: int, noun: str) -> str:
    return f"the {noun}" if count == 1 else f"all {count:,} {noun}s"


# -- how a job is shown ------------------------------------------------------------------------


def _find(ref: str, url: str | None, namespace: str | None) -> tuple[JobRecord, RunsOn | None]:
    ((queue, ids),) = split_refs([ref]).items()

    async def read(broker: Broker) -> tuple[JobRecord | None, RunsOn | None, str]:
        record = await Inspector(broker).job(queue, ids[0])
        owner = (record.token or "").partition(":")[0] if record else ""
        runs_on = await Fleet(broker).runs_on(owner, f"{queue}/{ids[0]}") if owner else None
        return record, runs_on, Inspector(broker).where

    record, runs_on, where = with_broker(broker_config(url, namespace), read)
    if record is None:
        raise ConfigError(
            f"there is no job {ref} in {where}: the id, --url or --namespace is wrong, or the job "
            "has ended and its outcome is no longer kept"
        )
    return record, runs_on


def _show(record: JobRecord, runs_on: RunsOn | None, as_json: bool) -> None:
    plain = _plain(record) | {"runs_on": msgspec.to_builtins(runs_on)}
    if as_json:
        print_json(plain)
        return
    rows = [
        ("job", f"{record.queue}/{record.id}"),
        ("status", record.status),
        ("task", record.task),
        ("arguments", plain["arguments"]),
        ("enqueued", _time(record.enqueued_ms)),
        (
            {"scheduled": "due", "active": "lease until"}.get(record.status, "died"),
            _time(record.at_ms),
        ),
        ("runs", None if runs_on is None else _runs(runs_on)),
        ("lease", record.token),
        ("attempts", record.attempts or None),
        ("crashes", record.crashes or None),
        ("reason", record.reason),
        ("result", plain["result"]),
    ]
    for name, value in rows:
        if value not in (None, "-"):
            echo(f"{name:<12} {printable(value)}")
    for death in record.deaths:
        echo(f"{'crash':<12} {printable(_crash(death))}")
    for error in record.errors:
        when = f"{_time(error.started_ms)}, {error.ended_ms - error.started_ms} ms"
        where = f"{when}, {error.host} pid {error.pid}"
        echo()
        echo(printable(f"attempt {error.attempt}  {error.kind}  {where}"))
        echo("  " + error.text.rstrip().replace("\n", "\n  "))


def _runs(on: RunsOn) -> str:
    since = "for a moment"
    if on.age_s is not None:
        since = f"for {short_age(on.age_s)}"
    elif on.max_s is not None:
        since = f"for less than {short_age(on.max_s)}"
    return f"on {on.host}, in {on.worker} (pid {on.pid}), {since}"


def _crash(death: Death) -> str:
    beside = "alone"
    if death.beside:
        more = "" if len(death.beside) == death.jobs - 1 else ", ..."
        beside = f"beside {death.jobs - 1}: {', '.join(death.beside)}{more}"
    return (
        f"{death.how}, pid {death.pid} of {death.worker} on {death.host}, memory at its "
        f"peak {death.peak_rss_bytes / 1e6:.0f} MB, {beside}"
    )


def _plain(record: JobRecord) -> dict[str, Any]:
    plain = msgspec.to_builtins(msgspec.structs.replace(record, payload=None, result=None))
    del plain["payload"]
    return plain | {
        "ref": f"{record.queue}/{record.id}",
        # in Redis these are arrays, to save their keys
        "errors": [msgspec.structs.asdict(error) for error in record.errors],
        "deaths": [msgspec.structs.asdict(death) for death in record.deaths],
        "arguments": _readable(record.payload),
        "result": _readable(None if record.result is None else bytes(record.result)),
    }


def _readable(raw: bytes | None) -> Any:
    """Return encoded arguments as they read, or bytes that are none as hexadecimal digits."""
    if raw is None:
        return None
    try:
        return msgspec.to_builtins(msgspec.msgpack.decode(raw))
    except (msgspec.MsgspecError, ValueError, TypeError, RecursionError):
        return raw.hex()


def _one_of(refs: list[str] | None, queue: str | None) -> None:
    if bool(refs) == (queue is not None):
        raise ConfigError("name the jobs as QUEUE/ID, or a queue with --all-of, not both")


def _time(ms: int | None) -> str:
    return "-" if ms is None else shown_time(ms)


def _age(age_s: float | None) -> str:
    if age_s is None:
        return "-"
    if age_s < 120:
        return f"{age_s:.1f} s"
    return f"{age_s / 60:.0f} min" if age_s < 7200 else f"{age_s / 3600:.1f} h"
