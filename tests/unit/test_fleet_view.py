"""What `qcore status` makes of the records of supervisors."""

from typing import Any

import pytest

from qcore.model.fleet import (
    Roll,
    RollState,
    SupervisorState,
    SupervisorView,
    WorkerState,
    WorkerView,
)
from qcore.model.views import Member, Pause, QueueStats
from qcore_cli.fleet.view import FleetState, state_of_fleet, status_lines

RUNNING, QUIET = WorkerState.RUNNING, WorkerState.QUIET
STARTING, LEAVING = WorkerState.STARTING, WorkerState.DRAINING


def member(*states: WorkerState, silent_s: float = 0.0, codes: str = "", **more: Any) -> Member:
    """Return a supervisor with workers in these states, and of these codes, a letter each."""
    letters = codes or "a" * len(states)
    workers = tuple(
        WorkerView(name=f"w.{n}", pid=n, state=state, code=code)
        for n, (state, code) in enumerate(zip(states, letters, strict=True))
    )
    known: dict[str, Any] = {"host": "web1", "name": "shop", "pid": 7, "age_s": 1.0}
    known |= {"state": SupervisorState.RUNNING, "queues": ("default", "low"), "workers": workers}
    return Member("id", silent_s, 0, SupervisorView(**known | more))


def quiet(*states: WorkerState) -> Member:
    return member(*states, state=SupervisorState.QUIET)


def draining(*states: WorkerState) -> Member:
    return member(*states, state=SupervisorState.DRAINING)


def silent(*states: WorkerState) -> Member:
    return member(*states, silent_s=11.0)


STATES: list[tuple[list[Member], set[str], FleetState]] = [
    ([], set(), FleetState.NONE),
    ([member(RUNNING)], set(), FleetState.RUNNING),
    ([member(STARTING, RUNNING)], set(), FleetState.RUNNING),
    ([member(QUIET), member(RUNNING)], set(), FleetState.RUNNING),
    ([silent(RUNNING), member(RUNNING)], set(), FleetState.RUNNING),
    ([draining(LEAVING), member(RUNNING)], set(), FleetState.RUNNING),
    ([member(RUNNING)], {"default"}, FleetState.RUNNING),
    ([member(RUNNING)], {"default", "low"}, FleetState.PAUSED),
    ([member(RUNNING), member(RUNNING, queues=("x",))], {"default", "low"}, FleetState.RUNNING),
    ([quiet(QUIET, QUIET)], set(), FleetState.PAUSED),
    ([quiet(QUIET, STARTING)], set(), FleetState.PAUSED),
    ([quiet(QUIET), silent(RUNNING)], set(), FleetState.PAUSED),
    ([quiet(QUIET), draining(RUNNING)], set(), FleetState.PAUSED),
    ([member()], set(), FleetState.STARTING),
    ([member(STARTING, STARTING)], set(), FleetState.STARTING),
    ([member(STARTING)], {"default", "low"}, FleetState.STARTING),
    ([member(STARTING), draining(LEAVING)], set(), FleetState.STARTING),
    ([draining(LEAVING), draining(RUNNING)], set(), FleetState.DRAINING),
    ([draining(), silent(RUNNING)], set(), FleetState.DRAINING),
    ([silent(RUNNING), silent(QUIET)], set(), FleetState.SILENT),
]


@pytest.mark.parametrize(("members", "paused", "state"), STATES)
def test_state_of_a_fleet(members: list[Member], paused: set[str], state: FleetState):
    assert state_of_fleet(members, paused) is state


def lines_of(*members: Member, held: tuple[QueueStats, ...] = ()) -> list[str]:
    paused = {queue.name for queue in held}
    return list(status_lines(state_of_fleet(members, paused), members, held))


def troubles(*members: Member) -> list[str]:
    return [line for line in lines_of(*members) if line.startswith("!")]


def test_first_line_is_the_state_and_how_many_there_are():
    assert lines_of(member(RUNNING, RUNNING), member(RUNNING))[0] == (
        "running: 2 supervisors, 3 workers"
    )
    assert lines_of(silent(RUNNING))[0] == (
        "silent: 1 supervisor, 1 worker; no supervisor was heard for 10 s"
    )


def test_fleet_that_is_well_has_no_trouble():
    assert troubles(member(RUNNING), draining(LEAVING), quiet(QUIET)) == []


def test_silent_supervisor_is_named_with_its_age():
    (line,) = troubles(member(RUNNING), member(RUNNING, silent_s=240.0))
    assert line.startswith("! web1 shop (pid 7) was last heard 4 min ago")


def test_supervisor_that_gets_no_worker_ready_is_named():
    (line,) = troubles(member(STARTING, boot_failures=3, boot_error="its process exited with 1"))
    assert line.endswith("gets no worker ready: 3 in a row ended before: its process exited with 1")
    (of_an_older_version,) = troubles(member(STARTING, boot_failures=3))
    assert of_an_older_version.endswith("its log says why")


def test_roll_that_failed_is_named_with_what_to_do():
    roll = Roll(state=RollState.FAILED, why="restart", replaced=1, workers=2, error="no such db")
    (line,) = troubles(member(RUNNING, RUNNING, roll=roll))
    assert "has 1 of 2 new workers after restart" in line
    assert line.endswith("then `qcore restart`: no such db")


def test_restart_that_goes_on_is_shown_with_the_worker_that_is_replaced():
    roll = Roll(state=RollState.ROLLING, why="SIGHUP", replaced=1, workers=2)
    old = WorkerView(name="w.1", pid=41, state=RUNNING, leaves_for="SIGHUP")
    lines = lines_of(member(roll=roll, workers=(old,)))
    assert "  SIGHUP: rolling, 1 of 2 workers are new" in lines
    assert "  w.1  pid 41 is replaced, SIGHUP" in lines


def test_workers_of_the_same_queues_that_run_different_code_are_told():
    (line,) = troubles(member(RUNNING, RUNNING, codes="ab"), member(RUNNING, codes="a"))
    assert line == "! the workers of default,low run 2 versions of code: a (2), b (1)"
    assert troubles(member(RUNNING, codes="a"), member(RUNNING, codes="b", queues=("x",))) == []
    assert troubles(member(RUNNING, codes="a"), member(RUNNING, codes="b", silent_s=60.0))[1:] == []


def test_queue_that_is_held_up_is_told_with_since_when_and_why():
    pause = Pause(since_ms=0, until_ms=None, reason="deploy 42")
    stats = QueueStats(
        name="low",
        ready=1200,
        quarantined=0,
        scheduled=0,
        active=0,
        dead=0,
        oldest_ready_s=5.0,
        paused=pause,
    )
    assert lines_of(member(RUNNING), held=(stats,))[-1] == (
        "queue low: paused since 1970-01-01 00:00:00Z until resumed (deploy 42), 1,200 ready"
    )
