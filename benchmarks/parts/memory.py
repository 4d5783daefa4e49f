"""The memory of a worker process through a million jobs."""

import asyncio
import time
from pathlib import Path

from benchmarks.harness import app, processes
from benchmarks.harness.bench import Bench
from benchmarks.harness.server import Server
from benchmarks.harness.worker import qcore_worker

JOBS = 1_000_000
READY, ACTIVE = "{qcore:default}:ready", "{qcore:default}:active"


def run(bench: Bench) -> None:
    """Let `qcore worker --processes 1` drain a full queue; the second figure is by the first."""
    bench.once()
    jobs = bench.jobs(JOBS)
    with bench.folder() as folder, bench.server() as server:
        asyncio.run(_enqueue(server, jobs))
        env, redis_s = {app.FOLDER: str(folder)}, server.cpu_s()
        with qcore_worker(
            "benchmarks.harness.app:app", server.url, folder / "log", env=env
        ) as command:
            (pid,) = command.ready(1)
            command.until(lambda: server.ask("LLEN", READY) <= jobs * 0.8, 300)
            early = processes.rss_bytes(pid)
            command.until(
                lambda: not (server.ask("LLEN", READY) or server.ask("ZCARD", ACTIVE)), 600
            )
            time.sleep(0.1)  # the reply to the last settle is on its way
            late, peak = processes.rss_bytes(pid), _peak_bytes(pid)
            used = {"worker_us": processes.cpu_s(pid), "redis_us": server.cpu_s() - redis_s}
        _check(folder, jobs)
    facts = {"jobs": jobs, "process": "qcore worker --processes 1"}
    bench.emit("20 % of jobs", "qcore", early / 1e6, "MB", **facts)
    cpu = {name: seconds / jobs * 1e6 for name, seconds in used.items()}
    bench.emit("all jobs", "qcore", late / 1e6, "MB", base="20 % of jobs", **facts, **cpu)
    bench.emit("at most", "qcore", peak / 1e6, "MB", base="20 % of jobs", **facts)


async def _enqueue(server: Server, jobs: int) -> None:
    app.app.configure(url=server.url)
    async with app.app:
        await app.noop.enqueue_many(() for _ in range(jobs))


def _peak_bytes(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    (peak,) = (line.split()[1] for line in lines if line.startswith("VmHWM"))
    return int(peak) * 1024


def _check(folder: Path, jobs: int) -> None:
    runs = sum(int(path.read_text()) for path in folder.glob("runs-*"))
    if runs != jobs:
        raise RuntimeError(f"{jobs} jobs were enqueued and the queue is empty, after {runs} runs")
