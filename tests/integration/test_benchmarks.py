"""The benchmarks run: the comparisons with qcore alone, at the smallest size."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.harness import journal
from benchmarks.harness.bench import Bench, Options
from benchmarks.harness.records import Lines
from benchmarks.harness.stage import stage
from benchmarks.harness.systems import available, load
from tests.support.fleet import ROOT

#: `io` and `payloads` are left out: they drain as `drain` does, and each worker takes a second.
CASES = {
    "enqueue": {"one by one, 2c", "one by one, 1c", "100 at a time", "bulk API"},
    "sync": {f"{n}, {cores}" for n in ("1 thread", "8 threads") for cores in ("2c", "1c")},
    "pickup": {f"{p}, {cores}" for p in ("p50", "p99") for cores in ("2c", "1c")},
    "drain": {"1 process", "2 processes", "gain"},
    "open_loop": {"capacity"}
    | {
        f"{load}, {percentile}"
        for load in ("10 %", "50 %", "80 %", "50 % mixed delays")
        for percentile in ("p50", "p99")
    },
}


def run(*words: str, out: Path) -> tuple[str, list[dict[str, Any]]]:
    done = subprocess.run(
        [sys.executable, "benchmarks/run.py", *words, "--jobs-scale", "0.002", "--out", str(out)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, [json.loads(line) for line in out.read_text().splitlines()]


@pytest.mark.parametrize("part", CASES)
def test_part_measures_every_case(part: str, tmp_path: Path):
    _, lines = run(part, "--systems", "qcore", "--runs", "0", out=tmp_path / "lines.jsonl")
    assert {line["case"] for line in lines} == CASES[part]
    assert {line["part"] for line in lines} == {part}
    for line in lines:
        assert line["value"] > 0
        assert line["versions"]["redis"]
        assert line["host"]["commit"]
        assert "at least once" in line["guarantee"]
        assert line["unit"] == "times" or line["redis_us"] > 0


def test_rounds_take_turns_and_end_in_a_table(tmp_path: Path):
    said, lines = run("sync", "--systems", "qcore,bare", "--runs", "1", out=tmp_path / "lines")
    turns = [(line["round"], line["system"], line["case"]) for line in lines]
    assert turns == [
        (i, system, f"{threads}, {cores}")
        for i in (0, 1)
        for system in ("qcore", "bare")
        for threads in ("1 thread", "8 threads")
        for cores in ("2c", "1c")
    ]
    assert "| system | 1 thread, 2c, jobs/s | 1 thread, 1c, jobs/s |" in said


@pytest.mark.parametrize("name", ["laravel", "sidekiq"])
def test_system_in_another_language_runs_each_job_once(name: str, tmp_path: Path):
    if available(name) is None:
        pytest.skip(f"{name} is not installed")
    words = ("sync", "pickup", "drain", "--systems", name, "--runs", "0")
    _, lines = run(*words, out=tmp_path / "lines")
    cases = {(line["part"], line["case"]) for line in lines}
    assert {part for part, _ in cases} == {"sync", "pickup", "drain"}
    one, eight = ({f"{n}, 2c", f"{n}, 1c"} for n in ("1 thread", "8 threads"))
    assert {case for part, case in cases if part == "sync"} == (
        one if name == "laravel" else one | eight
    )


def test_run_of_a_job_that_was_not_asked_for_fails_the_measurement(tmp_path: Path):
    lines = Lines(tmp_path / "lines")
    bench = Bench("test", Options(), lines)
    with bench.turn("qcore"), stage(bench, load("qcore"), most=40) as at:
        at.produce("enqueue", how="one", jobs=20)
        at.produce("enqueue", how="one", jobs=20)
        with pytest.raises(RuntimeError, match="enqueued 20 jobs, but 40 wait"):
            at.check_depth(20)
        with at.workers(10, 1) as workers:
            at.go()
            at.wait(40, workers)
        assert len(journal.runs(at.folder)) == 40
        at.runs(20)
    lines.close()
    (failure,) = bench.failures
    assert "delivery is not exact: of 20 jobs 0 lost, 20 run again" in failure
