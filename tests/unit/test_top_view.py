"""What `qcore top` draws fits its window, and the line that is selected is always in it."""

import io
from typing import Any

import pytest
from rich.console import Console

from qcore.model.fleet import (
    Roll,
    RollState,
    RunningJob,
    SupervisorState,
    SupervisorView,
    WorkerState,
    WorkerView,
)
from qcore.model.views import Member, Pause, QueueStats
from qcore_cli.fleet.top_view import Sight, Snapshot, drawn


def queue(name: str, *, ready: int = 0, **held: Any) -> QueueStats:
    return QueueStats(
        name=name,
        ready=ready,
        quarantined=0,
        scheduled=0,
        active=0,
        dead=0,
        oldest_ready_s=None,
        **held,
    )


def worker(n: int, **more: Any) -> WorkerView:
    job = RunningJob(f"job-of-{n}", "shop.tasks.mail", float(n))
    known: dict[str, Any] = {
        "name": f"w.{n}",
        "pid": n,
        "state": WorkerState.RUNNING,
        "oldest": (job,),
    }
    return WorkerView(**known | more)


def member(*workers: WorkerView, id: str = "a", silent_s: float = 0.0, **more: Any) -> Member:
    known: dict[str, Any] = {"host": "host", "name": id, "pid": 1, "state": SupervisorState.RUNNING}
    known |= {"queues": (), "age_s": 100.0, "workers": workers}
    view = SupervisorView(**known | more)
    return Member(id, silent_s, 0, view)


def sight_of(queues: int, workers: int) -> Sight:
    sight = Sight("redis://localhost  qcore")
    members = [member(*(worker(n) for n in range(workers)))] if workers else []
    sight.see(Snapshot(members, [queue(f"queue-{n}") for n in range(queues)]))
    return sight


def test_fullest_queues_come_first_and_those_without_room_are_counted():
    sight = Sight("redis://localhost  qcore")
    queues = [queue(f"queue-{n:03}", ready=n % 97) for n in range(500)]
    sight.see(Snapshot([], queues))
    lines = frame(sight)
    at = next(i for i, line in enumerate(lines) if line.startswith("QUEUE"))
    assert lines[at].startswith("QUEUE 1-16 of 500 ")
    assert lines[at + 1].split()[:2] == ["queue-096", "96"]


def frame(sight: Sight, height: int | None = 24, width: int = 80) -> list[str]:
    out = io.StringIO()
    Console(file=out, width=width, force_terminal=False).print(drawn(sight, height, width))
    return out.getvalue().splitlines()


@pytest.mark.parametrize("queues", [0, 1, 5, 100])
@pytest.mark.parametrize("workers", [0, 1, 5, 300])
@pytest.mark.parametrize("height", [12, 24, 60])
def test_frame_fills_its_window_and_no_more(queues: int, workers: int, height: int):
    lines = frame(sight_of(queues, workers), height)
    assert len(lines) == height
    assert all(len(line) <= 80 for line in lines)
    assert lines[-1].startswith("q quit")


def test_small_table_leaves_its_room_to_the_others():
    text = "\n".join(frame(sight_of(2, 6), 24))  # 2 + 7 + 6 lines, a third of 16 would be 5
    assert "queue-1" in text
    assert "  w.5 " in text
    assert "job-of-0" in text
    assert " of " not in text


def test_line_that_is_selected_is_always_shown():
    sight = sight_of(40, 40)
    for pane, first, last in (("workers", "host a", "  w.39"), ("queues", "queue-0", "queue-9")):
        if sight.pane != pane:
            sight.switch()
        for _ in range(60):
            sight.move(1)
            chosen = sight.selected[sight.pane].split()[-1]
            lines = frame(sight)
            wanted = f"w.{chosen}" if chosen.isdigit() else chosen
            assert any(wanted in line for line in lines)
        assert any(line.startswith(last) for line in frame(sight))
        for _ in range(60):
            sight.move(-1)
        assert any(line.startswith(first) for line in frame(sight))


def test_jobs_are_those_of_the_line_that_is_selected():
    sight = sight_of(1, 3)
    assert sum("job-of-" in line for line in frame(sight)) == 3
    sight.move(1)  # the supervisor
    sight.move(1)
    (line,) = [line for line in frame(sight) if "job-of-" in line]
    assert line.startswith("tasks.mail")
    assert "job-of-0" in line
    sight.switch()
    assert sum("job-of-" in line for line in frame(sight)) == 3


def test_selection_stays_with_its_worker_when_lines_come_and_go():
    sight = sight_of(1, 3)
    for _ in range(3):
        sight.move(1)
    assert sight.selected["workers"] == "a 1"
    workers = [worker(n) for n in (1, 2)]
    sight.see(Snapshot([member(worker(0), id="Z"), member(*workers)], []))
    (line,) = [line for line in frame(sight) if "job-of-" in line]
    assert "job-of-1" in line
    sight.see(Snapshot([member(worker(2))], []))
    assert sum("job-of-" in line for line in frame(sight)) == 1  # it is gone: those of all


def test_rate_is_that_of_the_supervisors_clock_over_the_last_seconds():
    sight = Sight("")
    for second in range(20):
        done = 10 * second if second < 10 else 100 + 50 * (second - 10)
        now = member(worker(1, done=done), age_s=100.0 + second)
        sight.see(Snapshot([now], []))
        sight.see(Snapshot([now], []))  # the same heartbeat, seen twice
    head, row = sight.rows()
    assert row.rate == pytest.approx(50, rel=0.01)
    assert head.rate == row.rate


def test_wide_values_leave_room_for_names():
    big = worker(
        4194304,
        name="worker.12",
        running=10_000,
        done=10**9,
        rss_bytes=12_300_000_000,
        cpu=15.99,
        loop_lag_ms=12_345.0,
        age_s=59 * 60,
        state=WorkerState.DRAINING,
    )
    lines = frame(_seen(member(big)))
    (line,) = [line for line in lines if "draining" in line]
    assert "worker.12 " in line
    for text in ("4194304", "10,000", "12.3 GB", "1599%", "12 s", "59 min"):
        assert text in line


def test_state_of_a_supervisor_says_what_matters_most():
    rolling = member(worker(1), roll=Roll(state=RollState.ROLLING))
    silent = member(worker(1), silent_s=30.0, roll=Roll(state=RollState.ROLLING))
    assert _seen(rolling).rows()[0].state == "rolling"
    assert _seen(silent).rows()[0].state == "silent"
    assert _seen(member(worker(1))).rows()[0].state == "running"


def test_trouble_takes_the_place_of_the_address_and_the_rest_stays():
    sight = sight_of(1, 1)
    sight.trouble = "no answer for 3 s: " + "x" * 200
    sight.paused = True
    lines = frame(sight)
    assert lines[0].startswith("qcore top  no answer for 3 s: xxx")
    assert lines[0].endswith("  paused")
    assert any("w.0" in line for line in lines)
    sight.see(Snapshot([], []))
    assert frame(sight)[0].startswith("qcore top  redis://localhost  qcore")


def test_without_a_window_everything_is_shown():
    text = "\n".join(frame(sight_of(100, 200), None))
    assert "queue-99" in text
    assert "w.199" in text
    assert "quit" not in text


def _seen(one: Member) -> Sight:
    sight = Sight("")
    sight.see(Snapshot([one], []))
    return sight


PAUSE = Pause(since_ms=0, until_ms=None, reason="deploy 42")


def test_queue_that_is_held_up_says_so():
    sight = Sight("redis://localhost  qcore")
    queues = [queue("a"), queue("b", paused=PAUSE), queue("c", closed_ms=1)]
    sight.see(Snapshot([], [*queues, queue("d", paused=PAUSE, closed_ms=1)]))
    title, _, head, *lines = frame(sight)[:7]
    assert "3 queues held up" in title
    assert head.split()[-1] == "STATE"
    assert [line.split()[-1] for line in lines] == ["-", "paused", "closed", "paused"]


def test_queues_that_are_held_up_are_counted_also_when_they_are_out_of_sight():
    sight = Sight("")
    sight.see(Snapshot([], [*(queue(f"q{n}") for n in range(30)), queue("z", paused=PAUSE)]))
    assert "1 queue held up" in frame(sight)[0]
    assert "paused" not in "".join(frame(sight))


@pytest.mark.parametrize("width", [20, 40, 60, 79])
def test_narrow_window_leaves_out_numbers_and_keeps_names(width: int):
    sight = sight_of(3, 3)
    sight.see(
        Snapshot(sight.snapshot.members if sight.snapshot else (), [queue("q", ready=123456)])
    )
    lines = frame(sight, 24, width)
    assert all(len(line) <= width for line in lines)
    (head,) = (line for line in lines if line.startswith("QUEUE"))
    assert head.split()[1] == "READY"
    (line,) = (line for line in lines if line.startswith("q  "))
    assert line.split()[1] == "123,456"
    assert any(line.startswith("hos") for line in lines)
    assert ("STATE" in head) is (width >= 40)


def test_state_stays_in_a_narrow_window_while_a_queue_is_held_up():
    sight = Sight("")
    sight.see(Snapshot([], [queue("emails", ready=1_234_567, paused=PAUSE)]))
    lines = frame(sight, 24, 34)
    assert lines[3].split() == ["emails", "1,234,567", "paused"]


def test_before_the_first_look_nothing_is_counted():
    assert "workers" not in frame(Sight("redis://localhost  qcore"))[0]
