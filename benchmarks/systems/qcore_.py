"""qcore, by the command that its users run."""

import os
import sys
from collections.abc import AsyncIterator

import qcore.broker.per_loop  # noqa: F401 - imported late else, by the first blocking call
from benchmarks import workloads
from benchmarks.harness.driver import URL, System, gate, main
from qcore import App, Unique

GUARANTEE = "at least once: a lease on every job, renewed while it runs"
SETTINGS = "defaults of `qcore worker`: lease 30 s, 5 attempts; None as the result keeps nothing"
DEPTH = "LLEN {qcore:default}:ready"
BULK = True

app = App(URL)
job = app.task(name="job")(workloads.chosen())
one_per_n = app.task(name="keyed", unique=Unique("n"))(workloads.chosen())
PAYLOAD = "x" * int(os.environ.get("BENCH_PAYLOAD", "0"))
MORE = {"data": PAYLOAD} if PAYLOAD else {}


@app.lifespan
async def behind_the_gate() -> AsyncIterator[None]:
    gate()
    yield


async def one(n: int) -> None:
    await job.enqueue(n, **MORE)


async def bulk(numbers: range) -> None:
    await job.enqueue_many({"n": n, **MORE} for n in numbers)


async def delayed(n: int, seconds: float) -> None:
    await job.options(delay=seconds).enqueue(n, **MORE)


async def keyed(n: int) -> None:
    await one_per_n.enqueue(n, **MORE)


def blocking(n: int) -> None:
    job.enqueue_sync(n, **MORE)


def work(concurrency: int, processes: int) -> None:
    words = [sys.executable, "-m", "qcore_cli", "worker", "benchmarks.systems.qcore_:app"]
    words += ["--concurrency", str(concurrency), "--processes", str(processes)]
    os.execv(sys.executable, words)


if __name__ == "__main__":
    main(System(one, work, bulk, lambda: app, delayed, blocking, keyed, own_processes=True))
