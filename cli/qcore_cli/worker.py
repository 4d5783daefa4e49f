"""`qcore worker`: a supervisor with its worker processes."""

import asyncio
import math
import re
from collections.abc import Callable
from functools import partial
from typing import Annotated

import msgspec
import typer

from qcore import ConfigError
from qcore.broker.redis.broker import Broker
from qcore.broker.redis.server_checks import check_clocks
from qcore.broker.redis.unknown_tasks import check_declared
from qcore.model.findings import Level
from qcore.queue import check_weight, weights_of
from qcore.runtime.supervisor.endpoints import open_front
from qcore.runtime.supervisor.probes import patience_s
from qcore.runtime.supervisor.supervisor import Supervisor
from qcore.settings import TARGET_WAIT_S, BrokerConfig, SupervisorConfig, WorkerConfig
from qcore.telemetry import log
from qcore_cli.child import Description, worker_command
from qcore_cli.cores import usable_cores
from qcore_cli.describe import describe
from qcore_cli.logs import (
    LogFormat,
    LogLevel,
    LogStyle,
    columns_of_terminal,
    set_up_logging,
)
from qcore_cli.options import Namespace, Url, seconds_of
from qcore_cli.signals import obey_early_signals, obey_signals
from qcore_cli.terminal import echo

ShutdownTimeout = Annotated[
    float,
    typer.Option(
        parser=seconds_of,
        metavar="TIME",
        help="From the order to stop until everything is gone, as 90, 10m or 1h.",
    ),
]
Lease = Annotated[
    float,
    typer.Option(
        parser=seconds_of,
        metavar="TIME",
        help="Without renewal for so long, a job is given to others.",
    ),
]
Stall = Annotated[
    float | None,
    typer.Option(
        parser=seconds_of,
        metavar="TIME",
        help="A process whose event loop stands still for so long is killed; else 15, or less "
        "where the lease is short.",
    ),
]

Reconnect = Annotated[
    float,
    typer.Option(
        parser=seconds_of,
        metavar="TIME",
        help="While Redis is away, tries follow each other within this.",
    ),
]
CallTimeout = Annotated[
    float | None,
    typer.Option(
        parser=seconds_of,
        metavar="TIME",
        help="One call on Redis may take so long; else QCORE_CALL_TIMEOUT, else 5.",
    ),
]

_MEMORY = re.compile(r"(\d+(?:\.\d+)?)([MG])(?::(\d+(?:\.\d+)?)([MG]))?")
_RANGE = re.compile(r"([0-9]{1,6})\.\.([0-9]{1,6})")
_UNITS = {"M": 1024**2, "G": 1024**3}
#: A process that takes so much more than it may is killed, unless the option says when.
_KILL_SHARE = 1.5
#: What an interpreter may need to end when all else is done, on a loaded machine.
_LEAVING_S = 5.0


def worker(
    app: Annotated[str, typer.Argument(help="Where the App is: MODULE:NAME, as in tasks:app.")],
    processes: Annotated[
        str,
        typer.Option(
            help="Worker processes: a number, auto for one per core, or MIN..MAX by backlog."
        ),
    ] = "auto",
    target_wait: Annotated[
        float | None,
        typer.Option(
            parser=seconds_of,
            metavar="TIME",
            help="With MIN..MAX: so long jobs may wait before it adds processes; else 5.",
        ),
    ] = None,
    concurrency: Annotated[int, typer.Option(help="Jobs at a time in each process.")] = 100,
    threads: Annotated[int, typer.Option(help="Of these, jobs of `def` tasks.")] = 32,
    pool_size: Annotated[
        int, typer.Option(help='Of these, jobs of run_in="process" tasks, each in its process.')
    ] = 1,
    queues: Annotated[
        str | None, typer.Option(help="Queues, in order: a,b; or by weight: a:5,b:1; else all.")
    ] = None,
    shutdown_timeout: ShutdownTimeout = 30.0,
    lease: Lease = 30.0,
    stall: Stall = None,
    ready_timeout: Annotated[
        float,
        typer.Option(
            parser=seconds_of,
            metavar="TIME",
            help="A process that is not ready by then is killed: imports and lifespan count.",
        ),
    ] = 30.0,
    reconnect: Reconnect = 2.0,
    call_timeout: CallTimeout = None,
    max_jobs: Annotated[
        int | None, typer.Option(help="Replace a process after about so many jobs.")
    ] = None,
    max_time: Annotated[
        float | None,
        typer.Option(
            parser=seconds_of, metavar="TIME", help="Replace a process after about 90, 10m or 1h."
        ),
    ] = None,
    max_memory: Annotated[
        str | None,
        typer.Option(help="Replace a process that takes so much, as 400M; kill it above 400M:1G."),
    ] = None,
    health_port: Annotated[
        int | None, typer.Option(help="Serve /livez and /readyz over HTTP on this port.")
    ] = None,
    metrics_port: Annotated[
        int | None, typer.Option(help="Serve /metrics for Prometheus on this port.")
    ] = None,
    bind: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="Where both ports listen; else probes everywhere, metrics on 127.0.0.1.",
        ),
    ] = None,
    name: Annotated[
        str,
        typer.Option(
            help="Name of this supervisor in logs and status; its workers are NAME.1 and so on."
        ),
    ] = "",
    allow_eviction: Annotated[
        bool,
        typer.Option("--allow-eviction", help="Work on a Redis that deletes jobs when it is full."),
    ] = False,
    log_format: Annotated[LogFormat, typer.Option(help="Log lines.")] = LogFormat.CONSOLE,
    log_level: Annotated[
        LogLevel, typer.Option(help="The least that is logged, of tasks as well.")
    ] = LogLevel.INFO,
    print_stop_timeout: Annotated[
        bool,
        typer.Option(
            "--print-stop-timeout",
            help="Run nothing; print the seconds that a process manager must wait before it kills.",
        ),
    ] = False,
    url: Url = None,
    namespace: Namespace = None,
) -> None:
    """Run the jobs of an app until told to stop.

    SIGTERM or Ctrl-C: finish what runs, then leave. A second one: cancel what runs and give it
    back, nothing charged. SIGHUP: replace the processes one by one; when the terminal is closed:
    finish what runs, then leave. SIGTSTP: claim no more jobs; SIGCONT: go on. SIGUSR1: log what
    runs, with stacks.
    """
    style = LogStyle(log_format, log_level, columns_of_terminal())
    set_up_logging(style, everywhere={"supervisor": name} if name else None)
    if print_stop_timeout:
        echo(stop_timeout(shutdown_timeout))
        return
    obey_early_signals()
    described = describe(app, url, namespace)
    broker = described.broker
    if call_timeout is not None:
        broker = msgspec.structs.replace(broker, call_timeout_s=call_timeout)
    names, weights = _served(queues, described)
    config = WorkerConfig.for_lease(
        lease,
        queues=names,
        weights=weights,
        concurrency=concurrency,
        threads=threads,
        pool_size=pool_size,
        shutdown_timeout_s=shutdown_timeout,
        reconnect_s=reconnect,
    )
    recycle_bytes, kill_bytes = memory_limits(max_memory)
    least, most = process_range(processes)
    _check_target(target_wait, processes)
    supervision = SupervisorConfig(
        processes=least,
        max_processes=most,
        target_wait_s=TARGET_WAIT_S if target_wait is None else target_wait,
        stall_s=config.stall_s if stall is None else stall,
        ready_timeout_s=ready_timeout,
        name=name,
        allow_eviction=allow_eviction,
        max_jobs=max_jobs,
        max_time_s=max_time,
        max_memory_bytes=recycle_bytes,
        kill_memory_bytes=kill_bytes,
        health_port=health_port,
        metrics_port=metrics_port,
        bind=bind,
    )
    command = worker_command(app, style)
    doubt = partial(_doubt, app, described, broker, config)
    raise typer.Exit(asyncio.run(_supervise(broker, supervision, config, command, doubt=doubt)))


def _check_target(target_wait: float | None, processes: str) -> None:
    if target_wait is not None and ".." not in processes:
        raise ConfigError(
            f"--target-wait needs a range of processes, and --processes is {processes}: give "
            "MIN..MAX, as 1..8, or leave --target-wait out"
        )


def stop_timeout(shutdown_timeout: float) -> int:
    """Return what a process manager must grant between SIGTERM and SIGKILL, in whole seconds.

    Raises:
        ConfigError: the shutdown timeout is out of its range.
    """
    checked = WorkerConfig(queues=("any",), shutdown_timeout_s=shutdown_timeout)
    return math.ceil(checked.shutdown_timeout_s + _LEAVING_S)


def _doubt(app: str, described: Description, broker: BrokerConfig, config: WorkerConfig) -> None:
    """Say what may be a mistake in settings that can be worked with."""
    for finding in check_clocks(config, broker.call_timeout_s, described.timeouts):
        if finding.level is not Level.OK:
            log.warning(
                "clocks.doubted", what=finding.check, why=finding.said, remedy=finding.remedy
            )
    if not described.timeouts:
        (finding,) = check_declared(())
        log.warning("tasks.none", app=app, why=finding.said, remedy=finding.remedy)


async def _supervise(
    broker_config: BrokerConfig,
    supervision: SupervisorConfig,
    config: WorkerConfig,
    command: tuple[str, ...],
    *,
    doubt: Callable[[], None],
) -> int:
    broker = Broker(broker_config)
    supervisor = Supervisor(supervision, config, command=command, broker=broker)
    doubt()  # what cannot be worked with is refused by now, in one line
    obey_signals(supervisor)
    try:
        await broker.open()
        async with open_front(supervision, supervisor, broker, limit_s=patience_s(config)):
            return await supervisor.run()
    finally:
        await broker.close()


def _served(wanted: str | None, described: Description) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Return the queues to serve, and their weights if they have any."""
    if wanted is None:
        return described.queues, described.weights
    queues = [_queue_of(words) for each in wanted.split(",") if (words := each.strip())]
    names = tuple(name for name, _ in queues)
    for name in names:
        if name not in described.queues:
            raise ConfigError(
                f"--queues names {name!r}, which the app does not declare; it has "
                f"{', '.join(described.queues)}"
            )
    if len(set(names)) != len(names):
        raise ConfigError(f"--queues {wanted} names a queue twice")
    return names, weights_of(queues)


def _queue_of(words: str) -> tuple[str, int | None]:
    """Return name and weight of NAME or NAME:WEIGHT."""
    name, colon, weight = words.partition(":")
    if not colon:
        return name, None
    if not re.fullmatch("[0-9]{1,9}", weight.strip()):  # int() raises for thousands of digits
        raise ConfigError(f"--queues, queue {name}: give a weight as a whole number: {name}:5")
    return name.strip(), check_weight(name.strip(), int(weight))


def count_processes(text: str) -> int:
    """Return a number of processes from `auto` or digits."""
    if text == "auto":
        return usable_cores()
    if text.isascii() and text.isdigit() and int(text) > 0:
        return int(text)
    raise ConfigError(f"--processes is {text!r}: give a number from 1 on, or auto")


def process_range(text: str) -> tuple[int, int]:
    """Return the least and the most processes, from `MIN..MAX` or what `count_processes` takes."""
    if ".." not in text:
        count = count_processes(text)
        return count, count
    found = _RANGE.fullmatch(text)
    least, most = (int(found[1]), int(found[2])) if found else (0, 0)
    if not 1 <= least <= most:
        raise ConfigError(
            f"--processes is {text!r}: give MIN..MAX with MIN from 1 on and MAX not below it, "
            "as 1..8; one worker must be there to make scheduled jobs ready"
        )
    return least, most


def memory_limits(text: str | None) -> tuple[int | None, int | None]:
    """Return what `--max-memory` says: the bytes to be replaced at, and those to be killed at."""
    if text is None:
        return None, None
    found = _MEMORY.fullmatch(text)
    if found is None:
        raise ConfigError(
            f"--max-memory is {text!r}: give 400M or 1.5G, or 400M:1G to kill above 1G"
        )
    soft = int(float(found[1]) * _UNITS[found[2]])
    if found[3] is None:
        return soft, round(soft * _KILL_SHARE)
    return soft, int(float(found[3]) * _UNITS[found[4]])
