"""What a worker with nothing to do costs: commands, CPU, memory."""

import time

from benchmarks.harness import processes
from benchmarks.harness.app import FOLDER
from benchmarks.harness.bench import Bench
from benchmarks.harness.proxy import Proxy
from benchmarks.harness.worker import qcore_worker

APP = "benchmarks.harness.app:app"
#: The first sweep, at 5 s at the latest, uses each script once.
SETTLE_S = 6.0
#: Each chore comes at least once: the rarest, pruning, with every sixth sweep.
WATCH_S = 30.0


def run(bench: Bench) -> None:
    """Watch `qcore worker --processes 1`: its connections together bound those of each process."""
    bench.once()
    with (
        bench.folder() as folder,
        bench.server() as server,
        Proxy(server.port, counts=True) as proxy,
        qcore_worker(APP, proxy.url, folder / "log", env={FOLDER: str(folder)}) as command,
    ):
        (child,) = command.ready(1)
        pids = {"supervisor": command.process.pid, "worker": child}
        time.sleep(SETTLE_S * bench.options.scale)
        before, begin = proxy.traffic(), time.monotonic()
        cpu = {name: processes.cpu_s(pid) for name, pid in pids.items()}
        time.sleep(WATCH_S * bench.options.scale)
        traffic, seconds = proxy.traffic() - before, time.monotonic() - begin
        facts = {"watched_s": seconds, "process": "qcore worker --processes 1"}
        rate = traffic.commands.total() / seconds
        bench.emit("commands", "qcore", rate, "a second", by_name=traffic.commands, **facts)
        for name, pid in pids.items():
            used = (processes.cpu_s(pid) - cpu[name]) / seconds
            bench.emit(f"CPU of the {name}", "qcore", used * 100, "%", **facts)
            rss = processes.rss_bytes(pid) / 1e6
            bench.emit(f"memory of the {name}", "qcore", rss, "MB", **facts)
