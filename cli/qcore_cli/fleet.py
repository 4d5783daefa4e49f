"""`qcore status` and `qcore restart`: who works, and how to make all of them run the new code."""

from typing import Annotated, Any

import msgspec
import typer

from qcore.broker.broker import Broker
from qcore.broker.fleet import Fleet, Member
from qcore.broker.inspector import Inspector, QueueStats
from qcore.config import broker_config
from qcore.model.fleet import RollState, WorkerState, WorkerView
from qcore_cli.options import AsJson, Namespace, Url, print_json, short_age, state_of, with_broker
from qcore_cli.rollout import Entry, Outcome, Rollout, Target, shown_rollout

#: Exit codes: every living supervisor is quiet; none is there.
PAUSED, NONE = 3, 4


def status(as_json: AsJson = False, url: Url = None, namespace: Namespace = None) -> None:
    """Show supervisors, their workers and what runs, and the queues that are paused or closed.

    Exit code 0: some work, 3: all are quiet, 4: none is there.
    """

    async def read(broker: Broker) -> tuple[list[Member], list[QueueStats]]:
        found = await Inspector(broker).queues()
        held = [q for q in found if q.paused is not None or q.closed_ms is not None]
        return await Fleet(broker).members(), held

    members, held = with_broker(broker_config(url, namespace), read)
    state, code = _state(members)
    if as_json:
        shown = [_plain(member) for member in members]
        print_json({"state": state, "supervisors": shown, "held": msgspec.to_builtins(held)})
        raise typer.Exit(code)
    if not members:
        typer.echo("No supervisor runs in this namespace.")
    for member in members:
        _print_member(member)
    for queue in held:
        typer.echo(f"queue {queue.name}: {state_of(queue)}, {queue.ready} ready")
    raise typer.Exit(code)


def restart(
    wait: Annotated[bool, typer.Option("--wait", help="Return when all have restarted.")] = False,
    timeout: Annotated[float, typer.Option(min=0, help="With --wait: seconds at most.")] = 600.0,
    host: Annotated[str, typer.Option(help="Only supervisors of this host.")] = "",
    queue: Annotated[str, typer.Option(help="Only supervisors that serve this queue.")] = "",
    leave: Annotated[
        bool,
        typer.Option("--exit", help="They end after a drain, for their manager to start anew."),
    ] = False,
    as_json: AsJson = False,
    url: Url = None,
    namespace: Namespace = None,
) -> None:
    """Replace every worker process, one at a time, by one that runs the code on disk now.

    Exit code 0: ordered, or with --wait done; 1: some have not restarted; 4: nobody is concerned.
    """
    target = Target(host, queue, leave)
    config = broker_config(url, namespace)

    async def act(rollout: Rollout) -> list[Entry]:
        entries = await rollout.begin()
        if entries and wait:
            entries = await shown_rollout(rollout, entries, timeout, quiet=as_json)
        return entries

    entries = with_broker(config, lambda broker: act(Rollout(Fleet(broker), target)))
    if as_json:
        print_json({"supervisors": [msgspec.to_builtins(entry) for entry in entries]})
    elif not wait:
        for entry in entries:
            typer.echo(f"ordered: {entry.who}")
    if not entries:
        typer.echo(f"qcore: no supervisor {target.words} is there to restart", err=True)
        raise typer.Exit(NONE)
    late = [e for e in entries if e.outcome not in (Outcome.RESTARTED, Outcome.LEFT)]
    if wait and late:
        said = "; ".join(f"{entry.who}: {entry.said}" for entry in late)
        typer.echo(f"qcore: not restarted: {said}", err=True)
        raise typer.Exit(1)


def _state(members: list[Member]) -> tuple[str, int]:
    living = [member.view for member in members if not member.is_silent]
    if not living:
        return "none", NONE
    workers = [worker for view in living for worker in view.workers]
    if workers and all(worker.state is WorkerState.QUIET for worker in workers):
        return "paused", PAUSED
    return "running", 0


def _plain(member: Member) -> dict[str, Any]:
    return {
        "id": member.id,
        "silent_s": member.silent_s,
        "silent": member.is_silent,
        "started_ms": member.started_ms,
        **msgspec.to_builtins(member.view),
    }


def _print_member(member: Member) -> None:
    view = member.view
    state = f"silent for {short_age(member.silent_s)}" if member.is_silent else view.state
    typer.echo(
        f"{view.host}  {view.name}  pid {view.pid}  {state}  up {short_age(view.age_s)}  "
        f"{','.join(view.queues)}"
    )
    counts = view.processes
    if counts.least < counts.most:
        typer.echo(f"  processes {counts.now} of {counts.least}..{counts.most}")
    if view.roll.why:
        roll = view.roll
        line = f"  {roll.why}: {roll.state}, {roll.replaced} of {roll.workers} workers are new"
        if roll.state is RollState.FAILED:
            line += ": a new one did not get ready, the others stay until the next restart"
        typer.echo(line)
    for row in _table([_cells(worker) for worker in view.workers]):
        typer.echo(row)
    for worker in view.workers:
        for job in worker.oldest:
            task = job.task or "?"
            typer.echo(f"  {worker.name}  {short_age(job.age_s)}  {task}  {job.id}")
        if worker.leaves_for:
            typer.echo(f"  {worker.name}  pid {worker.pid} is replaced, {worker.leaves_for}")


_HEAD = ("WORKER", "PID", "STATE", "JOBS", "DONE", "RSS", "CPU", "UP", "CODE")


def _cells(worker: WorkerView) -> tuple[str, ...]:
    return (
        worker.name,
        str(worker.pid),
        worker.state,
        str(worker.running),
        str(worker.done),
        f"{worker.rss_bytes / 1e6:.0f} MB",
        f"{100 * worker.cpu:.0f} %",
        short_age(worker.age_s),
        worker.code,
    )


def _table(rows: list[tuple[str, ...]]) -> list[str]:
    """Return aligned lines, the names to the left and all else to the right."""
    lines = [_HEAD, *rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(_HEAD))]
    left = {0, 2}
    return [
        "  "
        + "  ".join(
            cell.ljust(width) if i in left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]
