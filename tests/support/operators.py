"""What users and operators do to the queues of the model, as rules of its state machine."""

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from qcore.broker.redis import scripts
from tests.support.draws import KEEP_MS, few, queues
from tests.support.machine import Agreeing, texts
from tests.support.model import HOUR_MS
from tests.support.moves import LEASE_MS, NOW, SECOND


class Operators(Agreeing):
    """Waits, cancels, clears, revives, purges, pauses, closes and resumes."""

    now = NOW

    @rule(queue=queues, channel=st.sampled_from(("c1", "c12")), data=st.data())
    def wait(self, queue: str, channel: str, data: st.DataObject) -> None:
        for id in self.some_ids(data, queue, most=1):
            self._wait(queue, id, channel)

    def _wait(self, queue: str, id: str, channel: str) -> None:
        reply = self.ask(scripts.FIND, queue, id, channel)
        self.agree(reply[0].decode(), self.models[queue].find(id, channel))

    @rule(queue=queues, data=st.data())
    def cancel(self, queue: str, data: st.DataObject) -> None:
        self._cancel(queue, self.some_ids(data, queue))

    def _cancel(self, queue: str, ids: list[str]) -> None:
        reply = self.ask(scripts.CANCEL, queue, self.now, KEEP_MS, "cancelled", *ids)
        expected = self.models[queue].cancel(self.now, KEEP_MS, "cancelled", ids)
        self.agree([place.decode() for place in reply], expected)

    @rule(queue=queues, limit=few)
    def clear(self, queue: str, limit: int) -> None:
        model, before = self.models[queue], set(self.models[queue].jobs)
        reply = self.ask(scripts.CLEAR, queue, self.now, limit, "cleared", KEEP_MS)
        expected = model.clear(self.now, limit, "cleared", KEEP_MS)
        self.ended[queue] |= before - model.jobs.keys()
        self.agree(reply, expected)

    @precondition(lambda self: any(model.dead for model in self.models.values()))
    @rule(queue=queues, data=st.data())
    def revive(self, queue: str, data: st.DataObject) -> None:
        items = [(id, "revived") for id in self.some_ids(data, queue)]
        reply = self.ask(
            scripts.REVIVE, queue, self.now, *(word for item in items for word in item)
        )
        self.agree(texts(reply), self.models[queue].revive(self.now, items))

    @precondition(lambda self: any(model.dead for model in self.models.values()))
    @rule(queue=queues, data=st.data())
    def purge(self, queue: str, data: st.DataObject) -> None:
        ids = self.some_ids(data, queue)
        self.ended[queue] |= set(ids) & set(self.models[queue].dead)
        reply = self.ask(scripts.PURGE, queue, self.now, "", 0, *ids)
        self.agree(reply, self.models[queue].purge(self.now, ids))

    @precondition(lambda self: any(model.dead for model in self.models.values()))
    @rule(queue=queues, age=st.sampled_from((0, 5000, HOUR_MS)), limit=few)
    def purge_older(self, queue: str, age: int, limit: int) -> None:
        model = self.models[queue]
        self.ended[queue] |= set(model.dead)
        reply = self.ask(scripts.PURGE, queue, self.now, age, limit)
        self.agree(reply, model.purge_older(self.now, age, limit))

    @rule(queue=queues, for_ms=st.sampled_from((None, 1, SECOND, LEASE_MS)))
    def pause(self, queue: str, for_ms: int | None) -> None:
        reply = self.ask(scripts.PAUSE, queue, self.now, for_ms or "", "a deploy")
        self.agree(reply.decode(), self.models[queue].pause_for(self.now, for_ms, "a deploy"))

    @rule(queue=queues)
    def close(self, queue: str) -> None:
        reply = self.ask(scripts.CLOSE, queue, self.now)
        self.agree(reply, self.models[queue].close(self.now))

    @precondition(lambda self: any(model.is_held() for model in self.models.values()))
    @rule()
    def resume(self) -> None:
        for queue, model in self.models.items():
            reply = self.ask(scripts.RESUME, queue, self.now)
            self.agree(reply, model.resume(self.now))
