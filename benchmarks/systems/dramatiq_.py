"""dramatiq on Redis, by its command."""

import os
import sys
from typing import Any

import dramatiq
from dramatiq.brokers.redis import RedisBroker

from benchmarks import workloads
from benchmarks.harness.driver import URL, System, gate, main

GUARANTEE = "at least once: acks; requeued when a worker misses its heartbeat of 60 s"
SETTINGS = "no-ops: 8 threads (default), dramatiq_queue_prefetch=1000; else threads = concurrency"
DEPTH = "LLEN dramatiq:default"
BULK = False


class Gate(dramatiq.Middleware):
    def before_worker_boot(self, broker: Any, worker: Any) -> None:
        gate()


broker = RedisBroker(url=URL)
broker.add_middleware(Gate())
dramatiq.set_broker(broker)
job = dramatiq.actor(actor_name="job")(workloads.chosen(workloads.THREAD_JOBS))


def one(n: int) -> None:
    job.send(n)


def work(concurrency: int, processes: int) -> None:
    threads = concurrency
    if os.environ["BENCH_WORKLOAD"] == "noop":
        threads = 8
        os.environ.update(dramatiq_queue_prefetch="1000")  # the default, 16, caps it at 2,000/s
    words = [sys.executable, "-m", "dramatiq", "benchmarks.systems.dramatiq_"]
    words += ["--processes", str(processes), "--threads", str(threads)]
    os.execv(sys.executable, words)


if __name__ == "__main__":
    main(System(one, work, blocking=one, own_processes=True))
