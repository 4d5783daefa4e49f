"""How many workers are wanted, for any load: by what the workers of a simulation do with it."""

import math
from dataclasses import dataclass, field
from itertools import pairwise

import msgspec
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from qcore.model.fleet import WorkerState, WorkerView
from qcore.runtime.supervisor.scaling_policy import ScalingPolicy, Seen

LOOK_S, TARGET_S, SHRINK_S = 2.0, 5.0, 60.0
SLOTS = 100


def scaling(least: int, most: int) -> ScalingPolicy:
    return ScalingPolicy(
        least,
        most,
        target_wait_s=TARGET_S,
        shrink_after_s=SHRINK_S,
        look_s=LOOK_S,
    )


RANGES = st.tuples(st.integers(1, 256), st.integers(1, 256)).map(lambda pair: tuple(sorted(pair)))
FEW = st.tuples(st.integers(1, 40), st.integers(1, 40)).map(lambda pair: tuple(sorted(pair)))
VIEWS = st.builds(
    WorkerView,
    name=st.just("worker"),
    pid=st.integers(1, 12),
    state=st.sampled_from(WorkerState),
    running=st.integers(0, 200),
    done=st.integers(0, 10**9),
    cpu=st.floats(0, 3),
    taken=st.floats(0, 2),
)
TEAMS = st.lists(VIEWS, max_size=12, unique_by=lambda view: view.pid)
AGES = st.dictionaries(st.sampled_from(["high", "low"]), st.floats(0, 1000))
MOMENTS = st.tuples(st.floats(0.001, 200), st.integers(0, 10**9), TEAMS, AGES)


@given(RANGES, st.lists(MOMENTS, max_size=40))
def test_wanted_starts_at_the_least_and_stays_in_its_range_whatever_is_seen(ends, moments):
    least, most = ends
    decided, at_s = scaling(least, most), 0.0
    assert decided.wanted == least
    for gap_s, backlog, team, ages in moments:
        at_s += gap_s
        was = decided.wanted
        why = decided.decide(Seen(at_s, backlog, team, ages))
        assert least <= decided.wanted <= most
        assert bool(why) is (decided.wanted != was)


@given(RANGES, st.integers(1, 6), st.lists(MOMENTS, min_size=2, max_size=40))
def test_worker_that_is_not_running_counts_for_nothing(ends, size, moments):
    """It starts, drains, or is quiet: what it does and has done changes no decision."""
    with_others, alone, at_s = scaling(*ends), scaling(*ends), 0.0
    for gap_s, backlog, team, ages in moments:
        at_s += 1 + gap_s % LOOK_S
        # these stay, or hardly any look would come to a decision
        running = [view(pid, running=backlog % 100, done=int(at_s) * pid) for pid in range(size)]
        others = [
            msgspec.structs.replace(other, pid=other.pid + 100)
            for other in team
            if other.state is not WorkerState.RUNNING
        ]
        with_others.decide(Seen(at_s, backlog, [*others, *running], ages))
        alone.decide(Seen(at_s, backlog, running, ages))
        assert with_others.wanted == alone.wanted


@dataclass
class Site:
    """Workers that each do `rate` jobs a second when there is enough to do, as a fluid.

    What limits them is their slots (`by` "slots": of these only `places` can be taken) or the CPU.
    """

    decided: ScalingPolicy
    rate: float
    by: str
    places: int = SLOTS
    #: Every look finds another process in one of its slots, as `--max-jobs` would have it.
    recycles: bool = False
    backlog: float = 0.0
    now_s: float = 0.0
    #: Jobs done, by worker; a new one has not been there at the last look, and is starting.
    done: dict[int, float] = field(default_factory=dict)
    new: set[int] = field(default_factory=set)
    wanted: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.done = dict.fromkeys(range(self.decided.wanted), 0.0)

    def work(self, arrival_rate: float, seconds: float) -> None:
        """Let time pass, with a look and a decision every LOOK_S."""
        for _ in range(math.ceil(seconds / LOOK_S)):
            ready = sorted(self.done.keys() - self.new)
            could, arrived = len(ready) * self.rate * LOOK_S, arrival_rate * LOOK_S
            did = min(could, self.backlog + arrived)
            self.backlog = max(0.0, self.backlog + arrived - did)
            for pid in ready:
                self.done[pid] += did / len(ready)
            self.now_s += LOOK_S
            share = did / could
            views = [self._view(pid, 0.0 if pid in self.new else share) for pid in self.done]
            # first in, first out: the next job has waited for as long as the last one will
            ages = {"default": self.backlog / could * LOOK_S} if self.backlog >= 1 else {}
            self.decided.decide(Seen(self.now_s, int(self.backlog), views, ages))
            self.wanted.append(self.decided.wanted)
            self._adjust()
            if self.recycles:
                self.done.pop(next(iter(self.done)))
                self.done[len(self.wanted) * 1000 + 999] = 0.0

    def _view(self, pid: int, share: float) -> WorkerView:
        state = WorkerState.STARTING if pid in self.new else WorkerState.RUNNING
        taken, cpu = (share, 0.005) if self.by == "slots" else (0.0, share)
        return WorkerView(
            name="worker",
            pid=pid,
            state=state,
            running=round(taken * self.places),
            taken=taken,
            settled=int(self.done[pid]),
            cpu=cpu,
        )

    def _adjust(self) -> None:
        self.new.clear()
        while len(self.done) > self.decided.wanted:
            self.done.popitem()
        while len(self.done) < self.decided.wanted:
            pid = len(self.wanted) * 1000 + len(self.done)
            self.done[pid] = 0.0
            self.new.add(pid)

    def turns(self) -> int:
        """Return how often the number went up after it had gone down, or down after up."""
        steps = [b > a for a, b in pairwise(self.wanted) if a != b]
        return sum(a != b for a, b in pairwise(steps))


#: Jobs a second that one worker can do; what limits it; how many of its slots can be taken.
KINDS = st.tuples(
    st.floats(2, 5000),
    st.sampled_from(["slots", "cpu"]),
    st.sampled_from([20, 32, SLOTS]),
)


@given(FEW, KINDS, st.floats(0, 50), st.floats(0, 100))
def test_constant_load_brings_a_number_that_stays(ends, kind, load, burst_s):
    """`load` is what it needs, in workers; before it comes a burst of so many seconds' work."""
    least, most = ends
    # one that is only just too small may take hours until jobs wait for too long
    assume(not least <= load < least * 1.05)
    rate, by, places = kind
    site = Site(scaling(least, most), rate, by, places, backlog=burst_s * rate)
    site.work(load * rate, 1600)
    if load < most * 0.9:  # else the burst takes long, or for ever
        assert site.backlog <= max(TARGET_S, LOOK_S * 2) * rate * site.decided.wanted + 1
    end = site.wanted[-100:]
    assert len(set(end)) == 1, "it has settled"
    assert site.turns() <= 1, "up, then down, or straight there"
    if load > most * 1.1:
        assert end[-1] == most
    elif load < most * 0.9:
        assert load <= end[-1] <= max(least, math.ceil(load / 0.8) + 1)


@given(KINDS, st.floats(0.5, 40), st.lists(st.floats(-1, 1), min_size=150, max_size=300))
def test_load_that_is_steady_but_for_its_noise_does_not_flap(kind, load, noise):
    rate, by, places = kind
    site = Site(scaling(1, 256), rate, by, places)
    site.work(load * rate, 300)
    settled = site.decided.wanted
    site.wanted.clear()
    for swing in noise:
        site.work(load * rate * (1 + 0.05 * swing), LOOK_S)
    assert abs(site.decided.wanted - settled) <= max(1, 0.1 * settled)
    assert site.turns() <= 1


@given(st.integers(2, 64), KINDS)
def test_backlog_that_one_worker_would_take_long_for_brings_all_within_three_looks(most, kind):
    rate, by, places = kind
    # as many jobs as all of them take at once, or work for so long that all are of use
    backlog = max(2 * most * TARGET_S * rate, most * SLOTS)
    site = Site(scaling(1, most), rate, by, places, backlog=backlog)
    site.work(0.0, 3 * LOOK_S)
    assert site.wanted[-1] == most


@given(st.integers(2, 64), KINDS)
def test_workers_that_are_replaced_all_the_time_do_not_hide_a_backlog(most, kind):
    rate, by, places = kind
    backlog = max(20 * most * TARGET_S * rate, most * SLOTS)
    site = Site(scaling(1, most), rate, by, places, recycles=True, backlog=backlog)
    site.work(0.0, 8 * LOOK_S)
    assert site.wanted[-1] == most


@given(st.integers(2, 64), KINDS)
def test_empty_queue_brings_the_least_but_not_before_its_time(most, kind):
    rate, by, places = kind
    site = Site(scaling(1, most), rate, by, places, backlog=2 * most * (TARGET_S + 1) * rate + 1e4)
    site.work(0.0, 4 * LOOK_S)
    while site.backlog:
        site.work(0.0, LOOK_S)
    peak = site.decided.wanted
    site.wanted.clear()
    site.work(0.0, SHRINK_S - 2 * LOOK_S)
    assert set(site.wanted) == {peak}
    site.work(0.0, 4 * LOOK_S)
    assert site.decided.wanted == 1


@given(st.floats(1, 20), st.floats(0.5, 120), st.floats(10, 1000))
def test_slow_queue_is_not_hidden_by_a_fast_one(load, run_s, fast_rate):
    """One job of the slow queue at a time in each worker, beside any number of fast ones."""
    decided, done, fast, slow, now_s = scaling(1, 32), {0: 0.0}, 0.0, 0.0, 0.0
    history = []
    while now_s < 1200:
        now_s += LOOK_S
        could = len(done) * LOOK_S / run_s
        arrived = load * LOOK_S / run_s
        did = min(could, slow + arrived)
        slow += arrived - did
        fast += fast_rate * LOOK_S
        for pid in done:
            done[pid] += (did + fast_rate * LOOK_S) / len(done)
        ages = {"fast": 0.0} | ({"slow": slow * run_s / load} if slow >= 1 else {})
        views = [
            view(pid, done=int(jobs), taken=did / could, cpu=0.1) for pid, jobs in done.items()
        ]
        decided.decide(Seen(now_s, int(slow) + 1, views, ages))
        history.append(decided.wanted)
        while len(done) > decided.wanted:
            done.popitem()
        while len(done) < decided.wanted:
            done[len(history) * 1000 + len(done)] = 0.0
    assert slow * run_s / load <= TARGET_S + run_s
    if load % 1 > 0.1:  # else one process less would nearly do, and is tried now and then
        assert len(set(history[-50:])) == 1, "it has settled"


def view(pid: int, running: int = 0, done: int = 0, **other: object) -> WorkerView:
    known = WorkerView(
        name="worker", pid=pid, state=WorkerState.RUNNING, running=running, settled=done
    )
    return msgspec.structs.replace(known, **other)


@dataclass(frozen=True)
class Case:
    """Two looks at one worker, and what the second leads to."""

    backlog: int
    running: int
    done: int
    wanted: int


@pytest.mark.parametrize(
    "case",
    [
        Case(backlog=20, running=SLOTS, done=8, wanted=1),  # 20 jobs at 4 a second: in time
        Case(backlog=40, running=SLOTS, done=8, wanted=2),  # 10 s, but one more can take them all
        Case(backlog=40, running=1, done=8, wanted=3),  # 10 s: two more do them in 5
        Case(backlog=3, running=1, done=0, wanted=4),  # nobody knows how long: one for each
        Case(backlog=250, running=SLOTS, done=0, wanted=4),
        Case(backlog=0, running=SLOTS, done=0, wanted=1),
    ],
    ids=str,
)
def test_backlog_brings_the_workers_that_clear_it_within_the_target(case):
    decided = scaling(1, 50)
    decided.decide(Seen(0.0, case.backlog, [view(1, case.running)]))
    assert decided.wanted == 1, "these jobs may have come just now"
    decided.decide(Seen(LOOK_S, case.backlog, [view(1, case.running, case.done)]))
    assert decided.wanted == case.wanted


def test_job_that_was_enqueued_long_ago_has_waited_for_as_long_as_some_were_ready():
    """It was delayed, or is tried again."""
    decided = scaling(1, 8)
    for look in range(3):
        decided.decide(Seen(look * LOOK_S, 1, [view(1, done=look * 10)], {"default": 900.0}))
    assert decided.wanted == 1
    decided.decide(Seen(3 * LOOK_S, 1, [view(1, done=30)], {"default": 900.0}))
    assert decided.wanted == 2


def test_nothing_is_decided_on_what_was_seen_before_a_gap():
    crowd = [view(pid, done=10) for pid in range(8)]
    decided = scaling(1, 8)
    for at_s in (0.0, 2.0):
        decided.decide(Seen(at_s, 10_000, crowd))
    assert decided.wanted == 8
    decided.forget()
    for at_s in range(100, 160, 2):
        decided.decide(Seen(at_s, 0, crowd))
        assert decided.wanted == 8
    assert [decided.decide(Seen(at_s, 0, crowd)) for at_s in (160.0, 162.0)][-1]
    assert decided.wanted == 1
    # the looks of before do not make this one the second in a row
    decided.decide(Seen(164.0, 10_000, crowd[:1]))
    decided.decide(Seen(300.0, 10_000, crowd[:1]))
    assert decided.wanted == 1
    assert decided.decide(Seen(302.0, 10_000, crowd[:1]))
    assert decided.wanted == 8


def test_long_jobs_keep_the_workers_that_run_them():
    decided = scaling(1, 8)
    for at_s in (0.0, 2.0):
        decided.decide(Seen(at_s, 3, [view(1, running=1)]))
    assert decided.wanted == 4
    crowd = [view(pid, running=1, taken=1.0) for pid in range(1, 5)]
    for at_s in range(4, 600, 2):
        decided.decide(Seen(at_s, 0, crowd))
    assert decided.wanted == 4, "one job each fills them: their pools have one process"
    idle = [view(worker.pid) for worker in crowd]
    for at_s in range(600, 664, 2):
        decided.decide(Seen(at_s, 0, idle))
    assert decided.wanted == 1
