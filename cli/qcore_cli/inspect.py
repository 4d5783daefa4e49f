"""`qcore queues`, `qcore jobs`, `qcore dead`, `qcore clear`: what is in Redis, and repairs."""

from typing import Annotated, Any

import msgspec
import typer

from qcore import ConfigError
from qcore.broker.inspector import Inspector, JobRecord, QueueStats
from qcore.model.job import Death
from qcore_cli.options import (
    AsJson,
    Namespace,
    Url,
    Yes,
    check_queue,
    confirm,
    print_json,
    print_table,
    seconds_of,
    shown_time,
    split_refs,
    state_of,
    with_inspector,
)
from qcore_cli.terminal import echo, printable

jobs = typer.Typer(help="Look at single jobs.", no_args_is_help=True)
#: Of a reason in a table.
_REASON_CHARS = 100

dead = typer.Typer(help="Jobs that will not run again by themselves.", no_args_is_help=True)

Ref = Annotated[str, typer.Argument(help="QUEUE/ID, as printed everywhere.")]
Queue = Annotated[str, typer.Argument(help="Name of a queue.")]


def queues(
    names: Annotated[list[str] | None, typer.Argument(help="Only these.")] = None,
    as_json: AsJson = False,
    url: Url = None,
    namespace: Namespace = None,
) -> None:
    """Show the depth of every queue, the age of its next job, and whether it is held up."""

    async def read(inspector: Inspector) -> list[QueueStats]:
        for name in names or ():
            await check_queue(inspector, name)
        return await inspector.queues(names or None)

    found = with_inspector(url, namespace, read)
    if as_json:
        print_json(msgspec.to_builtins(found))
    elif not found:
        echo("No queue has been used yet in this namespace.")
    else:
        print_table(
            ("QUEUE", "READY", "SUSPECTS", "SCHEDULED", "ACTIVE", "DEAD", "OLDEST READY", "STATE"),
            [
                (
                    *(q.name, q.ready, q.suspects, q.scheduled, q.active, q.dead),
                    *(_age(q.oldest_ready_s), state_of(q)),
                )
                for q in found
            ],
        )


@jobs.command("show")
def jobs_show(
    ref: Ref, as_json: AsJson = False, url: Url = None, namespace: Namespace = None
) -> None:
    """Show everything known about one job."""
    _show(_find(ref, url, namespace), as_json)


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
        raise ConfigError(f"there is no trace of {', '.join(unknown)}")


@dead.command("list")
def dead_list(
    queue: Queue,
    limit: Annotated[int, typer.Option(min=1, max=500, help="At most so many.")] = 50,
    skip: Annotated[int, typer.Option(min=0, help="Pass over so many first.")] = 0,
    as_json: AsJson = False,
    url: Url = None,
    namespace: Namespace = None,
) -> None:
    """List dead jobs of a queue, the latest death first."""

    async def read(inspector: Inspector) -> list[JobRecord]:
        await check_queue(inspector, queue)
        return await inspector.dead(queue, limit=limit, skip=skip)

    records = with_inspector(url, namespace, read)
    if as_json:
        print_json([_plain(record) for record in records])
    elif not records:
        echo(f"No dead jobs in {queue}.")
    else:
        print_table(
            ("JOB", "TASK", "DIED", "ATTEMPTS", "REASON"),
            [
                (
                    f"{r.queue}/{r.id}",
                    r.task or "-",
                    _time(r.at_ms),
                    r.attempts,
                    _shortened(r.reason or ""),
                )
                for r in records
            ],
        )


@dead.command("show")
def dead_show(
    ref: Ref, as_json: AsJson = False, url: Url = None, namespace: Namespace = None
) -> None:
    """Show a dead job with the error of every attempt."""
    record = _find(ref, url, namespace)
    if record.status != "dead":
        raise ConfigError(f"job {ref} is not dead, it is {record.status}: use `qcore jobs show`")
    _show(record, as_json)
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
    if queue is not None:
        confirm(f"Revive every dead job of {queue}?", yes=yes)

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
        echo(f"Revived {len(revived)}.")
    if missed:
        raise ConfigError(f"not dead, or without payload: {', '.join(missed)}")


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
    confirm(
        f"Forget {'every dead job of ' + queue if queue else len(refs or [])} for ever?", yes=yes
    )

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
        echo(f"Purged {purged}.")


def clear(
    queue: Queue,
    yes: Yes = False,
    as_json: AsJson = False,
    url: Url = None,
    namespace: Namespace = None,
) -> None:
    """Cancel every ready and scheduled job of a queue; what runs goes on."""
    confirm(f"Cancel every waiting job of {queue}?", yes=yes)

    async def act(inspector: Inspector) -> int:
        await check_queue(inspector, queue)
        return await inspector.clear(queue)

    cleared = with_inspector(url, namespace, act)
    if as_json:
        print_json({"cleared": cleared})
    else:
        echo(f"Cleared {cleared}.")


# -- how a job is shown ------------------------------------------------------------------------


def _find(ref: str, url: str | None, namespace: str | None) -> JobRecord:
    ((queue, ids),) = split_refs([ref]).items()
    record = with_inspector(url, namespace, lambda inspector: inspector.job(queue, ids[0]))
    if record is None:
        raise ConfigError(
            f"there is no job {ref}: the id, --url or --namespace is wrong, or the job has ended "
            "and its outcome is no longer kept"
        )
    return record


def _show(record: JobRecord, as_json: bool) -> None:
    plain = _plain(record)
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
    except (msgspec.MsgspecError, ValueError, TypeError):
        return raw.hex()


def _one_of(refs: list[str] | None, queue: str | None) -> None:
    if bool(refs) == (queue is not None):
        raise ConfigError("name the jobs as QUEUE/ID, or a queue with --all-of, not both")


def _time(ms: int | None) -> str:
    return "-" if ms is None else shown_time(ms)


def _shortened(reason: str) -> str:
    return reason if len(reason) <= _REASON_CHARS else reason[: _REASON_CHARS - 1] + "…"


def _age(age_s: float | None) -> str:
    if age_s is None:
        return "-"
    if age_s < 120:
        return f"{age_s:.1f} s"
    return f"{age_s / 60:.0f} min" if age_s < 7200 else f"{age_s / 3600:.1f} h"
