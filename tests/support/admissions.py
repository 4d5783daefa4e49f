"""Requests for jobs that depend on what is there, as rules of the model's state machine."""

from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import rule

from qcore.broker.redis import scripts
from tests.support.draws import KEEP_MS, delays, queues
from tests.support.keys_model import Asked
from tests.support.machine import texts
from tests.support.operators import Operators

#: Some agree with each other and some do not, as after a deploy that changed its mind.
_KEYS = st.sampled_from(
    (
        {},
        {"is_own": True},
        {"key": "ua", "until": "done"},
        {"key": "ua", "until": "done"},
        {"key": "ua", "until": "done", "conflict": "replace"},
        {"key": "ua", "until": f"{KEEP_MS}", "conflict": "replace"},
        {"key": "ub", "until": "started", "conflict": "replace"},
        {"key": "ub", "until": "started"},
        {"key": "ub", "until": "done", "expires": 700},
        {"key": "uc", "until": "500"},
        {"key": "ic", "until": f"{KEEP_MS}", "conflict": "repeat", "digest": "aa"},
        {"key": "ic", "until": f"{KEEP_MS}", "conflict": "repeat", "digest": "bb"},
        {"key": "ic", "until": "700", "conflict": "repeat", "digest": "aa"},
        {"key": "ub", "until": "done", "is_own": True},
        {"key": "uc", "until": "500", "is_own": True},
        {"key": "ua", "until": "done"},
    )
)
_items = st.lists(
    st.tuples(_KEYS, delays, st.sampled_from(("own1", "own2"))), max_size=3, min_size=1
)


class Admissions(Operators):
    """Unique keys, keys of idempotency, ids of users, and queues that may be full."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0
        self.ids = 0

    @rule(
        queue=queues,
        drawn=st.lists(_items, min_size=1, max_size=3),
        most=st.sampled_from((0, 0, 2, 6)),
        repeated=st.integers(0, 5),
    )
    def admission(
        self,
        queue: str,
        drawn: list[list[tuple[dict[str, Any], int, str]]],
        most: int,
        repeated: int,
    ) -> None:
        """Some of them are the repeat of a call whose reply was lost."""
        self.calls += repeated > 0
        parcels = [[self._asked(*item) for item in parcel] for parcel in drawn]
        sizes = " ".join(str(len(parcel)) for parcel in parcels)
        items = [item for parcel in parcels for item in parcel]
        words = [word for item in items for word in (item.id, item.when(self.now), item.body)]
        call = f"{self.calls} {most} {sizes}"
        reply = self.ask(scripts.ADMISSION, queue, self.now, "keyed", call, *words)
        model = self.models[queue]
        before = len(model.ready) + len(model.quarantine) + len(model.scheduled)
        expected = model.admission(self.now, "keyed", self.calls, most, parcels)
        self.accepted[queue] |= {item.id for item in items if item.id in model.jobs}
        self.agree(texts(reply), expected)
        waiting = len(model.ready) + len(model.quarantine) + len(model.scheduled)
        if most and items[0].id in model.jobs:
            assert waiting <= max(most, before), "more than may wait"

    def _asked(self, terms: dict[str, Any], delay: int, own: str) -> Asked:
        self.ids += 1
        id = own if terms.get("is_own") else f"k{self.ids:04}"
        return Asked(id, self.now + delay, f"body {self.ids}", **terms)
