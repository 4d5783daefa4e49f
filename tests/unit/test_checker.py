"""The judge of the fault tests must see what it is there for."""

import pytest

from tests.support.checker import Fault, History, Orphaned, Run, assert_sound, check

WORKER, OTHER = 11, 12


def run(began: float, ended: float | None = None, *, pid: int = WORKER) -> Run:
    return Run(0, 1, pid, began, ended)


def told(outcome: str) -> History:
    history = History()
    history.outcomes[history.invoke()] = outcome
    return history


@pytest.mark.parametrize(
    ("outcome", "runs", "what"),
    [
        ("ok", [], "lost"),
        ("ok", [run(1)], "lost"),
        ("fail", [run(1, 2)], "unexpected"),
        ("ok", [run(1, 2), run(3, 4)], "unexplained"),
        ("ok", [run(1), run(3, 4)], "unexplained"),
    ],
)
def test_checker_finds_what_is_wrong(outcome: str, runs: list[Run], what: str):
    with pytest.raises(AssertionError, match=f"1 {what}"):
        assert_sound(told(outcome), {0: runs} if runs else {})


def test_checker_tells_what_was_answered_from_what_was_not():
    findings = check(told("unknown"), {0: [run(1, 2)]})
    assert findings.recovered == {0}
    assert not findings.unexpected
    assert not check(told("unknown"), {}).lost


def test_checker_explains_one_more_run_for_each_run_of_a_killed_worker():
    runs = {0: [run(1), run(3, 4, pid=OTHER)]}
    assert not check(told("ok"), runs, killed={WORKER}).unexplained
    assert check(told("ok"), runs, killed={OTHER + 1}).unexplained
    runs[0].append(run(5, 6, pid=OTHER))
    assert check(told("ok"), runs, killed={WORKER}).unexplained


@pytest.mark.parametrize(
    ("found", "orphaned"),
    [
        (run(1, 105), True),  # it ran
        (run(1), True),
        (run(1, 99), True),  # it was perhaps not settled
        (run(1, 90), False),
        (run(111, 112), True),  # under a claim from before
        (run(113, 114), False),
        (run(1, 105, pid=OTHER), False),
    ],
)
def test_fault_orphans_the_runs_that_it_came_upon(found: Run, orphaned: bool):
    fault = Fault("worker stopped", 100, 112, 112, frozenset({WORKER}))
    assert (found in Orphaned([fault])) is orphaned


def test_fault_orphans_a_run_that_could_not_be_settled_before_it():
    away = Fault("server killed", 80, 84, 93)
    killed = Fault("worker killed", 92, 92, 92, frozenset({WORKER}))
    assert run(1, 81) in Orphaned([away, killed])
    assert run(1, 81) not in Orphaned([killed])
    assert run(1, 81) not in Orphaned([away])
    assert run(1, 70) not in Orphaned([away, killed])
    assert run(1) in Orphaned([killed])
