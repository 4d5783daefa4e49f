"""A queue with jobs in every state, and calls of any script with words of any shape."""

from collections.abc import Iterator, Mapping
from typing import Any

from hypothesis import strategies as st

from qcore.broker.redis import scripts
from qcore.broker.redis.broker import Broker
from qcore.broker.redis.keys import QUEUE_KEYS, namespace_keys
from qcore.broker.redis.scripts import Script
from qcore.errors import BrokerError
from qcore.model.job import Buried, Retried
from tests.support.content import reads, shown
from tests.support.lua import FOLDER, header_of
from tests.support.moves import LEASE_MS, NOW, OTHER_OWNER, OWNER, claim, leased, put, settle

QUEUE = "orders"
#: Ids and tokens of `fill`, and of nobody.
IDS = [f"{kind}{n}" for kind in ("ready", "late", "held", "dead", "done", "odd") for n in range(3)]
TOKENS = [f"{owner}:{seq}:{id}" for owner in (OWNER, OTHER_OWNER) for seq in (1, 2) for id in IDS]
#: Of `late1`; others hold keys of their own.
KEY = "u4 task=late1"
NO_TOKENS = ["", ":", "::", "no-token", f"{OWNER}:1", ":1:held0", "a:b", "\x00:\x00:\x00"]
#: Words that are wrong somewhere, and some that are right here and there.
ODD: list[Any] = ["", "x", "nan", "inf", "-inf", "1e5", "0x10", " 1", "1 ", "1.5", "-", "+1", "@5"]
ODD += [
    10**400,
    -(10**400),
    2**63,
    -1,
    -5,
    b"\x00",
    b"\xff\xfe\x00nul",
    "i" * 5000,
    "%d%s",
    "(",
    "[",
]
WORDS = st.one_of(
    st.sampled_from(ODD),
    st.sampled_from([0, 1, 2, 3, 500, 8000, NOW, "+1000"]),
    st.sampled_from([*IDS, *TOKENS]),
    st.sampled_from(NO_TOKENS),
    st.binary(max_size=30),
)

#: Words that fit an argument by its name in the Lua header.
RIGHT = {
    "now_ms": st.sampled_from([NOW, NOW + LEASE_MS + 1, ""]),
    "limit": st.integers(0, 5),
    "promote": st.integers(0, 5),
    "quarantine": st.sampled_from([0, 1, 2]),
    "prefix": st.sampled_from([f"{OWNER}:7:", f"{OWNER}:1:"]),
    "nonce": st.just("nonce"),
    "call": st.integers(0, 10),
    "admission.call": st.sampled_from(["9 0 1", "9 0 1 2", "9 5 3", "0 0 1"]),
    "count": st.integers(0, 3),
    "admission.items": st.sampled_from(
        [*IDS, "new", "", "+1000", f" 0 done replace - 0 {KEY}", f"+5 1 900 repeat - 9 {KEY}"]
    ),
    "cursor": st.just(0),
    "owner": st.sampled_from([OWNER, OTHER_OWNER, "nobody"]),
    "charge": st.sampled_from([0, 1]),
    "id": st.sampled_from(IDS),
    "channel": st.sampled_from(["", "c1"]),
    "outcome": st.binary(max_size=9),
    "age_ms": st.sampled_from(["", 0, 1000]),
    "for_ms": st.sampled_from(["", 1, 1000, LEASE_MS]),
    "reason": st.sampled_from(["", "a deploy", "0 0 0"]),
    **dict.fromkeys(("acks", "keeps", "retries", "buries", "releases"), st.integers(0, 2)),
    "ids": st.sampled_from(IDS),
    "tokens": st.sampled_from(TOKENS),
    "limits": st.integers(1, 5),
    "revive.items": st.sampled_from(["dead0", "dead1", "record"]),
    # of several scripts: ids, tokens, dues, records
    "items": st.sampled_from([*IDS, *TOKENS, "", "+1000", f"@{NOW}", "record", 0, 1000]),
    "supervisor": st.sampled_from(["old", "new"]),
    "field": st.sampled_from(["restart::", "restart:host:", "restart::queue"]),
    "exit": st.sampled_from([0, 1]),
}
MS = st.sampled_from([0, 1, 1000, LEASE_MS, -1000])
RESTS = ("ids", "items", "tokens", "limits")


@st.composite
def calls(draw: st.DrawFn, script: Script) -> list[Any]:
    """Return words for ARGV: right ones, of which some are then wrong, missing or too many."""
    names = header_of((FOLDER / f"{script.name}.lua").read_text()).argv
    words: list[Any] = []
    for name in names:
        right = RIGHT.get(f"{script.name}.{name}", RIGHT.get(name, MS))
        words += draw(st.lists(right, max_size=9)) if name in RESTS else [draw(right)]
    for _ in range(draw(st.integers(0, 2)) if words else 0):
        words[draw(st.integers(0, len(words) - 1))] = draw(WORDS)
    how = draw(st.sampled_from(("as it is", "as it is", "short", "long", "very long", "repeated")))
    if how == "short":
        words = words[: draw(st.integers(0, len(words)))]
    if how == "long":
        words += draw(st.lists(WORDS, max_size=4))
    if how == "very long":
        words += [draw(WORDS)] * 9000
    if how == "repeated" and words:
        words += words[draw(st.integers(0, len(words) - 1)) :]
    return words


def keep_together(found: dict[str, Any]) -> None:
    """See that each id is in one place, with its payload (I7)."""
    held = [token.split(":", 2)[2] for token in found.get("active", {})]
    live = [*found.get("ready", []), *found.get("quarantine", []), *found.get("scheduled", {})]
    live += [*held, *found.get("dead", {})]
    places = [*live, *found.get("done", {})]
    assert len(places) == len(set(places))
    assert set(live) == set(found.get("jobs", {}))
    assert set(found.get("running", {}).values()) == set(found.get("active", {}))
    assert set(found.get("done", {})) == set(found.get("expiry", {}))


def _keys(names: Mapping[str, bytes]) -> Iterator[tuple[object, ...]]:
    """Yield the commands that give keys to jobs in every state."""
    letters = {"ready0": "d", "held1": "d", "late1": "d", "ready2": "s", "dead0": "d", "done1": "w"}
    for id, letter in letters.items():
        key, till = f"u4 task={id}", NOW + 5000 if letter == "w" else 0
        yield b"HSET", names["unique_of"], id, letter + key
        if id != "dead0":
            yield b"HSET", names["unique"], key, f"{till} {NOW} 1 - 0 {id}"
        if letter == "w":
            yield b"ZADD", names["unique_until"], till, key


class House:
    """A queue with jobs in every state, filled anew where a call has changed it."""

    def __init__(self, broker: Broker) -> None:
        self.broker = broker
        self.shared = namespace_keys(broker.config.namespace)
        self.before: dict[str, Any] | None = None

    async def fill(self) -> None:
        """Let there be a job of each state, cancels, waiters, quarantined jobs; then keep all."""
        broker, names = self.broker, self.broker._keys_of(QUEUE).names
        await broker._ask([(b"DEL", *names.values())])
        await broker._ask([(b"SCRIPT", b"LOAD", script.source) for script in scripts.SCRIPTS])
        held = await leased(broker, "dead0", "dead1", "done0", "odd0", "odd1")
        outcome = Retried(1000, b"record")
        ended = [(x, Buried(b"no")) for x in held[:2]] + [(x, outcome) for x in held[3:]]
        await settle(broker, *ended)
        await put(broker, "held0", "held1", "held2")
        await claim(broker, prefix=f"{OWNER}:2:")
        await put(broker, "ready0", "ready1", "ready2")
        await put(broker, "late0", "late1", when="+1000")
        await broker._ask(
            [
                (b"HSET", names["crashes"], "odd0", f"2 {NOW}", "held1", f"4 {NOW}"),
                (b"HSET", names["done"], "done1", "5 kept", "done2", "kept"),
                (b"ZADD", names["expiry"], NOW - 1, "done1", NOW - 1, "done2"),
                (b"HSET", names["cancels"], "held0", "5 gone", "ready1", "5 gone"),
                (b"HSET", names["waiters"], "held1", "c1", "late0", "c1 c2", "held0", "c2"),
                *_keys(names),
            ]
        )
        await broker.promote([QUEUE], limit=1, now_ms=NOW + 1000)
        shared = self.shared.names
        await broker._ask([(b"DEL", *shared.values())])
        await broker._ask(
            [
                (b"HSET", shared["fleet"], "old", (NOW - 9000).to_bytes(8) + b"x", "odd", "x"),
                (b"HSET", shared["control"], "restart::", f"{NOW - 9000} 0", "odd", "x"),
            ]
        )
        self.before = await self.look()

    async def look(self) -> dict[str, Any]:
        """Return all that stands in the keys of the queue and of the namespace."""
        names = self.shared.names
        held = await self.broker._ask([(b"HGETALL", key) for key in names.values()])
        found = shown(await self.broker._ask(reads(self.broker, QUEUE)))
        return found | dict(zip(names, held, strict=True))

    async def call(self, script: Script, words: list[Any]) -> None:
        if self.before is None:
            await self.fill()
        error = None
        try:
            of_queue = set(script.keys) <= set(QUEUE_KEYS)
            keys = self.broker._keys_of(QUEUE) if of_queue else self.shared
            await self.broker._ask([script.call(keys, *words)])
        except BrokerError as e:
            error = e
        after = await self.look()
        if error is not None:
            assert after == self.before, f"{script.name} failed and has changed something: {error}"
        elif after != self.before:
            self.before = None
            await self.go_on()
            # a client enqueues no id of the past, and settles each lease once in a call
            if script not in (scripts.ENQUEUE, scripts.ACK, scripts.SETTLE):
                keep_together(after)
                keep_together(shown(await self.broker._ask(reads(self.broker, QUEUE))))

    async def go_on(self) -> None:
        """Whatever the call has left, upkeep must get along with it."""
        keys, late = self.broker._keys_of(QUEUE), NOW + 100 * LEASE_MS
        rules = (LEASE_MS, LEASE_MS, 0, 9, 200, 0)
        await self.broker._ask(
            [
                *[scripts.RECLAIM.call(keys, late, *rules)] * 2,
                scripts.RECLAIM_OWNER.call(keys, late, OWNER, 1, 9, 0),
                scripts.PROMOTE.call(keys, late, 200),
                scripts.PRUNE.call(keys, late, 200, 1000, 11, 1000, 0),
                *(scripts.FIND.call(keys, id, "c1") for id in IDS),
            ]
        )
