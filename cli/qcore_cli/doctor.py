"""`qcore doctor`: one line per check of a set-up, and the remedy of each fault."""

import shutil
import sys
import textwrap
from collections.abc import Mapping, Sequence
from typing import Annotated

import msgspec
import typer

from qcore import ConfigError
from qcore.broker.audit import audit, check_queue, read_queues
from qcore.broker.broker import Broker
from qcore.broker.examination import (
    Finding,
    Level,
    check_clocks,
    check_server,
    fault,
    ok,
    read_info,
    read_server,
)
from qcore.broker.inspector import Inspector
from qcore.config import WorkerConfig, broker_config, wants_color
from qcore.errors import BrokerError, BrokerRefused
from qcore_cli.child import Description
from qcore_cli.options import AsJson, Namespace, Url, print_json, with_broker
from qcore_cli.worker import Lease, ShutdownTimeout, describe, worker_config

_COLORS = {Level.OK: "green", Level.WARNING: "yellow", Level.FAULT: "red"}
#: Columns of the level; the check is as wide as it needs, up to a limit.
_LEVEL, _CHECK_MOST = 9, 20


def doctor(
    app: Annotated[
        str | None, typer.Argument(help="MODULE:NAME: also check the timeouts of its tasks.")
    ] = None,
    shutdown_timeout: ShutdownTimeout = 30.0,
    lease: Lease = 30.0,
    as_json: AsJson = False,
    url: Url = None,
    namespace: Namespace = None,
) -> None:
    """Check Redis, the timeouts and every job in the queues; exit code 1 when there is a fault.

    Changes nothing. --lease and --shutdown-timeout are those of your `qcore worker`.
    """
    described = None if app is None else describe(app, url, namespace)
    worker, refused = _settings(described, lease, shutdown_timeout)
    config = broker_config(url, namespace) if described is None else described.broker
    found = with_broker(config, lambda broker: _examine(broker, worker, described))
    findings = refused + found
    if as_json:
        print_json([msgspec.to_builtins(finding) for finding in findings])
    else:
        _print(findings)
    raise typer.Exit(1 if _count(findings, Level.FAULT) else 0)


def _settings(
    described: Description | None, lease: float, shutdown_timeout: float
) -> tuple[WorkerConfig, list[Finding]]:
    """Return the settings of `qcore worker`, and why it would refuse them; then the defaults."""
    queues = ("default",) if described is None else described.queues
    try:
        return worker_config(queues, lease=lease, shutdown_timeout=shutdown_timeout), []
    except ConfigError as e:
        refused = fault("timeouts", f"{e}: qcore worker will not start", "Correct that option.")
        return WorkerConfig(queues=queues), [refused]


async def _examine(
    broker: Broker, worker: WorkerConfig, described: Description | None
) -> list[Finding]:
    """Return the findings in the order in which they are best read; a later one needs Redis."""
    timeouts = {} if described is None else described.timeouts
    findings: list[Finding] = []
    try:
        findings += check_server(await read_server(broker, await _info(broker)))
        findings += check_clocks(worker, broker.config.call_timeout_s, timeouts)
        declared = () if described is None else described.queues
        names = sorted({*declared, *await Inspector(broker).names()})
        for reading in await read_queues(broker, names):
            findings += check_queue(reading, worker)
            findings += await audit(broker, reading.name)
        return findings if names else [*findings, ok("queues", "none has been used yet")]
    except BrokerError as e:
        said, _, remedy = str(e).partition("; ")
        remedy = f"{remedy or 'mend that, then run this command again'}."
        check = "queues" if findings else "reachable"
        return [*findings, fault(check, said, remedy[0].upper() + remedy[1:])]


async def _info(broker: Broker) -> Mapping[str, str]:
    try:
        return await read_info(broker)
    except BrokerRefused:
        return {}


def _count(findings: Sequence[Finding], level: Level) -> int:
    return sum(finding.level is level for finding in findings)


def _print(findings: Sequence[Finding]) -> None:
    widths = [len(f.check) + 2 for f in findings if len(f.check) + 2 <= _CHECK_MOST]
    for finding in findings:
        _print_finding(finding, max(widths, default=0))
    faults, warnings = _count(findings, Level.FAULT), _count(findings, Level.WARNING)
    typer.echo(f"\n{_counted(faults, 'fault')}, {_counted(warnings, 'warning')}.")
    if any(finding.commands for finding in findings):
        typer.echo("They need the address: redis-cli -u URL or -s SOCKET, qcore --url URL.")


def _print_finding(finding: Finding, column: int) -> None:
    width = min(shutil.get_terminal_size().columns, 100)
    indent = " " * (_LEVEL + column)
    level = f"{finding.level:<{_LEVEL}}"
    if wants_color(sys.stdout):
        level = typer.style(level, fg=_COLORS[finding.level])
    lines = textwrap.wrap(finding.said, width - len(indent))
    if len(finding.check) < column:
        typer.echo(f"{level}{finding.check:<{column}}{lines.pop(0)}")
    else:
        typer.echo(f"{level}{finding.check}")
    remedy = textwrap.wrap(finding.remedy, width - len(indent) - 3)
    for line in (*lines, *(f"{'   ' if i else '-> '}{line}" for i, line in enumerate(remedy))):
        typer.echo(indent + line)
    for command in finding.commands:  # in one piece, to be copied
        typer.echo(f"{' ' * _LEVEL}$ {command}")


def _counted(count: int, noun: str) -> str:
    return f"{count or 'no'} {noun}{'' if count == 1 else 's'}"
