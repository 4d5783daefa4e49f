"""What a state machine of the scripts compares at every step, and what must always hold."""

import asyncio
from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine

from qcore.broker.redis import scripts
from qcore.broker.redis.broker import Broker
from qcore.broker.redis.scripts import Script
from qcore.errors import QueueClosed
from qcore.model.job import Acked, Buried, Lease, Outcome, Released, Retried
from tests.support.content import reads, shown
from tests.support.model import Model, id_of

QUEUES: tuple[str, ...] = ("one", "two")


class Agreeing(RuleBasedStateMachine):
    """Runs scripts; compares their replies, and what they leave, with the models'."""

    loop: asyncio.Runner
    broker: Broker
    #: The time that every script is told, unix ms.
    now: int

    def __init__(self) -> None:
        super().__init__()
        self.models = {queue: Model() for queue in QUEUES}
        self.accepted: dict[str, set[str]] = {queue: set() for queue in QUEUES}
        self.ended: dict[str, set[str]] = {queue: set() for queue in QUEUES}
        self.agreed = True
        self.crashes: dict[str, dict[str, int]] = {queue: {} for queue in QUEUES}

    # -- one step ---------------------------------------------------------------------------------

    def ask(self, script: Script, queue: str | Sequence[str], *args: object) -> Any:
        """Run a script and keep what stands in Redis after it, for `agree`.

        The reply of a queue that takes no new jobs is None.
        """
        names = [queue] if isinstance(queue, str) else list(queue)
        call = script.call([self.broker._keys_of(name) for name in names], *args)
        looks = [command for name in QUEUES for command in reads(self.broker, name)]
        try:
            reply, *found = self.loop.run(self.broker._ask([call, *looks]))
        except QueueClosed:
            reply, found = None, self.loop.run(self.broker._ask(looks))
        half = len(found) // 2
        self.found = dict(zip(QUEUES, (shown(found[:half]), shown(found[half:])), strict=True))
        return reply

    def agree(self, reply: object, expected: object, *, crashed: bool = False) -> None:
        """Compare reply and content with the model's; then see what must always hold."""
        self.agreed = False
        assert reply == expected
        for queue, model in self.models.items():
            assert self.found[queue] == model.content(), queue
            self.hold(queue, model, crashed=crashed)
        self.agreed = True

    def hold(self, queue: str, model: Model, *, crashed: bool) -> None:
        active = [id_of(token) for token in model.active]
        live = [*model.ready, *model.quarantine, *model.scheduled, *active, *model.dead]
        places = [*live, *model.done]
        assert len(places) == len(set(places)), "I7: an id is in two places"
        assert set(live) == set(model.jobs), "I7: a job without payload, or the other way round"
        assert set(model.running.items()) == {(id_of(t), t) for t in model.active}
        assert set(model.done) == set(model.expiry)
        assert set(model.cancels) <= {*model.ready, *model.quarantine, *active}
        assert set(model.waiters) <= set(live) - set(model.dead)
        assert {*model.state, *model.crashes} <= set(live)
        self.ended[queue] |= set(model.done)
        self.hold_keys(model, active)
        assert self.accepted[queue] - set(places) <= self.ended[queue], "I1"
        assert set(places) <= self.accepted[queue], "I2"
        crashes = {id: count for id, (count, _) in model.crashes.items()}
        if not crashed:
            assert crashes.items() <= self.crashes[queue].items(), "I8"
        self.crashes[queue] = crashes

    def hold_keys(self, model: Model, active: Sequence[str]) -> None:
        held = model.unique_of
        for key, entry in model.unique.items():
            # an id that is used again holds nothing of before, though its window lasts
            is_known = held.get(entry.id, " ")[1:] == key or entry.till > 0
            assert is_known, "a key is held by one that does not know it"
            assert (key in model.unique_until) >= (entry.till > 0)
        assert {id for id, name in held.items() if name[0] != "w"} <= set(model.jobs)
        waits = {*model.ready, *model.quarantine} - set(model.cancels) | set(model.scheduled)
        live = [held[id][1:] for id in {*waits, *active} if held.get(id, " ")[0] == "d"]
        assert len(live) == len(set(live)), "I12: two live jobs of a key"

    def some_ids(self, data: st.DataObject, queue: str, *, most: int = 3) -> list[str]:
        """Draw ids of any state, those of jobs that went through something first."""
        model = self.models[queue]
        known = [*model.dead, *map(id_of, model.active), *model.scheduled, *model.quarantine]
        known += [*model.ready, *model.done, "unknown"]
        return data.draw(st.lists(st.sampled_from(known), min_size=1, max_size=most))

    def expected(self, queue: str, token: str, fence: int) -> tuple[object, ...]:
        model, id = self.models[queue], id_of(token)
        state = model.state.get(id)
        return (
            queue,
            token,
            model.jobs[id][1].encode(),
            None if state is None else state.encode(),
            model.lost(id, self.now),
            fence,
            id in model.cancels,
        )


def plain(leases: Sequence[Lease]) -> list[tuple[object, ...]]:
    """Return what `expected` says of leases that were given."""
    return [
        (x.queue, x.token.decode(), x.envelope, x.state, x.crashes, x.fence, x.cancel_requested)
        for x in leases
    ]


def words_of(outcome: Outcome) -> tuple[Any, ...]:
    """Return an outcome as the model takes it."""
    match outcome:
        case Acked(outcome=None):
            return ("ack",)
        case Acked(outcome=kept, keep_ms=ms):
            return ("keep", (kept or b"").decode(), ms)
        case Retried(delay_ms=ms, state=state):
            return ("retry", state.decode(), ms)
        case Buried(state=state):
            return ("bury", state.decode())
        case Released():
            return ("release",)


def texts(reply: Any) -> Any:
    """Return a reply with text for its bytes."""
    if isinstance(reply, list):
        return [texts(part) for part in reply]
    return reply.decode() if isinstance(reply, bytes) else reply


def pairs(flat: list[bytes]) -> list[tuple[str, str]]:
    """Return what a script replied in pairs, as text."""
    words = [word.decode() for word in flat]
    return list(zip(words[::2], words[1::2], strict=True))


async def teach(broker: Broker) -> None:
    """A script that the server is yet to be taught would run after the reads behind it."""
    await broker._ask([(b"SCRIPT", b"LOAD", script.source) for script in scripts.SCRIPTS])
