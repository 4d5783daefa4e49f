"""Redis at maxmemory: jobs go on and make room, enqueue alone is refused."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from qcore.broker.redis.broker import Broker
from qcore.broker.redis.fleet import Fleet
from qcore.broker.redis.inspector import Inspector
from qcore.errors import QueueClosed, QueueFull
from qcore.model.fleet import SupervisorState, SupervisorView
from qcore.model.job import Acked, Buried, Job, Released, Retried
from qcore.settings import BrokerConfig
from tests.support.content import keys_of
from tests.support.moves import (
    LEASE_MS,
    NOW,
    OWNER,
    QUEUE,
    ask,
    claim,
    content,
    failed_state,
    leased,
    put,
    settle,
)
from tests.support.reclaiming import reclaim, reclaim_owner, swept
from tests.support.servers import Server, used_bytes


@pytest.fixture
async def full(own_server: Server) -> AsyncIterator[Broker]:
    """A broker on a server that `fill` fills; closed while there is room again."""
    broker = Broker(BrokerConfig(url=own_server.url))
    yield broker
    own_server.ask("CONFIG", "SET", "maxmemory", 0)
    await broker.close()


async def fill(broker: Broker) -> None:
    """Let the server be far above its limit, and see that it refuses a plain write."""
    await ask(broker, b"CONFIG", b"SET", b"maxmemory", 1)
    with pytest.raises(QueueFull):
        await ask(broker, b"SET", b"anything", b"x")


async def test_enqueue_into_a_full_server_is_refused_with_nothing_applied(full):
    await put(full, "before")
    await fill(full)
    before = await keys_of(full, QUEUE)
    with pytest.raises(QueueFull, match=r"memory limit \(maxmemory\), nothing was enqueued"):
        await full.enqueue([Job("a", QUEUE, b"x"), Job("b", QUEUE, b"x", delay_ms=1000)])
    assert await keys_of(full, QUEUE) == before
    await ask(full, b"CONFIG", b"SET", b"maxmemory", 0)
    assert await full.enqueue([Job("a", QUEUE, b"x")]) == []


async def test_queue_first_used_while_the_server_is_full_is_named_when_there_is_room(full):
    await fill(full)
    with pytest.raises(QueueFull):
        await full.enqueue([Job("a", QUEUE, b"")])
    await ask(full, b"CONFIG", b"SET", b"maxmemory", 0)
    await full.enqueue([Job("b", QUEUE, b"")])
    assert await Inspector(full).names() == [QUEUE]


async def test_every_caller_of_a_refused_call_hears_that_the_server_is_full(full):
    await fill(full)
    calls = (full.enqueue([Job(f"{n}", QUEUE, b"")]) for n in range(10))
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert all(isinstance(result, QueueFull) for result in results)


async def test_claim_and_every_settle_go_on_in_a_full_server(full):
    await put(full, *"abcdef")
    await put(full, "due", when="+10")
    await fill(full)
    turn = await claim(full, now_ms=NOW + 10)
    assert [lease.id for lease in turn.leases] == [*"abcdef", "due"]
    a, b, c, d, e, f, due = turn.leases
    assert await full.extend(turn.leases, LEASE_MS, now_ms=NOW + 20) == set()
    lost = await settle(
        full,
        (a, Acked()),
        (b, Acked(b"result" * 100, 1000)),
        (c, Retried(1000, failed_state("no" * 1000))),
        (d, Buried(failed_state("no" * 1000))),
        (e, Released()),
        (f, Acked()),
        (due, Acked()),
    )
    assert lost == set()
    found = await content(full)
    assert found["ready"] == ["e"]
    assert set(found["scheduled"]) == {"c"}
    assert set(found["dead"]) == {"d"}
    assert set(found["done"]) == {"b"}


async def test_sweeps_and_chores_go_on_in_a_full_server(full):
    await leased(full, "a")
    await leased(full, "b", prefix="00000000000000bb:1:")
    await put(full, "c", when="+10")
    await swept(full, NOW + LEASE_MS - 1)
    await fill(full)
    assert len(await reclaim_owner(full, NOW + 1, owner=OWNER)) == 1
    assert len(await reclaim(full, NOW + LEASE_MS)) == 1
    assert await full.promote([QUEUE], now_ms=NOW + LEASE_MS) == (1, 0)
    assert await full.prune(QUEUE, now_ms=NOW) == (0, 0, False)
    assert await full.recover([QUEUE], f"{OWNER}:9:", LEASE_MS, now_ms=NOW) == []
    assert sorted((await content(full))["ready"]) == ["a", "b", "c"]


async def test_operators_can_make_room_in_a_full_server(full):
    dead, again = await leased(full, "dead", "again")
    await settle(full, (dead, Buried(b"")), (again, Buried(b"")))
    await put(full, "x", "y")
    await fill(full)
    inspector = Inspector(full)
    assert await inspector.purge(QUEUE, ids=["dead"]) == 1
    assert await inspector.revive(QUEUE, ["again"]) == ["again"]
    assert await inspector.clear(QUEUE) == 3
    (stats,) = await inspector.queues([QUEUE])
    assert (stats.ready, stats.dead) == (0, 0)
    assert "jobs" not in await content(full)


@pytest.mark.parametrize("when", ["", "+100000"])
async def test_clear_frees_the_memory_of_what_it_cancels(own_server, full, when):
    empty = used_bytes(own_server)
    for part in range(20):
        await put(full, *(f"{part:05}{n:030}" for n in range(500)), when=when, body=bytes(100))
    filled = used_bytes(own_server)
    # below what it takes now: Redis 6.2 does not count what its clients are about to be told
    await ask(full, b"CONFIG", b"SET", b"maxmemory", filled - (filled - empty) // 10)
    assert not await _is_accepted(full, Job("more", QUEUE, b"", delay_ms=1))
    assert await Inspector(full).clear(QUEUE) == 10_000
    assert used_bytes(own_server) - empty < (filled - empty) / 3  # the scripts, among others
    assert await _is_accepted(full, Job("again", QUEUE, b""))


async def test_queues_can_be_held_up_and_resumed_in_a_full_server(full):
    await put(full, "a")
    await fill(full)
    inspector = Inspector(full)
    assert (await inspector.pause(QUEUE, reason="full" * 50)).reason
    assert (await claim(full)).leases == []
    assert await inspector.close_queue(QUEUE)
    with pytest.raises(QueueClosed):
        await full.enqueue([Job("b", QUEUE, b"")])
    assert await inspector.resume(QUEUE)
    assert len((await claim(full)).leases) == 1


async def test_scripts_unknown_to_a_full_server_still_run(own_server, full):
    """A server that was restarted or flushed knows no script, and may come up full."""
    await put(full, "a")
    await fill(full)
    own_server.ask("SCRIPT", "FLUSH")
    (lease,) = (await claim(full)).leases
    assert await settle(full, (lease, Acked())) == set()


async def test_waiting_for_a_wakeup_goes_on_in_a_full_server(full):
    await put(full, "a")
    await fill(full)
    assert await full.wakeups.wait([QUEUE], 1) == QUEUE


async def test_queue_that_empties_in_a_full_server_takes_jobs_again(own_server, full):
    """Filled in earnest: the jobs themselves take the memory, and settling gives it back."""
    most = used_bytes(own_server) + 3 * 1024 * 1024
    await ask(full, b"CONFIG", b"SET", b"maxmemory", most)
    body, accepted = bytes(50_000), 0
    while await _is_accepted(full, Job(f"{accepted:04}", QUEUE, body)):
        accepted += 1
    assert 5 < accepted < 100
    done: list[str] = []
    for seq in range(1000):
        turn = await claim(full, 10, prefix=f"{OWNER}:{seq}:")
        if not turn.leases:
            break
        done += [lease.id for lease in turn.leases]
        assert await settle(full, *((lease, Acked()) for lease in turn.leases)) == set()
    assert done == [f"{n:04}" for n in range(accepted)]
    assert await full.enqueue([Job("after", QUEUE, body)]) == []


async def _is_accepted(broker: Broker, job: Job) -> bool:
    try:
        await broker.enqueue([job])
    except QueueFull:
        return False
    return True


async def test_heartbeats_and_orders_to_restart_go_on_in_a_full_server(full):
    fleet = Fleet(full)
    view = SupervisorView(
        host="h", name="n", pid=1, state=SupervisorState.RUNNING, queues=(QUEUE,), age_s=1
    )
    await fill(full)
    await fleet.beat("a", view)
    generation = await fleet.restart()
    contact = await fleet.beat("a", view)
    assert [order.generation for order in contact.orders] == [generation]
    assert [member.view for member in await fleet.members()] == [view]
