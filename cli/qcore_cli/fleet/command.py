"""`qcore status` and `qcore restart`: who works, and how to make all of them run the new code."""

from typing import Annotated, Any

import msgspec
import typer

from qcore import BrokerError, ConfigError
from qcore.broker.redis.broker import Broker
from qcore.broker.redis.fleet import Fleet, namespaces_near
from qcore.broker.redis.inspector import Inspector
from qcore.broker.redis.urls import where_is
from qcore.environment import broker_config
from qcore.model.views import Member, QueueStats
from qcore_cli.fleet.rollout import Entry, Outcome, Rollout, Target, shown_rollout
from qcore_cli.fleet.view import FleetState, Neighbour, state_of_fleet, status_lines
from qcore_cli.format import print_json
from qcore_cli.options import AsJson, Namespace, Url, seconds_of, with_broker
from qcore_cli.terminal import echo, printable

#: Exit code: nobody works, or nobody is concerned.
NONE = 4
_CODES = {FleetState.RUNNING: 0, FleetState.PAUSED: 3}
#: `restart --wait` gives up after so long, unless told otherwise.
_WAIT_S = 600.0


def status(as_json: AsJson = False, url: Url = None, namespace: Namespace = None) -> None:
    """Show supervisors, their workers and what runs, the queues that are held up, what is wrong.

    Exit code 0: running, 3: paused, all workers or all of their queues; 4: nobody works.
    """

    async def read(
        broker: Broker,
    ) -> tuple[list[Member], list[QueueStats], list[Neighbour], str]:
        found = await Inspector(broker).queues()
        held = [q for q in found if q.paused is not None or q.closed_ms is not None]
        members = await Fleet(broker).members()
        near = [] if members else await _neighbours(broker)
        return members, held, near, Inspector(broker).where

    members, held, near, where = with_broker(broker_config(url, namespace), read)
    state = state_of_fleet(members, {queue.name for queue in held if queue.paused is not None})
    if as_json:
        shown = [_plain(member) for member in members]
        said = {"state": state, "supervisors": shown, "held": held, "elsewhere": near}
        print_json(msgspec.to_builtins(said))
    else:
        for line in status_lines(state, members, held, where, near):
            echo(printable(line))
    raise typer.Exit(_CODES.get(state, NONE))


async def _neighbours(broker: Broker) -> list[Neighbour]:
    """Return the namespaces beside this one in which somebody works or jobs wait."""
    near: list[Neighbour] = []
    for name in await namespaces_near(broker):
        other = Broker(msgspec.structs.replace(broker.config, namespace=name))
        try:
            members = [m for m in await Fleet(other).members() if not m.is_silent]
            waiting = sum(q.ready + q.scheduled for q in await Inspector(other).queues())
        except BrokerError:
            continue
        finally:
            await other.close()
        if members or waiting:
            near.append(Neighbour(namespace=name, supervisors=len(members), waiting=waiting))
    return near


def restart(
    wait: Annotated[bool, typer.Option("--wait", help="Return when all have restarted.")] = False,
    timeout: Annotated[
        float | None,
        typer.Option(
            parser=seconds_of, metavar="TIME", help="With --wait: so long at most; else 10m."
        ),
    ] = None,
    host: Annotated[str | None, typer.Option(help="Only supervisors of this host.")] = None,
    queue: Annotated[
        str | None, typer.Option(help="Only supervisors that serve this queue.")
    ] = None,
    leave: Annotated[
        bool,
        typer.Option("--exit", help="They end after a drain, for their manager to start anew."),
    ] = False,
    as_json: AsJson = False,
    url: Url = None,
    namespace: Namespace = None,
) -> None:
    """Replace every worker process, one at a time, by one that runs the code on disk now.

    With --exit and --wait done is when each supervisor that left was started anew, and has a
    worker that is ready. Exit code 0: ordered, or with --wait done; 1: some have not restarted;
    4: nobody is concerned.
    """
    if timeout is not None and not wait:
        raise ConfigError("--timeout needs --wait: without it the command only gives the order")
    timeout_s = _WAIT_S if timeout is None else timeout
    target = _target(host, queue, leave=leave)
    config = broker_config(url, namespace)

    async def act(rollout: Rollout) -> list[Entry]:
        entries = await rollout.begin()
        if entries and wait:
            entries = await shown_rollout(rollout, entries, timeout_s, quiet=as_json)
        return entries

    entries = with_broker(config, lambda broker: act(Rollout(Fleet(broker), target)))
    if as_json:
        print_json({"supervisors": [msgspec.to_builtins(entry) for entry in entries]})
    elif not wait:
        for entry in entries:
            echo(printable(f"ordered: {entry.who}"))
    if not entries:
        echo(
            printable(
                f"qcore: no supervisor {target.words} is there to restart, {where_is(config)}; "
                "`qcore status` names all"
            ),
            err=True,
        )
        raise typer.Exit(NONE)
    late = [entry for entry in entries if entry.outcome not in target.good]
    if wait and late:
        said = "; ".join(f"{entry.who}: {_why_not(entry)}" for entry in late)
        echo(printable(f"qcore: not restarted: {said}"), err=True)
        raise typer.Exit(1)


def _target(host: str | None, queue: str | None, *, leave: bool) -> Target:
    for option, value in (("--host", host), ("--queue", queue)):
        if value == "":  # as from a variable that is not set
            raise ConfigError(f"{option} is empty: name one, or leave it out to restart all")
    return Target(host or "", queue or "", leave)


def _why_not(entry: Entry) -> str:
    if entry.outcome is Outcome.LEFT:
        return "left, and nobody started it anew"
    return entry.said


def _plain(member: Member) -> dict[str, Any]:
    plain = {
        "id": member.id,
        "silent_s": member.silent_s,
        "silent": member.is_silent,
        "started_ms": member.started_ms,
        **msgspec.to_builtins(member.view),
    }
    del plain["machine"]  # for supervisors to know each other by
    return plain
