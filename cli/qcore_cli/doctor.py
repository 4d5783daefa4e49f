"""`qcore doctor`: one line per check of a set-up, and the remedy of each fault."""

import shutil
import sys
import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Annotated

import msgspec
import typer

from qcore import ConfigError
from qcore.broker.redis.broker import Broker
from qcore.broker.redis.epoch import check_losses
from qcore.broker.redis.fleet import Fleet
from qcore.broker.redis.inspector import Inspector
from qcore.broker.redis.job_audit import Horizon, audit, repair
from qcore.broker.redis.queue_checks import (
    QueueReading,
    check_queue,
    check_room,
    check_served,
    read_queues,
)
from qcore.broker.redis.server_checks import check_clocks, check_server, read_info, read_server
from qcore.broker.redis.unknown_tasks import check_declared, check_tasks
from qcore.environment import broker_config, wants_color
from qcore.errors import BrokerError, BrokerRefused, BrokerUnavailable
from qcore.model.findings import Finding, Level, fault, ok
from qcore.settings import WorkerConfig, check_stall
from qcore_cli.child import Description
from qcore_cli.describe import describe
from qcore_cli.format import counted, print_json
from qcore_cli.options import AsJson, Namespace, Url, Yes, confirm, with_broker
from qcore_cli.terminal import echo, printable
from qcore_cli.worker import Lease, ShutdownTimeout, Stall

_COLORS = {Level.OK: "green", Level.WARNING: "yellow", Level.FAULT: "red"}
#: Columns of the level; the check is as wide as it needs, up to a limit.
_LEVEL, _CHECK_MAX = 9, 20


def doctor(
    app: Annotated[
        str | None, typer.Argument(help="MODULE:NAME: also check the timeouts of its tasks.")
    ] = None,
    shutdown_timeout: ShutdownTimeout = 30.0,
    lease: Lease = 30.0,
    stall: Stall = None,
    mend: Annotated[
        bool,
        typer.Option("--repair", help="Mend each job that commands are named for."),
    ] = False,
    yes: Yes = False,
    as_json: AsJson = False,
    url: Url = None,
    namespace: Namespace = None,
) -> None:
    """Check Redis, the timeouts and every job in the queues; exit code 1 when there is a fault.

    Changes nothing without --repair. --lease, --stall and --shutdown-timeout are those of your
    `qcore worker`.
    """
    described = None if app is None else describe(app, url, namespace)
    if described is None:
        described = Description((), (), broker_config(url, namespace), {})
    worker, clocks = _settings(described, lease, shutdown_timeout, stall)
    if app is not None:
        clocks += check_declared(described.timeouts)
    look = partial(_examine, worker=worker, clocks=clocks, described=described)
    mended = _repair(described, worker, yes=yes) if mend else []
    findings = [*with_broker(described.broker, look), *mended]
    if as_json:
        print_json([msgspec.to_builtins(finding) for finding in findings])
    else:
        _print(findings)
    raise typer.Exit(1 if _count(findings, Level.FAULT) else 0)


def _settings(
    described: Description, lease: float, shutdown_timeout: float, stall: float | None
) -> tuple[WorkerConfig, list[Finding]]:
    """Return the settings of `qcore worker`, the defaults if it would refuse them; and findings."""
    queues = described.queues or ("default",)
    try:
        worker = WorkerConfig.for_lease(lease, queues=queues, shutdown_timeout_s=shutdown_timeout)
        check_stall(worker.stall_s if stall is None else stall, worker)
    except ConfigError as e:
        refused = fault("timeouts", f"{e}: qcore worker will not start", "Correct that option.")
        return WorkerConfig(queues=queues), [refused]
    return worker, check_clocks(worker, described.broker.call_timeout_s, described.timeouts)


async def _examine(
    broker: Broker, *, worker: WorkerConfig, clocks: list[Finding], described: Description
) -> list[Finding]:
    """Return all findings: of the server, of the settings, and of each queue."""
    findings: list[Finding] = []
    try:
        findings += check_server(await read_server(broker, await _info(broker)))
        findings += clocks
        names = sorted({*described.queues, *await Inspector(broker).names()})
        findings += await check_losses(broker, names)
        for name in names:
            findings += await _examine_queue(broker, name, worker, described)
        return findings if names else [*findings, ok("queues", "none has been used yet")]
    except BrokerError as e:
        said, _, remedy = str(e).partition("; ")
        remedy = f"{remedy or 'mend that, then run this command again'}."
        broken = fault("queues" if findings else "reachable", said, remedy[0].upper() + remedy[1:])
        return [*findings, broken] if findings else [broken, *clocks]


async def _examine_queue(
    broker: Broker, name: str, worker: WorkerConfig, described: Description
) -> list[Finding]:
    try:
        (reading,) = await read_queues(broker, [name])
        horizon = await _horizon(broker, reading, worker)
        served = check_queue(reading, worker)
        if all(finding.level is Level.OK for finding in served):
            members = [m for m in await Fleet(broker).members() if not m.is_silent]
            names = {queue for member in members for queue in member.view.queues}
            served = check_served(reading, names, Inspector(broker).where) or served
        findings = [*served, *check_room(reading), *await audit(broker, name, horizon)]
        return [*findings, *await check_tasks(broker, name, described.timeouts.keys())]
    except (BrokerUnavailable, BrokerRefused):
        raise
    except BrokerError as e:  # a key of another type: the others can be looked at
        remedy = "Find the key that another program has written, with redis-cli TYPE; delete it."
        return [fault(f"queue {name}", f"it cannot be read: {e}", remedy)]


async def _horizon(broker: Broker, reading: QueueReading, worker: WorkerConfig) -> Horizon:
    workers = (w for member in await Fleet(broker).members() for w in member.view.workers)
    return Horizon(reading.now_ms + 2000 * worker.lease_s, {worker.owner for worker in workers})


def _repair(described: Description, worker: WorkerConfig, *, yes: bool) -> list[Finding]:
    """Mend what can be mended, after a question that says how much; return what was done."""

    async def act(broker: Broker, *, dry: bool) -> dict[str, Counter[str]]:
        mended: dict[str, Counter[str]] = {}
        for name in sorted({*described.queues, *await Inspector(broker).names()}):
            (reading,) = await read_queues(broker, [name])
            horizon = await _horizon(broker, reading, worker)
            mended[name] = await repair(broker, name, horizon, dry=dry)
        return {name: kinds for name, kinds in mended.items() if kinds}

    if not yes:
        found = with_broker(described.broker, partial(act, dry=True))
        count = sum(kinds.total() for kinds in found.values())
        if not count:
            return []
        confirm(f"Repair {_counted(count, 'job')} of {', '.join(found)}?", yes=yes)
    mended = with_broker(described.broker, partial(act, dry=False))
    return [ok(f"repair of {name}", _kinds(kinds)) for name, kinds in mended.items()]


def _kinds(kinds: Counter[str]) -> str:
    each = ", ".join(f"{count} of {kind}" for kind, count in kinds.most_common())
    return f"{kinds.total()} mended: {each}"


async def _info(broker: Broker) -> Mapping[str, str]:
    try:
        return await read_info(broker)
    except BrokerRefused:
        return {}


def _count(findings: Sequence[Finding], level: Level) -> int:
    return sum(finding.level is level for finding in findings)


def _print(findings: Sequence[Finding]) -> None:
    widths = [len(f.check) + 2 for f in findings if len(f.check) + 2 <= _CHECK_MAX]
    for finding in findings:
        _print_finding(finding, max(widths, default=0))
    faults, warnings = _count(findings, Level.FAULT), _count(findings, Level.WARNING)
    echo(f"\n{_counted(faults, 'fault')}, {_counted(warnings, 'warning')}.")
    if any(finding.commands for finding in findings):
        echo("Commands need the address: redis-cli -u URL or -s SOCKET, qcore --url URL.")


def _print_finding(finding: Finding, column: int) -> None:
    width = min(shutil.get_terminal_size().columns, 100)
    indent = " " * (_LEVEL + column)
    level = f"{finding.level:<{_LEVEL}}"
    if wants_color(sys.stdout):
        level = typer.style(level, fg=_COLORS[finding.level])
    lines = textwrap.wrap(printable(finding.said), width - len(indent))
    sys.stdout.write(level)
    check = printable(finding.check)
    echo(f"{check:<{column}}{lines.pop(0)}" if len(check) < column else check)
    remedy = textwrap.wrap(printable(finding.remedy), width - len(indent) - 3)
    for line in (*lines, *(f"{'   ' if i else '-> '}{line}" for i, line in enumerate(remedy))):
        echo(indent + line)
    for command in finding.commands:  # in one piece, to be copied
        echo(f"{' ' * _LEVEL}$ {printable(command)}")


def _counted(count: int, noun: str) -> str:
    return counted(count, noun) if count else f"no {noun}s"
