"""`qcore bench`: what your Redis and your machine do, what limits them, and what to set."""

import secrets
from typing import Annotated

import typer

from qcore.environment import broker_config
from qcore.settings import WorkerConfig
from qcore_cli.bench.report import Settings
from qcore_cli.bench.run import Plan, run
from qcore_cli.bench.tasks import MAX_QUEUES, app
from qcore_cli.bench.view import Screen, Silent
from qcore_cli.options import AsJson, Url
from qcore_cli.worker import count_processes


def bench(
    payload: Annotated[
        int, typer.Option(min=0, max=120_000, help="Bytes that each job carries.")
    ] = 100,
    concurrency: Annotated[
        int, typer.Option(min=1, max=10_000, help="Jobs at a time in each process.")
    ] = 100,
    processes: Annotated[
        str, typer.Option(help="Worker processes: a number, or auto for one per core.")
    ] = "auto",
    queues: Annotated[
        int, typer.Option(min=1, max=MAX_QUEUES, help="Queues that share the jobs.")
    ] = 1,
    task_ms: Annotated[
        int, typer.Option(min=0, max=5_000, help="How long a job waits, on average.")
    ] = 0,
    seconds: Annotated[
        float, typer.Option(min=0.1, max=60, help="How long each of six measurements takes.")
    ] = 2.5,
    as_json: AsJson = False,
    url: Url = None,
    namespace: Annotated[
        str | None,
        typer.Option(help="Prefix of all keys, one never used before; else bench-RANDOM."),
    ] = None,
) -> None:
    """Measure enqueue, drain and latency on your Redis; name the bottleneck, and what to set.

    Takes some 20 seconds, puts at most 64 MiB into Redis, and removes it at the end.
    """
    plan = Plan(
        broker=broker_config(url, namespace or f"bench-{secrets.token_hex(4)}"),
        worker=WorkerConfig.for_lease(30.0, queues=app.queues[:queues], concurrency=concurrency),
        settings=Settings(
            payload_bytes=payload,
            concurrency=concurrency,
            processes=count_processes(processes),
            queues=queues,
            task_ms=task_ms,
            seconds=seconds,
            cores=count_processes("auto"),
        ),
    )
    raise typer.Exit(run(plan, Silent() if as_json else Screen()))
