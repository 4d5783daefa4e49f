"""Draining a full queue of no-op jobs at concurrency 100, with one worker process and with two."""

import json
import subprocess
import sys

from benchmarks.harness.bench import Bench
from benchmarks.harness.records import ROOT
from benchmarks.harness.stage import stage
from benchmarks.harness.systems import ALL, System
from benchmarks.harness.targets import LIMIT
from benchmarks.harness.worker import environment

CONCURRENCY = 100
#: Jobs for one process, and for two.
JOBS = {
    "qcore": (80_000, 120_000),
    "bullmq": (30_000, 30_000),
    "dramatiq": (8_000, 12_000),
    "sidekiq": (10_000, 15_000),
}
OTHERS = (3_000, 4_000)
#: The bare loop on qcore's own scripts: what qcore could reach at most.
BARE_LOOP, LIMIT_JOBS = ROOT / "benchmarks" / "micro" / "limit.py", (120_000, 160_000)
CASES = {1: "1 process", 2: "2 processes"}


def run(bench: Bench) -> None:
    systems = bench.systems(*ALL)
    for _ in bench.rounds():
        for system in systems:
            with bench.turn(system.name):
                _measure(bench, system)
        if BARE_LOOP.exists() and LIMIT in (bench.options.systems or (LIMIT,)):
            with bench.turn(LIMIT):
                _limit(bench)


def _measure(bench: Bench, system: System) -> None:
    rates: list[float] = []
    for processes, full in zip(CASES, JOBS.get(system.name, OTHERS), strict=True):
        jobs = bench.jobs(full)
        with stage(bench, system, most=jobs) as at:
            at.preload(jobs)
            took = at.drain(jobs, CONCURRENCY, processes)
        rates.append(took.per_s)
        bench.emit_of(system, CASES[processes], took.per_s, "jobs/s", jobs=jobs, **took.facts)
    bench.emit_of(system, "gain", rates[1] / rates[0], "times")


def _limit(bench: Bench) -> None:
    rates: list[float] = []
    for processes, full in zip(CASES, LIMIT_JOBS, strict=True):
        jobs = bench.jobs(full)
        with bench.server() as server:
            words = [sys.executable, str(BARE_LOOP), "--url", server.url, "--jobs", str(jobs)]
            words += ["--concurrency", str(CONCURRENCY), "--processes", str(processes)]
            done = subprocess.run(words, env=environment(), capture_output=True, check=False)
        if done.returncode != 0:
            raise RuntimeError(f"limit.py: {done.stderr.decode(errors='replace')[-2000:]}")
        told = json.loads(done.stdout.splitlines()[-1])
        rates.append(told["drain_per_s"])
        facts = {"told": told, "jobs": jobs, "worker_us": told["python_us_per_job"]}
        bench.emit(CASES[processes], LIMIT, rates[-1], "jobs/s", **facts)
    bench.emit("gain", LIMIT, rates[1] / rates[0], "times")
