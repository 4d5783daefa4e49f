"""How long after `kill -9` the jobs that were in flight run again."""

import asyncio
import os
import signal
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from statistics import quantiles
from typing import NamedTuple

from benchmarks.harness import app, processes
from benchmarks.harness.bench import Bench
from benchmarks.harness.server import Server
from benchmarks.harness.worker import Running, qcore_worker

#: In flight in each worker that is killed.
JOBS = 20
KILLS = 50
LEASE_S, MIN_LEASE_S = 30.0, 1.5
#: Whole workers that are killed, at different times of the 10 s between two renewals.
HOSTS = 3
#: Counts in one moment what is ready, running, scheduled and dead: jobs move between these.
LEFT = """
return redis.call('LLEN', KEYS[1]) + redis.call('ZCARD', KEYS[2]) + redis.call('ZCARD', KEYS[3])
  + redis.call('ZCARD', KEYS[4])
"""
KEYS = [f"{{qcore:default}}:{key}" for key in ("ready", "active", "scheduled", "dead")]


class Start(NamedTuple):
    """A run of a job, as its journal has it."""

    job: int
    pid: int
    at: float


def run(bench: Bench) -> None:
    bench.once()
    kills = max(2, round(KILLS * bench.options.scale))
    for who, number in (("replaced", 1), ("sibling", 2)):
        took = [second for _ in range(kills) for second in _kill_process(bench, number)]
        _emit(bench, who, took, 1000, "ms", kills=kills, processes=number)
    lease_s = max(MIN_LEASE_S, LEASE_S * bench.options.scale)
    took = _kill_hosts(bench, lease_s)
    _emit(bench, "another host", took, 1, "s", kills=HOSTS, lease_s=lease_s)


def _kill_process(bench: Bench, number: int) -> list[float]:
    """Kill one worker process under a supervisor that has seen none die: it backs off later on."""
    with (
        bench.folder() as folder,
        bench.server() as server,
        _start(server, folder, "log", processes=number) as command,
    ):
        command.ready(number)
        asyncio.run(_enqueue(server, range(JOBS)))
        starts = command.until(lambda: _starts(folder, JOBS), 30)
        (victim, _), *_ = Counter(start.pid for start in starts).most_common(1)
        os.kill(victim, signal.SIGKILL)
        return _await_second_runs(command, server, folder, {victim: time.monotonic()})


def _kill_hosts(bench: Bench, lease_s: float) -> list[float]:
    """Kill workers with their supervisors, while another worker has nothing to do."""
    with ExitStack() as stack:
        folder, server = stack.enter_context(bench.folder()), stack.enter_context(bench.server())
        victims: list[Running] = []
        for i in range(HOSTS):
            victim = _start(server, folder, f"log-{i}", concurrency=JOBS, lease_s=lease_s)
            victims.append(stack.enter_context(victim))
            victims[i].ready(1)
            asyncio.run(_enqueue(server, range(i * JOBS, (i + 1) * JOBS)))
            victims[i].until(lambda full=(i + 1) * JOBS: _starts(folder, full), 30)
        successor = stack.enter_context(_start(server, folder, "log", lease_s=lease_s))
        successor.ready(1)
        killed: dict[int, float] = {}
        for victim in victims:
            pids = processes.tree(victim.process.pid)
            for pid in pids:  # the supervisor first: it would take the jobs back
                os.kill(pid, signal.SIGKILL)
            killed |= dict.fromkeys(pids, time.monotonic())
            time.sleep(lease_s / 3 / HOSTS)
        return _await_second_runs(successor, server, folder, killed)


def _start(
    server: Server,
    folder: Path,
    log: str,
    *,
    processes: int = 1,
    concurrency: int = 100,
    lease_s: float = LEASE_S,
) -> Running:
    return qcore_worker(
        "benchmarks.harness.app:app",
        server.url,
        folder / log,
        processes=processes,
        concurrency=concurrency,
        env={app.FOLDER: str(folder)},
        more=("--lease", f"{lease_s:g}"),
    )


async def _enqueue(server: Server, numbers: range) -> None:
    app.app.configure(url=server.url)
    async with app.app:
        await app.hold.enqueue_many((n,) for n in numbers)


def _starts(folder: Path, least: int) -> list[Start]:
    """Return all runs so far, if there are enough of them."""
    path = folder / "journal"
    rows = [line.split() for line in path.read_text().splitlines()] if path.exists() else []
    starts = [Start(int(job), int(pid), float(at)) for job, pid, at in rows]
    return starts if len(starts) >= least else []


def _await_second_runs(
    command: Running, server: Server, folder: Path, killed: Mapping[int, float]
) -> list[float]:
    """Let all jobs end; return how long after the death of its worker each one ran again."""
    firsts = {start.job: start for start in reversed(_starts(folder, 0))}
    lost = {job for job, start in firsts.items() if start.pid in killed}
    (folder / "over").touch()
    command.until(lambda: server.ask("EVAL", LEFT, len(KEYS), *KEYS) == 0, 120)
    starts = _starts(folder, 0)
    runs = Counter(start.job for start in starts)
    if any(runs[job] != (2 if job in lost else 1) for job in firsts):
        raise RuntimeError(f"{len(lost)} of {len(firsts)} jobs lost their worker; runs: {runs}")
    last = {start.job: start.at for start in starts}
    return [last[job] - killed[firsts[job].pid] for job in lost]


def _emit(
    bench: Bench, case: str, took: list[float], scale: float, unit: str, **facts: float
) -> None:
    cuts = quantiles(took, n=100, method="inclusive")
    for name, value in (("p50", cuts[49]), ("p99", cuts[98]), ("most", max(took))):
        facts |= {"jobs": len(took)}
        bench.emit(f"{case}: {name}", "qcore", value * scale, unit, process="qcore worker", **facts)
