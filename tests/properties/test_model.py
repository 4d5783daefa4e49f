"""The scripts and a model of them in Python move the same jobs at random and agree at every step.

After each step the whole content of Redis equals the model's, and these hold: I1 (what was
accepted is somewhere or has ended), I2 (nothing else is), I3 (a lease is settled once), I7 (each id
is in one place, in the end no key is left), I8 (only a lost lease counts as a crash), I9 (nothing
starts early). I4 and I6 follow for one queue: a job runs again only after it came back, and the end
of each example empties the queues. I5 and I10 are promises of workers.
"""

import asyncio
import math
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, precondition, rule, run_state_machine_as_test

from qcore.broker.contract import ClaimRequest, Turn
from qcore.broker.redis import scripts
from qcore.broker.redis.broker import Broker
from qcore.broker.redis.script_codec import read_claim, read_leases, settle_calls
from qcore.model.job import Acked, Buried, Lease, Outcome, Released
from qcore.settings import BrokerConfig
from tests.support.admissions import Admissions
from tests.support.content import forget_namespace
from tests.support.draws import KEEP_MS, OUTCOMES, OWNERS, delays, few, late, owners, queues, steps
from tests.support.machine import QUEUES, pairs, plain, teach, words_of
from tests.support.model import HOUR_MS, id_of
from tests.support.moves import LEASE_MS, NOW, SECOND

STALE_MS, GUARD_MS, CRASH_LIMIT = 15 * SECOND, 20 * SECOND, 5
TRACE_MS, SILENT_MS = 24 * HOUR_MS, HOUR_MS
TRACE_BYTES = 2


class House(Admissions):
    """Two queues, two workers, one producer of each nonce, and whoever looks after them."""

    def __init__(self) -> None:
        super().__init__()
        self.now = NOW
        self.claims = 0
        #: Every lease that was ever given; most of the older ones are those of zombies.
        self.leases: dict[str, list[Lease]] = {queue: [] for queue in QUEUES}
        self.settled: set[bytes] = set()

    @initialize(depth=st.sampled_from((0, 1, 2, 3, 3, 3)))
    def begin(self, depth: int) -> None:
        """Begin anywhere between an empty queue and one with jobs in every state."""
        calls: dict[str, Any] = {"delay": 0, "is_at": False, "repeated": 1, "known": 1}
        takes: dict[str, Any] = {"names": ("one",), "limits": (9, 9), "room": 10**6}
        takes |= {"promote": 200, "line": "ready", "is_idle": True, "reply_is_lost": False}
        if depth > 0:
            self.enqueue("one", 4, **calls)
        if depth > 1:
            for _ in range(2):
                self.claim(owner="aa", limit=2, **takes)
                self.crash("one", "aa", charge=True)
            self.now += SECOND
            self.promote("one", 2)
        if depth > 2:
            self.enqueue("one", 3, **calls)
            self.claim(owner="bb", limit=5, **takes)
            first, second, third, *_ = self.leases["one"]
            self._settle("one", [(first, Buried(b"buried")), (second, Acked(b"result", KEEP_MS))])
            for id in self.models["one"].jobs:
                self._wait("one", id, "c1")
            self._cancel("one", [third.id])
            for _ in range(2):
                self.claim(owner="aa", limit=2, **takes | {"line": "quarantine"})
                self.crash("one", "aa", charge=True)
                self.now += 4 * SECOND
                self.promote("one", 2)

    @rule(ms=steps)
    def time_goes(self, ms: int) -> None:
        self.now += ms

    # -- producers --------------------------------------------------------------------------------

    @rule(
        queue=queues,
        count=few,
        delay=delays,
        is_at=st.booleans(),
        repeated=st.integers(0, 9),
        known=st.integers(0, 9),
    )
    def enqueue(
        self, queue: str, count: int, delay: int, is_at: bool, repeated: int, known: int
    ) -> None:
        """Also the repeat of a call whose reply was lost, and ids that are there already."""
        model = self.models[queue]
        self.calls += repeated > 0
        ids = [f"{self.ids + n:04}" for n in range(count)]
        self.ids += count
        if known == 0:
            ids += list(model.jobs)[:2]
        when = f"@{self.now + delay}" if is_at else f"+{delay}" if delay else ""
        bodies = {id: body for id, (_, body) in model.jobs.items()}
        items = [(id, self.now + delay, bodies.get(id, f"body {id}")) for id in ids]
        words = [word for id, _, body in items for word in (id, when, body)]
        reply = self.ask(scripts.ENQUEUE, queue, self.now, "nonce", self.calls, *words)
        expected = model.enqueue(self.now, "nonce", self.calls, items)
        self.accepted[queue] |= {id for id in ids if id in model.jobs}
        self.agree(reply and [id.decode() for id in reply], expected)

    # -- workers ----------------------------------------------------------------------------------

    @rule(
        names=st.sampled_from((QUEUES, QUEUES[::-1], *((queue,) for queue in QUEUES))),
        owner=owners,
        limit=few,
        limits=st.tuples(few, few),
        room=st.sampled_from((1, 40, 10**6)),
        promote=st.sampled_from((1, 200)),
        line=st.sampled_from(("ready", "quarantine")),
        is_idle=st.booleans(),
        reply_is_lost=st.sampled_from((False, False, False, True)),
    )
    def claim(
        self,
        names: tuple[str, ...],
        owner: str,
        limit: int,
        limits: tuple[int, int],
        room: int,
        promote: int,
        line: str,
        is_idle: bool,
        reply_is_lost: bool,
    ) -> None:
        """What a lost reply said is found by `recover`, `reclaim` or `crash`."""
        self.claims += 1
        prefix = f"{owner}:{self.claims}:"
        request = ClaimRequest(
            names, limit, LEASE_MS, prefix, limits, line == "quarantine", is_idle
        )
        quarantined = 0 if line == "ready" else 1 if is_idle else 2
        words = (self.now, limit, LEASE_MS, prefix, room, promote, quarantined)
        early = {
            (name, id)
            for name in names
            for id, due in self.models[name].scheduled.items()
            if due > self.now
        }
        reply = self.ask(scripts.CLAIM, names, *words, *limits[: len(names)])
        turn = Turn()
        read_claim(reply, request, turn)

        left, taken = limit, list[tuple[str, str, int]]()
        for name, most in zip(names, limits, strict=False):
            if left <= 0 or room <= 0:
                break
            model = self.models[name]
            deadline, waited = self.now + LEASE_MS, len(model.scheduled)
            words = self.now, deadline, prefix, most, left, room, max(1, promote), line
            ids, left, room, fence = model.claim(*words, is_idle and not taken)
            promote -= waited - len(model.scheduled)
            taken += [(name, prefix + id, fence) for id in ids]
        again = min(self.models[n].again(line, self.now, took=bool(taken)) for n in names)
        quarantined = sum(self.models[name].waiting_in_quarantine(self.now) for name in names)
        paused = {name for name in names if self.models[name].paused_until(self.now) is not None}
        self.agree(
            (plain(turn.leases), turn.again_ms, turn.quarantined),
            (
                [self.expected(*row) for row in taken],
                None if again == math.inf else max(0, again - self.now) if again else 0,
                quarantined,
            ),
        )
        assert not early & {(lease.queue, lease.id) for lease in turn.leases}, "I9"
        assert not paused & {lease.queue for lease in turn.leases}
        if not reply_is_lost:
            self._give(turn.leases)

    def _give(self, leases: Sequence[Lease]) -> None:
        for lease in leases:
            self.leases[lease.queue].insert(0, lease)

    def _some(self, data: st.DataObject, queue: str, *, most: int = 4) -> list[Lease]:
        """Draw leases, the newest before the others."""
        held = self.leases[queue][:12]
        picks = st.lists(
            st.sampled_from(held), min_size=1, max_size=most, unique_by=lambda x: x.token
        )
        return data.draw(picks) if held else []

    @precondition(lambda self: self.claims > 0)
    @rule(queue=queues, owner=owners, seq=st.integers(0, 5))
    def recover(self, queue: str, owner: str, seq: int) -> None:
        """One lost claim of a worker, or all of a process that is gone."""
        prefix = f"{owner}:{self.claims - seq}:" if seq < 5 else f"{owner}:"
        reply = self.ask(scripts.RECOVER, queue, self.now, LEASE_MS, prefix, 1, 0)
        cursor, now, rise, found, *columns = reply
        ids = [id_of(token.decode()).encode() for token in found]
        leases = read_leases(queue, int(now), rise, found, ids, *columns)
        tokens, fence = self.models[queue].recover(self.now, self.now + LEASE_MS, prefix)
        self.agree(
            (cursor, sorted(plain(leases), key=str)),
            (b"0", sorted((self.expected(queue, t, fence) for t in tokens), key=str)),
        )
        self._give([x for x in leases if x.token not in {y.token for y in self.leases[queue]}])

    @precondition(lambda self: self.claims > 0)
    @rule(queue=queues, data=st.data())
    def extend(self, queue: str, data: st.DataObject) -> None:
        tokens = [lease.token for lease in self._some(data, queue)]
        reply = self.ask(scripts.EXTEND, queue, self.now, LEASE_MS, *tokens)
        expected = self.models[queue].extend(self.now + LEASE_MS, [t.decode() for t in tokens])
        self.agree([token.decode() for token in reply], expected)

    @precondition(lambda self: self.claims > 0)
    @rule(queue=queues, data=st.data())
    def note(self, queue: str, data: st.DataObject) -> None:
        for lease in self._some(data, queue, most=1):
            reply = self.ask(scripts.UPDATE_RECORD, queue, lease.token, "noted")
            expected = self.models[queue].note(lease.token.decode(), "noted")
            self.agree([token.decode() for token in reply], expected)

    @precondition(lambda self: self.claims > 0)
    @rule(queue=queues, data=st.data(), repeated=st.booleans())
    def settle(self, queue: str, data: st.DataObject, repeated: bool) -> None:
        """Also late, by a zombie; and once more, as after a reply that was lost."""
        chunk = [(lease, data.draw(OUTCOMES)) for lease in self._some(data, queue)]
        for _ in range(1 + repeated):
            self._settle(queue, chunk)

    def _settle(self, queue: str, chunk: list[tuple[Lease, Outcome]]) -> None:
        if not chunk:
            return
        calls = settle_calls(self.broker._keys_of, chunk, self.now)
        lost = {token for _, call in calls for token in self.ask(call.script, queue, *call.args)}
        accepted = {x.token for x, _ in chunk} - lost
        assert not accepted & self.settled, "I3"
        self.settled |= accepted
        self.ended[queue] |= {
            x.id for x, outcome in chunk if isinstance(outcome, Acked) and x.token in accepted
        }
        # within one call each kind of outcome keeps the order in which it was given
        ended = [(x.token.decode(), words_of(outcome)) for x, outcome in chunk]
        retries_first = sorted(ended, key=lambda item: item[1][0] == "release")
        expected = self.models[queue].settle(self.now, retries_first)
        self.agree({token.decode() for token in lost}, set(expected))

    @precondition(lambda self: any(model.cancels for model in self.models.values()))
    @rule(queue=queues, outcome=OUTCOMES)
    def heed(self, queue: str, outcome: Outcome) -> None:
        """A worker ends the jobs that nobody wants, or they end by themselves just then."""
        model = self.models[queue]
        unwanted = [x for x in self.leases[queue] if x.id in model.cancels]
        self._settle(queue, [(x, outcome) for x in unwanted if x.token.decode() in model.active])

    @rule(queue=queues, owner=owners)
    def stop(self, queue: str, owner: str) -> None:
        """A worker that leaves releases all it holds, in order."""
        active = self.models[queue].active
        mine = [x for x in self.leases[queue] if x.token.decode().startswith(f"{owner}:")]
        self._settle(queue, [(x, Released()) for x in mine if x.token.decode() in active])

    @rule(queue=queues)
    def hear(self, queue: str) -> None:
        """An idle worker takes the wakeup."""
        wakeup = self.broker._keys_of(queue).names["wakeup"]
        self.loop.run(self.broker._ask([(b"ZPOPMIN", wakeup)]))
        self.models[queue].wakeup.clear()

    # -- upkeep -----------------------------------------------------------------------------------

    @rule(queue=queues, limit=few)
    def promote(self, queue: str, limit: int) -> None:
        reply = self.ask(scripts.PROMOTE, queue, self.now, limit)
        self.agree(tuple(reply), self.models[queue].promote(self.now, limit))

    @rule(
        queue=queues, limit=st.sampled_from((1, 3, 200)), lasts=st.booleans(), heard=st.booleans()
    )
    def reclaim(self, queue: str, limit: int, lasts: bool, heard: bool = False) -> None:
        """A sweep, or the one before it as well, so that no guard stands."""
        for _ in range(1 + lasts):
            heard_ms = self.now - STALE_MS if heard else 0
            rules = (LEASE_MS, STALE_MS, GUARD_MS, CRASH_LIMIT, limit, heard_ms)
            now, *reply = self.ask(scripts.RECLAIM, queue, self.now, *rules)
            assert int(now) == self.now
            expected = self.models[queue].reclaim(self.now, *rules)
            self.agree(pairs(reply), expected, crashed=True)
            self.now += GUARD_MS * lasts

    @rule(queue=queues)
    def sweep_after_the_clock_went_back(self, queue: str) -> None:
        """One call takes a part of the leases, the next the rest."""
        self.reclaim(queue, 200, lasts=False)
        self.now -= 3 * LEASE_MS
        self.reclaim(queue, 1, lasts=False)
        self.reclaim(queue, 200, lasts=False)

    @rule(queue=queues, owner=owners, charge=st.booleans(), late=late)
    def crash(self, queue: str, owner: str, charge: bool, late: int = 0) -> None:
        """Its supervisor takes back what a dead process held, also when it was away for long."""
        self._crash(queue, owner, charge, late, [])

    @rule(queue=queues, owner=owners, data=st.data())
    def crash_of_known_culprits(self, queue: str, owner: str, data: st.DataObject) -> None:
        """Some of them, of other owners perhaps, and perhaps gone."""
        tokens = [*self.models[queue].active, f"{owner}:99:gone"]
        culprits = data.draw(st.lists(st.sampled_from(tokens), min_size=1, unique=True))
        self._crash(queue, owner, True, 0, culprits)

    def _crash(self, queue: str, owner: str, charge: bool, late: int, culprits: list[str]) -> None:
        self.now += late
        words = (self.now, owner, int(charge), CRASH_LIMIT, 0, *culprits)
        cursor, *reply = self.ask(scripts.RECLAIM_OWNER, queue, *words)
        model = self.models[queue]
        expected = model.reclaim_owner(self.now, owner, charge, CRASH_LIMIT, culprits)
        self.agree((cursor, pairs(reply)), (b"0", expected), crashed=charge)

    @rule(queue=queues, data=st.data())
    def acquit(self, queue: str, data: st.DataObject) -> None:
        ids = self.some_ids(data, queue)
        reply = self.ask(scripts.ACQUIT, queue, self.now, *ids)
        expected = self.models[queue].acquit(self.now, ids)
        self.agree([id.decode() for id in reply], expected, crashed=True)

    @rule(queue=queues, limit=few)
    def prune(self, queue: str, limit: int) -> None:
        model = self.models[queue]
        reply = self.ask(scripts.PRUNE, queue, self.now, limit, TRACE_MS, TRACE_BYTES, SILENT_MS, 0)
        count, is_more = model.prune(self.now, limit, TRACE_MS, TRACE_BYTES, SILENT_MS)
        self.agree(reply, [count, b"0", int(is_more)])

    # -- the end ----------------------------------------------------------------------------------

    def teardown(self) -> None:
        """Let everything run out: in the end nothing is left but the traces of sweeps."""
        try:
            for model in self.models.values():  # the clock may have gone back since
                calls = [at for _, at in model.producers.values()]
                times = (model.scheduled, model.expiry, model.dead, model.unique_until)
                dates = [at for table in times for at in table.values()]
                self.now = max([self.now, *calls, *dates])
            for queue in QUEUES if self.agreed else ():
                self._empty(queue)
        finally:
            self.loop.run(forget_keys(self.broker))

    def _empty(self, queue: str) -> None:
        model = self.models[queue]
        self.resume()
        for owner in OWNERS:
            self.crash(queue, owner, charge=False)
        self.promote(queue, limit=1000)
        for line in ("ready", "quarantine"):
            while getattr(model, line):
                self.claim((queue,), "aa", 500, (500, 500), 10**6, 200, line, True, False)
                held = [x for x in self.leases[queue] if x.token.decode() in model.active]
                self._settle(queue, [(lease, Acked()) for lease in held])
        self.purge_older(queue, age=0, limit=1000)
        for _ in range(2):
            self.now += TRACE_MS + SILENT_MS + KEEP_MS
            self.prune(queue, limit=1000)
        assert set(self.found[queue]) <= {"wakeup", "meta"}


async def forget_keys(broker: Broker) -> None:
    names = [name for queue in QUEUES for name in broker._keys_of(queue).names.values()]
    await broker._ask([(b"DEL", *names)])


@pytest.mark.timeout(400)  # 30 s on a quiet machine, and no deadline to miss on another
def test_scripts_do_what_the_model_says(redis_url, namespace):
    """A failure prints its steps, and @reproduce_failure(...) to repeat them."""
    with asyncio.Runner() as loop:
        House.loop = loop
        House.broker = Broker(BrokerConfig(url=redis_url, namespace=namespace))
        loop.run(teach(House.broker))
        try:
            run_state_machine_as_test(
                House,
                settings=settings(
                    max_examples=200, stateful_step_count=50, deadline=None, print_blob=True
                ),
            )
        finally:
            loop.run(House.broker.close())
            loop.run(forget_namespace(redis_url, namespace))
