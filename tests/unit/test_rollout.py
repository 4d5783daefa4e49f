"""How far a restart is: which supervisor took the place of which."""

from typing import Any

import pytest

from qcore import BrokerUnavailable
from qcore.broker.redis.fleet import Fleet
from qcore.model.fleet import (
    Roll,
    RollState,
    SupervisorState,
    SupervisorView,
    WorkerState,
    WorkerView,
)
from qcore.model.views import Member
from qcore_cli.fleet.rollout import Outcome, Rollout, Target, shown_rollout

ORDER_MS = 1000
READY, STARTING = WorkerState.RUNNING, WorkerState.STARTING


class Registry(Fleet):
    """Says of its members what a test lets it say."""

    def __init__(self, *found: Member) -> None:
        self.found = list(found)
        self.orders = 0

    async def members(self) -> list[Member]:
        return self.found

    async def restart(self, *, host: str = "", queue: str = "", leave: bool = False) -> int:
        self.orders += 1
        return ORDER_MS


def member(id: str, *states: WorkerState, name: str = "worker", **more: Any) -> Member:
    """Return one from before the order, unless `started_ms` says otherwise."""
    workers = tuple(WorkerView(name="w", pid=1, state=state) for state in states or (READY,))
    silent_s, started_ms = more.pop("silent_s", 0.0), more.pop("started_ms", 0)
    known: dict[str, Any] = {"host": "web1", "queues": ("default",)}
    known |= {"state": SupervisorState.RUNNING, **more}
    view = SupervisorView(name=name, pid=1, age_s=1.0, workers=workers, **known)
    return Member(id, silent_s, started_ms, view)


def new(id: str, *states: WorkerState, **more: Any) -> Member:
    return member(id, *states, started_ms=ORDER_MS + 1, **more)


async def outcomes(before: list[Member], after: list[Member], *, leave: bool) -> list[Outcome]:
    registry = Registry(*before)
    rollout = Rollout(registry, Target("", "", leave))
    await rollout.begin()
    registry.found = after
    return [entry.outcome for entry in await rollout.look()]


@pytest.mark.parametrize(
    ("successor", "outcome"),
    [
        (new("b"), Outcome.BACK),
        (new("b", WorkerState.QUIET), Outcome.BACK),
        (new("b", STARTING), Outcome.STARTING),
        (new("b", STARTING, READY), Outcome.BACK),
        (new("b", queues=("other",)), Outcome.BACK),
        (new("b", name="renamed"), Outcome.BACK),
        (new("b", name="renamed", queues=("other",)), Outcome.LEFT),
        (new("b", host="web2"), Outcome.LEFT),
        (new("b", silent_s=60.0), Outcome.LEFT),
    ],
)
async def test_one_that_left_is_back_when_another_works_in_its_place(
    successor: Member, outcome: Outcome
):
    assert await outcomes([member("a")], [successor], leave=True) == [outcome]


async def test_one_successor_takes_one_place():
    before = [member("a"), member("b")]
    assert await outcomes(before, [new("c")], leave=True) == [Outcome.BACK, Outcome.LEFT]
    assert await outcomes(before, [new("c"), new("d")], leave=True) == [Outcome.BACK] * 2


async def test_same_name_counts_more_than_a_queue():
    before = [member("a", name="one"), member("b", name="two")]
    after = [new("c", name="two")]
    assert await outcomes(before, after, leave=True) == [Outcome.LEFT, Outcome.BACK]


async def test_supervisor_that_did_not_leave_has_no_successor():
    before = [member("a")]
    assert await outcomes(before, [*before, new("b")], leave=True) == [Outcome.WAITING]


@pytest.mark.parametrize(
    ("given_before", "found"),
    [(ORDER_MS, []), (ORDER_MS - 1, [Outcome.WAITING])],
    ids=["there at its start", "given later"],
)
async def test_generations_tell_who_obeys_whatever_the_clock_says(
    given_before: int, found: list[Outcome]
):
    """The Redis clock went back: who starts long after the order has an earlier time of start."""
    before, after = member("a"), member("b", given_before=given_before)
    registry = Registry(before)
    rollout = Rollout(registry, Target("", "", leave=False))
    await rollout.begin()
    registry.found = [before, after]
    assert [entry.outcome for entry in await rollout.look() if entry.id == "b"] == found


@pytest.mark.parametrize(
    ("generation", "outcome", "replaced"),
    [(ORDER_MS - 1, Outcome.WAITING, 0), (ORDER_MS, Outcome.RESTARTED, 1)],
)
async def test_roll_of_an_older_order_is_not_taken_for_this_one(
    generation: int, outcome: Outcome, replaced: int
):
    roll = Roll(state=RollState.DONE, generation=generation, replaced=1, workers=1)
    rollout = Rollout(Registry(member("a", roll=roll)), Target("", "", leave=False))
    (entry,) = await rollout.begin()
    assert (entry.outcome, entry.replaced) == (outcome, replaced)


@pytest.mark.parametrize(
    ("now", "outcome"),
    [
        (member("a", silent_s=60.0), Outcome.SILENT),
        (member("a", state=SupervisorState.DRAINING), Outcome.DRAINING),
        (member("a", state=SupervisorState.DRAINING, silent_s=60.0), Outcome.SILENT),
    ],
)
async def test_one_that_does_not_roll_is_shown_with_what_it_does(now: Member, outcome: Outcome):
    assert await outcomes([member("a")], [now], leave=False) == [outcome]


@pytest.mark.parametrize(("host", "orders"), [("web1", 1), ("web2", 0)])
async def test_no_order_is_given_when_nobody_is_there_to_obey(host: str, orders: int):
    """It would be obeyed by one that was cut off, much later."""
    registry = Registry(member("a"))
    entries = await Rollout(registry, Target(host, "", leave=False)).begin()
    assert (len(entries), registry.orders) == (orders, orders)


async def test_redis_that_is_away_for_a_while_is_waited_for(monkeypatch: pytest.MonkeyPatch):
    done = Roll(state=RollState.DONE, generation=ORDER_MS)
    registry = Registry(member("a"))
    rollout = Rollout(registry, Target("", "", leave=False))
    entries = await rollout.begin()

    async def fail() -> list[Member]:
        monkeypatch.undo()
        registry.found = [member("a", roll=done)]
        raise BrokerUnavailable("it is away")

    monkeypatch.setattr(registry, "members", fail)
    (entry,) = await shown_rollout(rollout, entries, 20.0, quiet=True)
    assert entry.outcome is Outcome.RESTARTED


async def test_without_exit_it_is_enough_to_have_left():
    assert await outcomes([member("a")], [new("b")], leave=False) == [Outcome.LEFT]
    assert Outcome.LEFT in Target("", "", leave=False).good
    assert Target("", "", leave=True).good == (Outcome.BACK,)
