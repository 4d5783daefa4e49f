"""Many callers that enqueue at once -> few calls, each job exactly once."""

import asyncio
import signal
import time
from collections.abc import AsyncIterator

import pytest

from qcore.broker.redis.broker import Broker
from qcore.broker.redis.coalescer import Coalescer
from qcore.errors import (
    BrokerError,
    BrokerRefused,
    BrokerUnavailable,
    NotConfirmed,
    PayloadTooLarge,
)
from qcore.model.job import Acked, Job
from qcore.settings import BrokerConfig
from tests.support.moves import QUEUE, ask, claim, content, settle, status_of
from tests.support.proxy import Proxy
from tests.support.servers import Server, free_port, scripts_obey_min_replicas
from tests.support.waiting import eventually


@pytest.fixture
async def own_broker(own_server: Server) -> AsyncIterator[Broker]:
    broker = Broker(BrokerConfig(url=own_server.url))
    await broker.enqueue([Job("first", QUEUE, b"")])  # connected, the script is known
    await ask(broker, b"DEL", *broker._keys_of(QUEUE).names.values())
    yield broker
    await broker.close()


@pytest.fixture
async def proxied(proxy: Proxy) -> AsyncIterator[Broker]:
    """A broker whose way leads over the proxy, with a short deadline."""
    broker = Broker(BrokerConfig(url=proxy.url, call_timeout_s=2, enqueue_timeout_s=2))
    await broker.enqueue([Job("first", QUEUE, b"")])
    await ask(broker, b"DEL", *broker._keys_of(QUEUE).names.values())
    yield broker
    await broker.close()


@pytest.fixture
async def direct(own_server: Server) -> AsyncIterator[Broker]:
    """A broker beside the proxy: it sees what is there whatever happened on the way."""
    broker = Broker(BrokerConfig(url=own_server.url))
    yield broker
    await broker.close()


async def enqueue_each(broker: Broker, *ids: str, queue: str = QUEUE) -> list:
    calls = (broker.enqueue([Job(id, queue, b"")]) for id in ids)
    return await asyncio.gather(*calls, return_exceptions=True)


def script_calls(server: Server, command: str = "evalsha") -> int:
    return server.ask("INFO", "commandstats").get(f"cmdstat_{command}", {"calls": 0})["calls"]


@pytest.mark.parametrize(("callers", "least", "most"), [(1, 1, 1), (100, 1, 2), (1200, 3, 4)])
async def test_enqueues_at_once_share_calls(own_server, own_broker, callers, least, most):
    own_server.ask("CONFIG", "RESETSTAT")
    ids = [f"{n:04}" for n in range(callers)]
    assert await enqueue_each(own_broker, *ids) == [[]] * callers
    assert least <= script_calls(own_server) <= most
    assert (await content(own_broker))["ready"] == ids


async def test_enqueues_at_once_to_several_queues_share_one_round_trip(own_server, own_broker):
    queues = [f"q{n}" for n in range(5)]
    await asyncio.gather(*(own_broker.enqueue([Job("warm", q, b"")]) for q in queues))
    own_server.ask("CONFIG", "RESETSTAT")
    jobs = [Job(f"{n:03}", queues[n % 5], b"") for n in range(100)]
    await asyncio.gather(*(own_broker.enqueue([job]) for job in jobs))
    assert script_calls(own_server) <= 10
    for n, queue in enumerate(queues):
        expected = [f"{i:03}" for i in range(n, 100, 5)]
        assert (await content(own_broker, queue))["ready"][1:] == expected


async def test_enqueue_names_its_queue_to_operators_once(own_server, own_broker):
    own_server.ask("CONFIG", "RESETSTAT")
    for n in range(3):
        await own_broker.enqueue([Job(f"{n}", "fresh", b"")])
    assert script_calls(own_server, "sadd") == 1
    assert own_server.ask("SMEMBERS", "qcore:queues") == {QUEUE, "fresh"}


async def test_enqueues_of_large_payloads_are_split_by_bytes(own_server, own_broker):
    own_server.ask("CONFIG", "RESETSTAT")
    body = bytes(100 * 1024)
    jobs = [Job(f"{n:02}", QUEUE, body) for n in range(25)]  # 2.4 MB
    await asyncio.gather(*(own_broker.enqueue([job]) for job in jobs))
    assert script_calls(own_server) >= 3
    assert (await content(own_broker))["ready"] == [job.id for job in jobs]


async def test_enqueue_that_is_too_large_does_not_fail_its_neighbours(own_broker):
    bodies = {f"{n}": bytes(200_000 if n == 3 else 10) for n in range(6)}

    async def enqueue(id: str, body: bytes) -> list[bytes]:
        return await own_broker.enqueue([Job(id, QUEUE, body)])

    calls = (enqueue(id, body) for id, body in bodies.items())
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert isinstance(results.pop(3), PayloadTooLarge)
    assert results == [[]] * 5
    assert (await content(own_broker))["ready"] == ["0", "1", "2", "4", "5"]


async def test_enqueue_that_a_queue_refuses_does_not_fail_other_queues(own_broker):
    await ask(own_broker, b"SET", own_broker._keys_of("broken").names["jobs"], b"no hash")
    good, bad = await asyncio.gather(
        enqueue_each(own_broker, "a", "b"), enqueue_each(own_broker, "c", "d", queue="broken")
    )
    assert good == [[], []]
    assert all(isinstance(result, BrokerError) for result in bad)
    assert (await content(own_broker))["ready"] == ["a", "b"]


async def test_enqueue_of_several_jobs_is_all_or_none_beside_others(own_broker):
    many = [Job(f"m{n:03}", QUEUE, b"") for n in range(400)]
    one = [Job("a", QUEUE, b"")]
    parcels = (one, many, many[:200])
    known = await asyncio.gather(*(own_broker.enqueue(jobs) for jobs in parcels))
    assert len(known[2]) == 200
    assert (await content(own_broker))["ready"] == ["a", *(job.id for job in many)]


@pytest.mark.parametrize("cancelled", [0, 1, 4])
async def test_enqueue_cancelled_does_not_cancel_its_neighbours(own_broker, cancelled):
    calls = [asyncio.ensure_future(own_broker.enqueue([Job(f"{n}", QUEUE, b"")])) for n in range(5)]
    await asyncio.sleep(0)  # all are added, the call is not sent
    calls[cancelled].cancel()
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert isinstance(results.pop(cancelled), asyncio.CancelledError)
    assert results == [[]] * 4
    ready = (await content(own_broker))["ready"]
    assert set(ready) >= {f"{n}" for n in range(5)} - {f"{cancelled}"}
    assert ready == sorted(set(ready))


async def test_enqueue_goes_on_after_all_callers_were_cancelled(own_broker):
    calls = [asyncio.ensure_future(own_broker.enqueue([Job("a", QUEUE, b"")])) for _ in range(3)]
    await asyncio.sleep(0)
    for call in calls:
        call.cancel()
    await asyncio.gather(*calls, return_exceptions=True)
    assert await own_broker.enqueue([Job("b", QUEUE, b"")]) == []
    assert (await content(own_broker))["ready"][-1] == "b"


async def test_close_that_is_cancelled_leaves_nothing_open(own_server, own_broker):
    own_server.signal(signal.SIGSTOP)
    try:
        first = asyncio.ensure_future(own_broker.enqueue([Job("a", QUEUE, b"")]))
        (coalescer,) = own_broker._coalescers.values()
        await eventually(lambda: coalescer._number > 1)
        second = asyncio.ensure_future(own_broker.enqueue([Job("b", QUEUE, b"")]))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await own_broker.close()
        with pytest.raises(BrokerUnavailable, match="may have been enqueued"):
            await first
        with pytest.raises(BrokerUnavailable, match="not enqueued"):
            await second
        assert coalescer.pipeline._wire is None
        assert own_broker._upkeep._wire is None
    finally:
        own_server.signal(signal.SIGCONT)


async def test_enqueue_while_all_tasks_are_cancelled_is_delivered(own_broker):
    """As in the `finally` of a task at the end of `asyncio.run`."""
    (coalescer,) = own_broker._coalescers.values()
    coalescer.pipeline.drop()  # a new connection takes a task
    first = asyncio.ensure_future(own_broker.enqueue([Job("a", QUEUE, b"")]))
    coalescer._delivery.cancel()
    late = asyncio.ensure_future(own_broker.enqueue([Job("b", QUEUE, b"")]))
    assert await asyncio.wait_for(late, 10) == []
    assert await asyncio.wait_for(first, 10) == []


async def test_enqueue_that_is_in_flight_when_all_tasks_are_cancelled_is_unknown(
    own_server, own_broker
):
    own_server.signal(signal.SIGSTOP)
    try:
        (coalescer,) = own_broker._coalescers.values()
        coalescer.pipeline.drop()  # a new connection takes a task
        first = asyncio.ensure_future(own_broker.enqueue([Job("a", QUEUE, b"")]))
        await eventually(lambda: coalescer.pipeline._next.locked())
        coalescer._delivery.cancel()
        with pytest.raises(BrokerUnavailable, match="may have been enqueued: the call was") as e:
            await asyncio.wait_for(first, 10)
        assert e.value.sent
    finally:
        own_server.signal(signal.SIGCONT)


async def test_close_delivers_what_was_added(own_server):
    broker = Broker(BrokerConfig(url=own_server.url))
    calls = [asyncio.ensure_future(broker.enqueue([Job(f"{n}", QUEUE, b"")])) for n in range(20)]
    await asyncio.gather(*calls[:1])
    await broker.close()
    assert await asyncio.gather(*calls) == [[]] * 20


# -- outages ---------------------------------------------------------------------------------------


async def test_enqueue_whose_reply_was_lost_is_executed_once(proxy, proxied, direct):
    proxy.lose_reply(b"EVAL", times=3)
    assert await enqueue_each(proxied, "a", "b") == [[], []]
    assert proxy.lost_all
    assert (await content(direct))["ready"] == ["a", "b"]


async def test_enqueue_whose_reply_was_lost_does_not_run_a_finished_job_again(
    proxy, proxied, direct
):
    """Its payload is gone, so that its id alone would not be known any more."""
    proxy.lose_reply(b"EVAL")
    proxy.open.clear()
    call = asyncio.ensure_future(proxied.enqueue([Job("a", QUEUE, b"")]))
    proxy.open.set()

    async def leases() -> list:
        return (await claim(direct)).leases

    (lease,) = await eventually(leases)
    await settle(direct, (lease, Acked()))
    assert await call == []
    assert set(await content(direct)) <= {"wakeup"}


async def test_outage_shorter_than_the_deadline_heals_unseen(
    proxy, proxied, direct, monkeypatch: pytest.MonkeyPatch
):
    attempt, failures = Coalescer._attempt, list[BrokerError | None]()

    async def seen(coalescer: Coalescer, batch: list) -> BrokerError | None:
        failures.append(await attempt(coalescer, batch))
        return failures[-1]

    monkeypatch.setattr(Coalescer, "_attempt", seen)
    await proxy.refuse()
    call = asyncio.ensure_future(enqueue_each(proxied, "a", "b", "c"))
    await eventually(lambda: len(failures) == 2)
    assert not call.done()
    await proxy.listen()
    assert await call == [[]] * 3
    assert (await content(direct))["ready"] == ["a", "b", "c"]


@scripts_obey_min_replicas
async def test_state_of_the_server_that_passes_heals_unseen(own_server, own_broker):
    await ask(own_broker, b"CONFIG", b"SET", b"min-replicas-to-write", 1)
    call = asyncio.ensure_future(own_broker.enqueue([Job("a", QUEUE, b"")]))

    def refusals() -> int:
        counts = own_server.ask("INFO", "errorstats")
        return counts.get("errorstat_NOREPLICAS", {"count": 0})["count"]

    await eventually(lambda: refusals() >= 2)
    assert not call.done()
    await ask(own_broker, b"CONFIG", b"SET", b"min-replicas-to-write", 0)
    assert await call == []
    assert (await content(own_broker))["ready"] == ["a"]


async def test_outage_longer_than_the_deadline_says_that_nothing_was_enqueued():
    url = f"redis://127.0.0.1:{free_port()}/0"
    broker = Broker(BrokerConfig(url=url, enqueue_timeout_s=0.4))
    began = time.monotonic()
    with pytest.raises(BrokerUnavailable, match=f"queue {QUEUE}: a not enqueued: ") as e:
        await broker.enqueue([Job("a", QUEUE, b"")])
    assert 0.35 < time.monotonic() - began < 4.0  # far from the default
    assert e.value.sent is False
    await broker.close()


async def test_enqueue_without_an_answer_may_be_enqueued_and_says_so(proxy, direct):
    broker = Broker(BrokerConfig(url=proxy.url, enqueue_timeout_s=0.6))
    await broker.enqueue([Job("first", QUEUE, b"")])
    proxy.lose_reply(b"EVAL", times=10**6)
    with pytest.raises(BrokerUnavailable, match="a may have been enqueued") as e:
        await broker.enqueue([Job("a", QUEUE, b"")])
    assert e.value.sent is True
    assert await status_of(direct, "a") == "ready"
    await broker.close()


async def test_enqueue_without_an_answer_that_is_refused_at_its_repeat_may_be_enqueued(
    proxy, proxied, direct
):
    """Its connection keeps its rights; the next one needs a password by now."""
    await ask(direct, b"CONFIG", b"SET", b"requirepass", b"new")
    proxy.lose_reply(b"EVAL")
    with pytest.raises(BrokerRefused) as e:
        await proxied.enqueue([Job("a", QUEUE, b"")])
    assert e.value.sent is True
    assert await status_of(direct, "a") == "ready"


async def test_enqueue_ends_at_its_deadline_when_the_server_hangs(proxy):
    """The first use of a queue is no exception: the whole call has one deadline."""
    config = BrokerConfig(url=proxy.url, call_timeout_s=60, enqueue_timeout_s=0.5)
    broker = Broker(config)
    proxy.open.clear()
    began = time.monotonic()
    with pytest.raises(BrokerUnavailable):
        await broker.enqueue([Job("a", QUEUE, b"")])
    assert time.monotonic() - began < 30
    proxy.open.set()
    await broker.close()


async def test_enqueue_gets_its_whole_deadline_behind_one_that_fails(proxy, proxied, direct):
    """A caller that comes late into an outage is not failed together with an early one."""
    await proxy.refuse()
    early = asyncio.ensure_future(proxied.enqueue([Job("early", QUEUE, b"")]))
    await asyncio.sleep(1.5)  # most of its 2 s: what the late one has more than it
    late = asyncio.ensure_future(proxied.enqueue([Job("late", QUEUE, b"")]))
    with pytest.raises(BrokerUnavailable):
        await early
    await proxy.listen()
    assert await late == []
    assert (await content(direct))["ready"] == ["late"]


# -- confirmed enqueues ----------------------------------------------------------------------------


async def test_confirm_has_its_whole_time_behind_one_that_fails(own_server):
    broker = Broker(BrokerConfig(url=own_server.url, enqueue_timeout_s=2))
    calls = [asyncio.ensure_future(broker.enqueue([Job("a", QUEUE, b"")], confirm=1))]
    # it is sent; the next two gather behind it
    await eventually(lambda: own_server.ask("INFO", "clients")["blocked_clients"] == 1)
    await asyncio.sleep(0.5)  # what the second has more than the first
    calls.append(asyncio.ensure_future(broker.enqueue([Job("b", QUEUE, b"")], confirm=1)))
    await asyncio.sleep(0.7)  # what the third has more than the second
    began = time.monotonic()
    with pytest.raises(NotConfirmed, match="c enqueued, but 0 of 1 replicas"):
        await broker.enqueue([Job("c", QUEUE, b"")], confirm=1)
    assert time.monotonic() - began > 1.4
    await asyncio.gather(*calls, return_exceptions=True)
    await broker.close()


async def test_confirm_that_this_user_may_not_ask_for_fails_at_once(own_server):
    own_server.ask("ACL", "SETUSER", "default", "-wait")
    broker = Broker(BrokerConfig(url=own_server.url))
    with pytest.raises(NotConfirmed, match=r"a enqueued, but nobody can say .* refuses"):
        await broker.enqueue([Job("a", QUEUE, b"")], confirm=1)
    assert script_calls(own_server, "eval") == 1
    assert await status_of(broker, "a") == "ready"
    await broker.close()
