"""Queues with weights share the slots of a worker; without, the first with jobs goes first."""

from collections import Counter
from collections.abc import Sequence

import pytest

from qcore import App, ConfigError, Queue
from qcore.runtime.worker.queue_order import QueueOrder
from qcore.settings import WorkerConfig


def claim(order: QueueOrder, waiting: Counter[str], limit: int) -> list[str]:
    """Take jobs as claim.lua does; return their queues."""
    asked = order.of(waiting)
    taken: list[str] = []
    for queue in asked:
        count = min(limit - len(taken), waiting[queue])
        waiting[queue] -= count
        taken += [queue] * count
    order.took(asked, taken, has_more=waiting.total() > 0)
    return taken


def taken_of(order: QueueOrder, waiting: Counter[str], limits: Sequence[int]) -> Counter[str]:
    return Counter(queue for limit in limits for queue in claim(order, waiting, limit))


@pytest.mark.parametrize("limit", [1, 7, 100])
def test_queues_that_have_jobs_share_by_weight(limit: int):
    order = QueueOrder(("a", "b", "c"), (5, 1, 2))
    waiting = Counter(a=100_000, b=100_000, c=100_000)

    taken = taken_of(order, waiting, [limit] * (16_000 // limit))

    assert taken["a"] / taken["b"] == pytest.approx(5, rel=0.1)
    assert taken["a"] / taken["c"] == pytest.approx(2.5, rel=0.1)


def test_queue_without_jobs_leaves_its_share_to_the_others():
    order = QueueOrder(("a", "b"), (5, 1))
    assert taken_of(order, Counter(a=0, b=1000), [10] * 50) == {"b": 500}


def test_queue_that_fills_again_gets_its_share_and_not_what_it_missed():
    order = QueueOrder(("a", "b"), (1, 1))
    waiting = Counter(a=0, b=10_000)
    taken_of(order, waiting, [10] * 500)

    waiting["a"] = 10_000
    taken = taken_of(order, waiting, [10] * 100)

    assert taken["a"] == pytest.approx(500, abs=10)


def test_queue_that_was_alone_is_not_made_to_pay_for_it():
    order = QueueOrder(("a", "b"), (1, 1))
    waiting = Counter(a=10_000, b=0)
    taken_of(order, waiting, [10] * 500)

    waiting["b"] = 10_000

    assert taken_of(order, waiting, [10] * 100)["a"] == pytest.approx(500, abs=10)


def test_order_without_weights_is_the_one_that_is_given():
    order = QueueOrder(("b", "a"), ())
    waiting = Counter(b=15, a=100)
    assert claim(order, waiting, 10) == ["b"] * 10
    assert claim(order, waiting, 10) == ["b"] * 5 + ["a"] * 5


@pytest.mark.parametrize(
    ("weight", "why"),
    [
        (0, "queue bulk: weight is 0, allowed is 1 to 1000"),
        (1001, "weight is 1001"),
        (-1, "weight is -1"),
        (2.5, "weight is 2.5, give a whole number"),
        (True, "weight is True"),
        ("5", "weight is '5'"),
    ],
)
def test_weight_that_is_none_is_refused_where_it_is_given(weight: object, why: str):
    with pytest.raises(ConfigError, match=why):
        Queue("bulk", weight=weight)  # type: ignore[arg-type]


def test_weights_are_for_all_queues_or_for_none():
    assert App(queues=[Queue("a", weight=5), Queue("b", weight=1)]).weights == (5, 1)
    assert App(queues=["a", Queue("b")]).weights == ()
    with pytest.raises(ConfigError, match="have no weight while others have one: b, c; give"):
        App(queues=[Queue("a", weight=5), "b", Queue("c")])
    with pytest.raises(ConfigError, match="2 queues have 1 weights"):
        WorkerConfig(queues=("a", "b"), weights=(1,))
