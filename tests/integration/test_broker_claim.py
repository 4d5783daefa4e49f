"""claim: ready -> active."""

import asyncio
from collections import Counter
from pathlib import Path

import pytest

from qcore.broker.contract import CALL_BYTES, ClaimRequest
from qcore.broker.redis import scripts
from qcore.broker.redis.broker import Broker
from qcore.broker.redis.script_codec import CLAIM_QUEUES
from qcore.errors import BrokerUnavailable
from qcore.model.job import Acked, Released
from qcore.settings import BrokerConfig
from tests.support.moves import (
    LEASE_MS,
    NOW,
    OWNER,
    PREFIX,
    QUEUE,
    WAKEUP,
    ask,
    claim,
    content,
    failed_state,
    leased,
    put,
    running,
    settle,
    stored,
    take_wakeup,
    token,
    tokens,
)
from tests.support.servers import Server, on_standalone_and_cluster

both = on_standalone_and_cluster


@both
async def test_claim_writes_exactly_these_keys(broker):
    await put(broker, "a", "b", "c")
    await take_wakeup(broker)
    await claim(broker, 2)
    assert await content(broker) == {
        "ready": ["c"],
        "active": tokens("a", "b"),
        "running": running("a", "b"),
        "jobs": {id: stored(id) for id in "abc"},
        "wakeup": WAKEUP,
    }


@both
async def test_claim_returns_leases_oldest_first(broker):
    await put(broker, "a", "b", now_ms=NOW - 5)
    turn = await claim(broker)
    assert [lease.id for lease in turn.leases] == ["a", "b"]
    lease = turn.leases[0]
    assert lease.token == token("a").encode()
    assert lease.queue == QUEUE
    assert lease.envelope == b"a"
    assert lease.state is None
    assert lease.crashes == 0
    assert (lease.enqueued_ms, lease.claimed_ms) == (NOW - 5, NOW)
    assert turn.lost == set()


@both
async def test_claim_takes_at_most_its_limit(broker):
    await put(broker, *(f"{n:03}" for n in range(30)))
    assert len((await claim(broker, 20)).leases) == 20
    assert len((await claim(broker, 20)).leases) == 10
    assert (await claim(broker, 20)).leases == []


@both
async def test_claim_of_the_largest_size_is_one_call(broker):
    ids = [f"{n:03}" for n in range(500)]
    await put(broker, *ids)
    assert [lease.id for lease in (await claim(broker, 500)).leases] == ids


@both
async def test_claim_promotes_what_is_due_first(broker):
    await put(broker, "due", when="+10")
    await put(broker, "future", when="+11")
    turn = await claim(broker, now_ms=NOW + 10)
    assert [lease.id for lease in turn.leases] == ["due"]
    assert turn.again_ms == 1


@both
async def test_claim_never_takes_a_scheduled_job_early(broker):
    await put(broker, "a", when="+10")
    turn = await claim(broker, now_ms=NOW + 9)
    assert turn.leases == []
    assert turn.again_ms == 1


@both
async def test_claim_promotes_at_most_200(broker):
    await put(broker, *(f"{n:03}" for n in range(250)), when="+10")
    turn = await claim(broker, now_ms=NOW + 10)
    assert len(turn.leases) == 200
    assert turn.again_ms == 0
    assert len((await claim(broker, now_ms=NOW + 10)).leases) == 50


@both
async def test_claim_stops_at_the_bytes_of_a_reply_and_keeps_the_order(broker):
    """What does not fit goes back to the head, in its order, and is the next to be claimed."""
    body = bytes(CALL_BYTES // 4 - 8)  # 8 bytes of time are in front: four fit exactly
    ids = [f"{n}" for n in range(6)]
    await put(broker, *ids, body=body)
    await take_wakeup(broker)
    turn = await claim(broker)
    assert [lease.id for lease in turn.leases] == ids[:4]
    assert turn.again_ms == 0
    found = await content(broker)
    assert found["ready"] == ids[4:]
    assert sorted(found["running"]) == ids[:4]
    assert found["wakeup"] == WAKEUP
    assert [lease.id for lease in (await claim(broker)).leases] == ids[4:]


def peak_bytes(server: Server) -> int:
    """Return the most resident memory that a server has taken."""
    status = Path(f"/proc/{server.pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


async def test_claim_behind_a_small_payload_reads_few_large_ones_for_nothing(own_server):
    """The peak of the server tells: all payloads together are 60 times as large as a reply."""
    broker = Broker(BrokerConfig(url=own_server.url))
    await put(broker, "small")
    large = [f"{n:03}" for n in range(480)]
    for part in range(0, 480, 40):
        await put(broker, *large[part : part + 40], body=bytes(CALL_BYTES // 8))
    before = peak_bytes(own_server)
    turn = await claim(broker)
    assert [lease.id for lease in turn.leases] == ["small", *large[:7]]
    assert peak_bytes(own_server) - before < 20 * CALL_BYTES
    assert (await content(broker))["ready"] == large[7:]
    await broker.close()


@both
async def test_claim_takes_one_job_larger_than_a_reply_alone(broker):
    await put(broker, "big", body=bytes(CALL_BYTES + 1))
    await put(broker, "small")
    assert [lease.id for lease in (await claim(broker)).leases] == ["big"]
    assert [lease.id for lease in (await claim(broker)).leases] == ["small"]


@both
async def test_claim_again_is_now_while_more_is_ready(broker):
    await put(broker, "a", "b")
    assert (await claim(broker, 1)).again_ms == 0


@both
async def test_claim_again_is_never_when_nothing_is_in_sight(broker):
    await put(broker, "a")
    assert (await claim(broker)).again_ms is None


@both
async def test_claim_again_is_the_earliest_due_time(broker):
    await put(broker, "b", when="+7000")
    await put(broker, "a", when="+5000")
    assert (await claim(broker)).again_ms == 5000


@both
async def test_claim_that_leaves_nothing_sets_no_wakeup(broker):
    await put(broker, "a")
    await take_wakeup(broker)
    await claim(broker)
    assert not await take_wakeup(broker)


@both
async def test_claim_that_took_nothing_never_sets_the_wakeup(broker):
    """Else two idle workers would wake each other without an end."""
    await put(broker, "a", when="+10")
    await take_wakeup(broker)
    await claim(broker)
    assert not await take_wakeup(broker)
    await put(broker, "b")
    await take_wakeup(broker)
    await claim(broker, 0)
    assert not await take_wakeup(broker)


@both
async def test_claim_of_an_empty_queue_creates_no_key(broker):
    turn = await claim(broker)
    assert turn.leases == []
    assert turn.again_ms is None
    assert await content(broker) == {}


@both
async def test_claim_of_an_id_without_payload_still_leases_it(broker):
    """The worker buries it; left in ready it would stop the queue, dropped it would be lost."""
    await put(broker, "a", "b")
    await ask(broker, b"HDEL", broker._keys_of(QUEUE).names["jobs"], "a")
    first, second = (await claim(broker)).leases
    assert (first.id, first.envelope, first.enqueued_ms) == ("a", None, NOW)
    assert (second.id, second.envelope) == ("b", b"b")


@both
async def test_claim_brings_record_and_crashes_of_each_job(broker):
    leases = await leased(broker, "a", "b", "c")
    await settle(broker, *((lease, Released()) for lease in leases))
    names = broker._keys_of(QUEUE).names
    await ask(broker, b"HSET", names["state"], "b", failed_state("no"))
    await ask(broker, b"HSET", names["crashes"], "c", f"3 {NOW}")
    a, b, c = (await claim(broker)).leases
    assert (a.state, b.state, c.state) == (None, failed_state("no"), None)
    assert (a.crashes, b.crashes, c.crashes) == (0, 0, 3)


@both
async def test_claim_lease_ends_after_the_time_asked_for(broker):
    await put(broker, "a")
    await claim(broker, lease_ms=1234)
    assert (await content(broker))["active"] == {token("a"): NOW + 1234}


@both
async def test_claims_at_once_share_no_job(broker):
    ids = [f"{n:03}" for n in range(300)]
    await put(broker, *ids)
    turns = await asyncio.gather(*(claim(broker, 50, prefix=f"{OWNER}:{seq}:") for seq in range(6)))
    assert sorted(lease.id for turn in turns for lease in turn.leases) == ids


@both
async def test_claim_by_the_redis_clock_needs_no_time_of_the_client(broker):
    await put(broker, "a")
    turn = await broker.turn([], ClaimRequest([QUEUE], 1, LEASE_MS, PREFIX))
    seconds = int((await ask(broker, b"TIME"))[0])
    assert abs(turn.leases[0].claimed_ms / 1000 - seconds) < 10


@both
async def test_turn_settles_before_it_claims(broker):
    """Once the server knows the scripts; one that it must be taught runs after the others."""
    taught, lease = await leased(broker, "taught", "a")
    await settle(broker, (taught, Acked()))
    turn = await broker.turn(
        [(lease, Released())], ClaimRequest([QUEUE], 1, LEASE_MS, f"{OWNER}:2:"), now_ms=NOW
    )
    assert [lease.token for lease in turn.leases] == [token("a", seq=2).encode()]
    assert turn.lost == set()


# Several queues in one call: not in a Cluster.


async def test_claim_drains_queues_in_strict_order(broker):
    await put(broker, "l1", "l2", queue="low")
    await put(broker, "h1", queue="high")
    await put(broker, "m1", "m2", queue="middle")
    turn = await claim(broker, 4, queues=["high", "middle", "low"])
    assert [(lease.queue, lease.id) for lease in turn.leases] == [
        ("high", "h1"),
        ("middle", "m1"),
        ("middle", "m2"),
        ("low", "l1"),
    ]
    assert turn.again_ms == 0


async def test_claim_sets_the_wakeup_of_the_queue_that_has_more(broker):
    await put(broker, "h1", queue="high")
    await put(broker, "l1", queue="low")
    for queue in ("high", "low"):
        await take_wakeup(broker, queue)
    await claim(broker, 1, queues=["high", "low"])
    assert not await take_wakeup(broker, "high")
    assert await take_wakeup(broker, "low")


async def test_claim_again_looks_at_all_queues(broker):
    await put(broker, "h", queue="high", when="+9000")
    await put(broker, "l", queue="low", when="+3000")
    assert (await claim(broker, queues=["high", "low"])).again_ms == 3000
    await put(broker, "now", queue="high")
    await put(broker, "now", queue="low")
    assert (await claim(broker, 1, queues=["high", "low"])).again_ms == 0


async def test_claim_again_is_never_negative(broker):
    """A queue that was not reached may hold jobs that are overdue."""
    await put(broker, "a", queue="high")
    await put(broker, "b", queue="low", when="+10")
    turn = await claim(broker, 1, queues=["high", "low"], now_ms=NOW + 500)
    assert [lease.id for lease in turn.leases] == ["a"]
    assert turn.again_ms == 0


async def test_claim_skips_no_queue_for_a_smaller_payload(broker):
    """What did not fit comes first in the next call: the order stays strict."""
    await put(broker, "h1", "h2", queue="high", body=bytes(CALL_BYTES - 100))
    await put(broker, "small", queue="low")
    turn = await claim(broker, queues=["high", "low"])
    assert [lease.id for lease in turn.leases] == ["h1"]
    turn = await claim(broker, queues=["high", "low"])
    assert [lease.id for lease in turn.leases] == ["h2", "small"]


@pytest.mark.parametrize("queues", [["high", "low"], ["low", "high"]])
async def test_claim_promotes_in_each_queue(broker, queues):
    for queue in queues:
        await put(broker, f"job-{queue}", queue=queue, when="+10")
    turn = await claim(broker, queues=queues, now_ms=NOW + 10)
    assert [lease.queue for lease in turn.leases] == queues


async def test_claim_over_many_queues_is_several_calls_in_their_order(broker, monkeypatch):
    queues = [f"q{n:04}" for n in range(2 * CLAIM_QUEUES + 1)]
    first, last = queues[0], queues[-1]
    for queue in (last, queues[CLAIM_QUEUES], first):
        await put(broker, f"{queue}-a", f"{queue}-b", queue=queue)
    calls, send = list[int](), broker._turns.send

    async def count(commands, **options):
        calls.append(len(commands[0].keys) // len(scripts.CLAIM.keys))
        return await send(commands, **options)

    monkeypatch.setattr(broker._turns, "send", count)
    turn = await claim(broker, 3, queues=queues)
    assert calls == [CLAIM_QUEUES, CLAIM_QUEUES]
    assert [lease.queue for lease in turn.leases] == [first, first, queues[CLAIM_QUEUES]]
    assert turn.again_ms == 0
    turn = await claim(broker, 500, queues=queues, prefix=f"{OWNER}:2:")
    assert [lease.queue for lease in turn.leases] == [queues[CLAIM_QUEUES], last, last]
    assert turn.again_ms is None


async def test_claim_whose_second_call_fails_says_that_the_first_may_have_taken_jobs(
    broker, monkeypatch
):
    queues = [f"q{n:04}" for n in range(CLAIM_QUEUES + 1)]
    await put(broker, "a", queue=queues[0])
    line, calls = broker._turns, 0
    send = line.send

    async def fail(commands, **options):
        nonlocal calls
        calls += 1
        if calls == 2:
            raise BrokerUnavailable("it is away")
        return await send(commands, **options)

    monkeypatch.setattr(line, "send", fail)
    with pytest.raises(BrokerUnavailable) as failed:
        await claim(broker, queues=queues)
    assert failed.value.sent
    assert set((await content(broker, queues[0]))["running"]) == {"a"}


async def test_claim_promotes_no_more_over_many_queues_and_leaves_none_out(broker):
    queues = [f"q{n}" for n in range(4)]
    for queue in queues:
        await put(broker, *(f"{queue}-{n:03}" for n in range(150)), queue=queue, when="+10")
    turn = await claim(broker, queues=queues, now_ms=NOW + 10)
    assert Counter(lease.queue for lease in turn.leases) == {"q0": 150, "q1": 50, "q2": 1, "q3": 1}
    assert turn.again_ms == 0
