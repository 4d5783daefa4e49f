"""F40: rubbish in any key, written by another hand: each script does all or nothing all the same.

And whoever reads afterwards, an operator or upkeep, is told of it in qcore's own errors at most.
"""

import asyncio
import contextlib
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qcore.broker.redis import scripts
from qcore.broker.redis.broker import Broker
from qcore.broker.redis.fleet import Fleet
from qcore.broker.redis.inspector import Inspector
from qcore.broker.redis.job_audit import audit
from qcore.broker.redis.keys import NAMESPACE_KEYS, QUEUE_KEYS
from qcore.broker.redis.queue_checks import check_queue, read_queues
from qcore.broker.redis.scripts import Script
from qcore.errors import BrokerError, QcoreError
from qcore.settings import BrokerConfig, WorkerConfig
from tests.support.content import forget_namespace
from tests.support.house import IDS, KEY, NO_TOKENS, QUEUE, TOKENS, House, calls
from tests.support.moves import LEASE_MS, NOW, OWNER, claim

KINDS = QUEUE_KEYS | NAMESPACE_KEYS
#: What a hand may write where a number, a record, an id or a token belongs.
VALUES = [b"", b"many", b"abc", b"nan", b"inf", b"-1", b"1e5", b"9" * 15, b"9" * 400, b"1 many"]
VALUES += [b"0 1 1 - 0 ready0", b"0 1 1 - 0 ready2", b"d" + KEY.encode(), b"1 \x91\x90"]
VALUES += [b"many 1", b"3 3", b"1 1 x", b"\xff\xfe", b"\x00", b"0", b"1 " + b"9" * 400, b"\xc1" * 9]
SCORES = [b"inf", b"-inf", b"1e300", b"-5", b"0.5", str(2**60).encode(), str(NOW).encode()]
FIELDS = ["fence", "paused", "closed", "last_sweep", "guard_until", "clock_back", "nonce"]
FIELDS += ["restart::", "restart:host:", "old", KEY, "max_jobs"]
NAMES = st.one_of(st.sampled_from([*IDS, *TOKENS, *NO_TOKENS, *FIELDS]), st.binary(max_size=9))


@st.composite
def scribbles(draw: st.DrawFn, keys: Mapping[str, bytes]) -> tuple[object, ...]:
    """Return one command that writes rubbish into one of the keys, as its type allows."""
    name = draw(st.sampled_from(sorted(keys)))
    member, value = draw(NAMES), draw(st.sampled_from(VALUES) | st.binary(max_size=20))
    match KINDS[name][0]:
        case "hash":
            return b"HSET", keys[name], member, value
        case "zset":
            return b"ZADD", keys[name], draw(st.sampled_from(SCORES)), member
        case _:
            return draw(st.sampled_from([b"LPUSH", b"RPUSH"])), keys[name], member


class OddHouse(House):
    """The house with anything in its keys, of any type."""

    def __init__(self, broker: Broker) -> None:
        super().__init__(broker)
        self.names = broker._keys_of(QUEUE).names | self.shared.names
        self.inspector, self.fleet = Inspector(broker), Fleet(broker)
        self.dumps: list[bytes | None] = []

    async def dump(self) -> list[bytes | None]:
        return await self.broker._ask([(b"DUMP", name) for name in self.names.values()])

    async def rebuild(self) -> None:
        """Let everything be as `fill` left it the first time."""
        if not self.dumps:
            await self.fill()
            self.dumps = await self.dump()
        pairs = [*zip(self.names.values(), self.dumps, strict=True)]
        await self.broker._ask([(b"DEL", *self.names.values())])
        await self.broker._ask([(b"RESTORE", n, 0, dump) for n, dump in pairs if dump])

    async def try_call(self, script: Script, words: list[Any]) -> None:
        """A call that fails changes nothing."""
        keys = self.broker._keys_of(QUEUE) if set(script.keys) <= set(QUEUE_KEYS) else self.shared
        before = await self.dump()
        error = None
        try:
            await self.broker._ask([script.call(keys, *words)])
        except BrokerError as e:
            error = e
        if error is not None:
            after = await self.dump()
            assert after == before, f"{script.name} failed and has changed something: {error}"

    async def read_all(self) -> None:
        """Ask all that operators and upkeep ask; only errors of qcore may come of it."""
        worker = WorkerConfig(queues=(QUEUE,))
        for reading in await read_queues(self.broker, [QUEUE]):
            check_queue(reading, worker)
        await audit(self.broker, QUEUE)
        await self.inspector.queues([QUEUE])
        await self.inspector.dead(QUEUE)
        await self.fleet.members()
        await self.broker.recover([QUEUE], f"{OWNER}:", LEASE_MS, now_ms=NOW)
        await claim(self.broker, prefix=f"{OWNER}:9:", now_ms=NOW)
        for id in IDS:
            with contextlib.suppress(QcoreError):  # its outcome, say, is none
                await self.inspector.job(QUEUE, id)

    async def go_on_with(self, scribble: tuple[object, ...]) -> None:
        """What is no job is passed over or buried, and what upkeep does is done."""
        await self.rebuild()
        await self.broker._ask([scribble])
        await self.read_all()
        await self.go_on()
        await self.read_all()


@pytest.fixture
def odd(redis_url: str, namespace: str):
    with asyncio.Runner() as loop:
        broker = Broker(BrokerConfig(url=redis_url, namespace=namespace))
        try:
            yield loop, OddHouse(broker)
        finally:
            loop.run(broker.close())
            loop.run(forget_namespace(redis_url, namespace))


def fuzz(examples: int) -> settings:
    return settings(
        max_examples=examples,
        deadline=None,
        print_blob=True,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
    )


@pytest.mark.parametrize("script", scripts.SCRIPTS, ids=lambda script: script.name)
def test_call_on_rubbish_does_all_or_nothing(odd, script):
    loop, house = odd

    async def run(scribbled: list[tuple[object, ...]], words: list[Any]) -> None:
        await house.rebuild()
        await house.broker._ask(scribbled)
        # the first write of most scripts, which removes nothing but what another hand has put there
        await house.broker._ask([(b"ZREM", house.names["active"], b"")])
        await house.try_call(script, words)

    @fuzz(60)
    @given(st.lists(scribbles(house.names), min_size=1, max_size=3), calls(script))
    def go(scribbled: list[tuple[object, ...]], words: list[Any]) -> None:
        loop.run(run(scribbled, words))

    go()


def test_upkeep_and_operators_get_along_with_rubbish(odd):
    loop, house = odd

    @fuzz(150)
    @given(scribbles(house.names))
    def go(scribble: tuple[object, ...]) -> None:
        loop.run(house.go_on_with(scribble))

    go()


#: Calls that write as much as they can.
BUSY: dict[str, list[list[object]]] = {
    "enqueue": [["", "nonce", 99, "new0", "", "x", "new1", "+5", "x"]],
    "admission": [
        [NOW, "nonce", "99 0 2", "new0", f"+5 1 5000 repeat - 0 {KEY}", "x", "new1", "", "x"],
        [NOW, "nonce", "99 9 1 1", "new0", f" 0 done replace - 7 {KEY}", "x", "new1", "", "x"],
    ],
    "promote": [[NOW + 10**6, 9]],
    "claim": [[NOW + 10**6, 9, LEASE_MS, f"{OWNER}:7:", 10**6, 9, s, 9] for s in (0, 1, 2)],
    "recover": [[NOW, LEASE_MS, f"{OWNER}:", 1, 0], [NOW, LEASE_MS, f"{OWNER}:", 0, 0]],
    "extend": [[NOW, LEASE_MS, f"{OWNER}:2:held0"]],
    "update_record": [[f"{OWNER}:2:held0", "record"]],
    "ack": [[f"{OWNER}:2:held{n}" for n in range(3)]],
    "settle": [
        [NOW, 1, 1, 0, 0, *(f"{OWNER}:2:held{n}" for n in (1, 2)), "out", 9, "record", 9],
        [NOW, 0, 0, 1, 2, *(f"{OWNER}:2:held{n}" for n in (1, 0, 2)), "record"],
    ],
    "reclaim": [[NOW + 10**6, LEASE_MS, 10**9, 0, 9, 9, 0]],
    "reclaim_owner": [[NOW, OWNER, charge, limit, 0] for charge, limit in ((1, 9), (1, 1), (0, 9))],
    "acquit": [[NOW, "held0", "odd0", "held1"]],
    "cancel": [[NOW, 5, "gone", *IDS]],
    "clear": [[NOW, 9, "gone", 5]],
    "forget": [[NOW, 5, 1]],
    "pause": [[NOW, 5, "why"]],
    "close": [[NOW]],
    "resume": [[NOW]],
    "revive": [[NOW, "dead0", "record", "dead1", "record"]],
    "purge": [[NOW + 10**6, 0, 9], ["", "", 9, "dead0", "dead1"]],
    "free": [[KEY, "u4 none=1"]],
    "prune": [[NOW + 10**6, 9, 5, 5, 5, 0]],
    "find": [[id, "c9"] for id in ("held0", "late0", "ready0", "dead0")],
    "depth": [[NOW]],
    "audit": [["ready0", "1", "", "held0", "0", f"{OWNER}:2:held0"]],
    "judge_keys": [[1, KEY, "late1", "dead0"]],
    "heartbeat": [[NOW, "new", "record", 5, 0]],
    "restart": [[NOW, "restart::", 0, 5]],
}


@pytest.mark.parametrize("script", scripts.SCRIPTS, ids=lambda script: script.name)
def test_key_of_another_type_stops_a_script_before_its_first_write(odd, script):
    loop, house = odd

    async def go() -> None:
        for name in script.keys:
            for words in BUSY[script.name]:
                await house.rebuild()
                key = house.names[name]
                await house.broker._ask([(b"DEL", key), (b"SET", key, b"of somebody else")])
                await house.try_call(script, words)

    loop.run(go())


async def test_queue_with_a_key_of_another_type_does_not_stop_the_claims_of_others(broker):
    house = OddHouse(broker)
    await house.rebuild()
    await broker._ask([(b"DEL", house.names["jobs"]), (b"SET", house.names["jobs"], b"x")])
    keys = broker._keys_of("other")
    await broker._ask([scripts.ENQUEUE.call(keys, NOW, "nonce", 1, "a", "", "payload")])
    turn = await claim(broker, queues=(QUEUE, "other"), prefix=f"{OWNER}:9:")
    assert [lease.id for lease in turn.leases] == ["a"]
    assert list(turn.unreadable) == [QUEUE]
    assert "WRONGTYPE" in turn.unreadable[QUEUE]
