"""How calls are laid out and cut: nothing lost, nothing mixed up, nothing too large."""

import asyncio
import itertools
from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from qcore import App
from qcore.broker.contract import CALL_BYTES, CALL_JOBS
from qcore.broker.redis import script_codec as wire
from qcore.broker.redis import scripts
from qcore.broker.redis.coalescer import Coalescer
from qcore.broker.redis.keys import queue_keys
from qcore.broker.redis.scripts import Call
from qcore.errors import PayloadTooLarge
from qcore.model.job import Acked, Buried, Job, Lease, Outcome, Released, Retried

MS = st.integers(0, 2**53)
OUTCOMES = st.one_of(
    st.just(Acked()),
    st.builds(Acked, st.binary(max_size=20), MS),
    st.builds(Retried, MS, st.binary(max_size=20)),
    st.builds(Buried, st.binary(max_size=20)),
    st.just(Released()),
)


def lease(n: int) -> Lease:
    return Lease(f"owner:1:{n}".encode(), "orders", f"{n}", b"", None, 0, 0, 0)


def parsed(words: list[object]) -> dict[bytes, tuple[object, ...]]:
    """Read a settle call as settle.lua documents it, written apart from the code."""
    words = list(words)
    counts = [int(words.pop(0)) for _ in range(4)]  # type: ignore[call-overload]
    kinds = ["keep"] * counts[0] + ["retry"] * counts[1]
    kinds += ["bury"] * counts[2] + ["release"] * counts[3]
    tokens = [words.pop(0) for _ in kinds]
    width = {"keep": 2, "retry": 2, "bury": 1, "release": 0}
    found = {}
    for token, kind in zip(tokens, kinds, strict=True):
        found[token] = (kind, *(words.pop(0) for _ in range(width[kind])))
    assert words == []
    return found


def said(chunk: list[tuple[Lease, Outcome]]) -> dict[bytes, tuple[object, ...]]:
    """Return what the calls for a chunk of one queue say of each token."""
    found: dict[bytes, tuple[object, ...]] = {}
    for _, call in wire.settle_calls(lambda queue: queue_keys("ns", queue), chunk, b""):
        if call.script is scripts.ACK:
            found |= dict.fromkeys(call.args, ("ack",))  # type: ignore[arg-type]
        else:
            found |= parsed(list(call.args[1:]))
    return found


def expected(outcome: Outcome) -> tuple[object, ...]:
    match outcome:
        case Acked(outcome=None):
            return ("ack",)
        case Acked(outcome=kept, keep_ms=keep_ms):
            return ("keep", kept, keep_ms)
        case Retried(delay_ms=delay_ms, state=state):
            return ("retry", state, delay_ms)
        case Buried(state=state):
            return ("bury", state)
        case Released():
            return ("release",)


@given(st.lists(OUTCOMES, max_size=60))
def test_settle_call_gives_each_token_its_own_outcome(outcomes):
    chunk = [(lease(n), outcome) for n, outcome in enumerate(outcomes)]
    found = said(chunk)
    assert found == {ended.token: expected(outcome) for ended, outcome in chunk}


@given(st.lists(OUTCOMES, max_size=60))
def test_settle_call_keeps_the_order_within_each_outcome(outcomes):
    """Released jobs return to the head of their queue in the order given."""
    chunk = [(lease(n), outcome) for n, outcome in enumerate(outcomes)]
    order = list(said(chunk))
    for kind in ("ack", "keep", "retry", "bury", "release"):
        given_order = [x.token for x, outcome in chunk if expected(outcome)[0] == kind]
        assert [token for token in order if token in set(given_order)] == given_order


SIZES = st.integers(0, 100) | st.integers(CALL_BYTES // 4, CALL_BYTES // 2)
SIZES |= st.just(CALL_BYTES + 1)


def bytes_in(chunk: list[tuple[Lease, Outcome]]) -> int:
    return sum(len(outcome.state) for _, outcome in chunk if isinstance(outcome, Buried))


@given(st.lists(SIZES, max_size=40), st.integers(1, 60))
def test_settles_are_cut_into_calls_of_bounded_size(sizes, times):
    shared = {size: bytes(size) for size in sizes}
    items: list[tuple[Lease, Outcome]] = [
        (lease(n), Buried(shared[size])) for n, size in enumerate(sizes * times)
    ]
    chunks = list(wire.chunks(items))
    assert [item for chunk in chunks for item in chunk] == items
    for chunk in chunks:
        assert 1 <= len(chunk) <= CALL_JOBS
        size = bytes_in(chunk)
        assert size <= CALL_BYTES or len(chunk) == 1
    for first, second in itertools.pairwise(chunks):  # no call was cut for nothing
        size = bytes_in([*first, second[0]])
        assert len(first) == CALL_JOBS or size > CALL_BYTES


class RecordingLine:
    """Stands for the connection: takes every call, and remembers what it brought."""

    timeout_s = 5.0

    def __init__(self) -> None:
        self.calls: list[tuple[bytes, list[object]]] = []

    async def send(self, commands, *, timeout_s):
        await asyncio.sleep(0)
        scripts = [command for command in commands if isinstance(command, Call)]
        self.calls += [(call.keys[0], list(call.args[3:])) for call in scripts]
        return [[] if isinstance(command, Call) else 1 for command in commands]


PARCELS = st.lists(
    st.tuples(st.sampled_from("ab"), st.lists(SIZES, min_size=1, max_size=5)), max_size=30
)


@settings(max_examples=30)
@given(PARCELS, st.integers(1, 30))
def test_enqueues_are_gathered_into_calls_of_bounded_size(parcels, times):
    """In order for each queue, each parcel in one call, no call larger than the bounds."""
    line = RecordingLine()
    shared = {size: bytes(size) for _, sizes in parcels for size in sizes}
    keys = {queue: queue_keys("shop", queue) for queue in "ab"}
    sent: list[tuple[str, list[Job]]] = []
    for queue, sizes in parcels * times:
        jobs = [Job(f"{len(sent)}-{n}", queue, shared[size]) for n, size in enumerate(sizes)]
        sent.append((queue, jobs))

    async def run() -> None:
        coalescer = Coalescer(line, names=b"shop:queues", timeout_s=5)  # type: ignore[arg-type]
        await asyncio.gather(*(coalescer.add(keys[queue], jobs) for queue, jobs in sent))
        await coalescer.close()

    asyncio.run(run())
    for queue in "ab":
        first_key = keys[queue].names["jobs"]
        ids = [id for key, items in line.calls if key == first_key for id in items[::3]]
        assert ids == [job.id for q, jobs in sent if q == queue for job in jobs]
    for _, items in line.calls:
        parcels_in_call = {str(id).split("-")[0] for id in items[::3]}
        size = sum(len(body) for body in items[2::3])  # type: ignore[arg-type]
        assert len(items) // 3 <= CALL_JOBS or len(parcels_in_call) == 1
        assert size <= CALL_BYTES or len(parcels_in_call) == 1
    together = Counter(str(id).split("-")[0] for _, items in line.calls for id in items[::3])
    for _, items in line.calls:
        for parcel in {str(id).split("-")[0] for id in items[::3]}:
            assert sum(str(id).split("-")[0] == parcel for id in items[::3]) == together[parcel]


class CheckingBroker:
    """Stands for the broker of `enqueue_many`: keeps the sizes of what it gets."""

    def __init__(self) -> None:
        self.chunks: list[list[int]] = []

    async def enqueue(self, jobs, *, confirm=0):
        if any(len(job.envelope) > 8 * CALL_BYTES for job in jobs):
            raise PayloadTooLarge("too large")
        self.chunks.append([len(job.envelope) for job in jobs])
        return []


@settings(max_examples=20)  # each encodes megabytes
@given(st.lists(SIZES, max_size=8), st.integers(1, CALL_JOBS), st.integers(1, 90))
def test_enqueue_many_cuts_chunks_by_number_and_bytes(sizes, chunk, times):
    broker = CheckingBroker()
    app = type("AppOfThisBroker", (App,), {"broker": broker})("redis://nowhere")

    def keep(body: bytes) -> None: ...

    task = app.task(name="keep")(keep)
    shared = {size: bytes(size) for size in sizes}
    count = asyncio.run(task.enqueue_many(((shared[s],) for s in sizes * times), chunk=chunk))
    assert count == len(sizes) * times == sum(map(len, broker.chunks))
    for found in broker.chunks:
        assert 1 <= len(found) <= chunk
        assert sum(found) <= CALL_BYTES or len(found) == 1
