"""Counts of runs: what a worker counts, what fits into a beat, what its supervisor adds up."""

import os
import select
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from qcore.model.fleet import RunningJob
from qcore.model.job import Acked, Buried, Cancelled, Outcome, Released, Retried
from qcore.runtime.ipc.messages import Beat, Cell
from qcore.runtime.ipc.run_counts import BOUNDS_S, RunCounts
from qcore.runtime.worker.process import _beat

EVERY: dict[Outcome | None, str] = {
    Acked(): "completed",
    Cancelled(): "cancelled",
    Retried(1, b""): "retried",
    Buried(b""): "dead",
    Released(): "released",
    None: "lost",
}


def test_runs_are_told_apart_by_queue_task_and_outcome():
    counts = RunCounts()
    for outcome in EVERY:
        counts.count("default", "mail", outcome, 0.001)
        counts.count("default", "mail", outcome, 0.001)
    counts.count("low", "mail", Acked(), 0.001)
    found = {(cell.queue, cell.task, cell.outcome): cell.runs for cell in counts.cells()}
    expected = {("default", "mail", name): 2 for name in EVERY.values()}
    assert found == expected | {("low", "mail", "completed"): 1}


def test_run_times_fall_below_their_bound():
    counts = RunCounts()
    for took_s in (0.002, 0.003, 2.0, 5000.0):
        counts.count("default", "mail", Acked(), took_s)
    cells = {cell.bound: cell for cell in counts.cells()}
    assert {bound: cell.runs for bound, cell in cells.items()} == {
        BOUNDS_S.index(0.005): 2,
        BOUNDS_S.index(2.5): 1,
        len(BOUNDS_S): 1,
    }
    assert cells[BOUNDS_S.index(0.005)].seconds == pytest.approx(0.005)


def test_what_is_taken_is_counted_once_and_what_was_not_told_is_counted_again():
    worker, supervisor = RunCounts(), RunCounts()
    worker.count("default", "mail", Acked(), 0.001)
    worker.add(worker.take({"mail"}))  # the pipe was full
    worker.count("default", "mail", Acked(), 0.001)
    while worker:
        supervisor.add(worker.take({"mail"}))
    assert sum(cell.runs for cell in supervisor.cells()) == 2
    assert {cell.outcome for cell in supervisor.cells()} == {"completed"}


def test_long_name_that_was_not_told_keeps_what_is_left_of_it():
    worker, name = RunCounts(), "x" * 200
    worker.count("default", name, Acked(), 0.001)
    worker.add(worker.take({name}))
    assert [cell.task for cell in worker.take({name})] == ["x" * 100]


class FakeWorker:
    """What `_beat` needs of a worker."""

    def __init__(self) -> None:
        self.jobs = SimpleNamespace(counts=RunCounts())

    def beat(self, lag_s: float) -> Beat:
        return Beat(1, True, False, False, 0, 0, 0, lag_s)


def test_counts_that_a_full_pipe_did_not_take_are_told_later():
    worker: Any = FakeWorker()
    app: Any = type("FakeApp", (), {"tasks": [f"task-{n}" for n in range(100)]})
    told, beats = os.pipe()
    os.set_blocking(beats, False)
    os.set_blocking(told, False)
    supervisor = RunCounts()

    def read() -> int:
        lines = b"".join(iter(lambda: _read(told), b"")).splitlines()
        for line in lines:
            supervisor.add(msgspec.json.decode(line, type=Beat).runs)
        return len(lines)

    for _ in range(50):  # more than a pipe takes
        for n in range(100):
            worker.jobs.counts.count("default", f"task-{n}", Acked(), 0.001)
        _beat(worker, app, 0.0, beats)
    assert worker.jobs.counts
    assert read() > 10
    while worker.jobs.counts:
        _beat(worker, app, 0.0, beats)
        read()
    assert {cell.runs for cell in supervisor.cells()} == {50}
    assert len(supervisor.cells()) == 100
    os.close(told)
    os.close(beats)


def _read(fd: int) -> bytes:
    try:
        return os.read(fd, 65536)
    except BlockingIOError:
        return b""


def test_tasks_that_nobody_has_are_one():
    worker, supervisor = RunCounts(), RunCounts()
    for n in range(1000):
        worker.count("default", f"made up {n}", Retried(1, b""), 0.001)
    while worker:
        supervisor.add(worker.take({"mail"}))
    assert {cell.task for cell in supervisor.cells()} == {"(unknown)"}
    assert sum(cell.runs for cell in supervisor.cells()) == 1000


def test_beat_with_counts_fits_into_a_pipe_at_once():
    """The longest names that there can be, beside the longest jobs that a beat shows."""
    worker = RunCounts()
    names = [f"{n:03}" + "ü" * 200 for n in range(50)]
    for name in names:
        worker.count("q" * 64, name, Cancelled(), 12345.678)
    oldest = (RunningJob("é" * 64, "é" * 100, 12345.678, "q" * 64),) * 3
    told = 0
    while worker:
        cells = worker.take(names)
        told += len(cells)
        beat = Beat(2**22, True, True, True, 10**4, 2**60, 2**50, 12345.6, runs=cells)
        beat = msgspec.structs.replace(beat, oldest=oldest, cpu_s=123456.789, code="c" * 64)
        assert len(msgspec.json.encode(beat)) < select.PIPE_BUF
    assert told == 50


def test_outcome_of_a_newer_worker_is_kept_by_its_name():
    supervisor = RunCounts()
    supervisor.add([Cell("default", "mail", "postponed", 0, 3, 0.1)])
    assert [(cell.outcome, cell.runs) for cell in supervisor.cells()] == [("postponed", 3)]
