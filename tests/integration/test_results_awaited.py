"""Results that are awaited: by many, and whatever happens to the way to Redis meanwhile."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from qcore import (
    App,
    BrokerRefused,
    BrokerUnavailable,
    ConfigError,
    JobFailed,
    JobHandle,
    JobStatus,
    ResultExpired,
    Task,
)
from qcore.broker.outage import Outage
from qcore.broker.redis import results, scripts
from qcore.broker.redis.broker import Broker
from qcore.broker.redis.inspector import Inspector
from qcore.broker.redis.subscription import Subscription
from qcore.model.codec import TRACE_BYTES, encode
from qcore.model.job import Acked, Buried, JobOutcome, Lease
from qcore.settings import BrokerConfig
from tests.support.moves import claim, failed_state, settle
from tests.support.servers import Server, free_port, scripts_obey_min_replicas
from tests.support.waiting import eventually
from tests.support.workers import working


@pytest.fixture
async def app(own_server: Server) -> AsyncIterator[App]:
    async with App(own_server.url) as app:
        yield app


@pytest.fixture
async def other(own_server: Server) -> AsyncIterator[Broker]:
    """The broker of a worker, with connections of its own."""
    broker = Broker(BrokerConfig(url=own_server.url))
    yield broker
    await broker.close()


@pytest.fixture
def one(app: App) -> Task[[], int]:
    @app.task(name="one")
    async def one() -> int:
        return 1

    return one


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The slow look comes too late to help."""
    monkeypatch.setattr(results, "LOOK_S", 3600.0)


def kept(result: object) -> Acked:
    return Acked(encode(JobOutcome(JobStatus.COMPLETED, encode_raw(result))), 3_600_000)


def encode_raw(result: object) -> Any:
    return msgspec.Raw(encode(result))


async def leases(broker: Broker) -> list[Lease]:
    return (await claim(broker, queues=["default"], now_ms=None)).leases


async def end(broker: Broker, outcome: Any) -> None:
    """Claim the one job that is ready, and settle it."""
    (lease,) = await leases(broker)
    assert await settle(broker, (lease, outcome), now_ms=None) == set()


async def awaited(server: Server, job: JobHandle[Any]) -> "asyncio.Task[Any]":
    """Begin to wait for a result; return when Redis knows that somebody does."""
    task = asyncio.create_task(job.result(timeout=30))
    await eventually(lambda: waiters(server).get(job.id))
    return task


def waiters(server: Server) -> dict[str, str]:
    found: dict[str, str] = server.ask("HGETALL", "{qcore:default}:waiters")
    return found


def listeners(server: Server) -> list[str]:
    """Return the names that Redis gives to the connections that listen."""
    lines = server.ask("CLIENT", "LIST").splitlines()
    return [line.split()[0] for line in lines if " sub=1 " in line]


# -- many ------------------------------------------------------------------------------------------


async def test_two_thousand_results_take_one_connection_and_two_looks_each(
    own_server: Server, app: App, monkeypatch: pytest.MonkeyPatch, patient: None
):
    @app.task
    async def double(n: int) -> int:
        return 2 * n

    looks: list[int] = []
    line = app.broker._upkeep
    send = line.send

    async def spy(commands: Any, **options: Any) -> list[Any]:
        looks.append(sum(getattr(c, "script", None) is scripts.FIND for c in commands))
        return await send(commands, **options)

    monkeypatch.setattr(line, "send", spy)
    jobs = await asyncio.gather(*(double.enqueue(n) for n in range(2000)))
    results = asyncio.gather(*(job.result(timeout=60) for job in jobs))
    await eventually(lambda: sum(looks) == 2000)
    assert len(listeners(own_server)) == 1

    async with App(own_server.url) as worker_app:
        worker_app.task(name=double.name)(double.function)
        async with working(worker_app):
            assert await results == [2 * n for n in range(2000)]

    assert 4000 <= sum(looks) <= 6000  # more than 4000 if a slow machine loses the connection once
    assert len(looks) < 1000
    assert waiters(own_server) == {}


async def test_several_may_wait_for_one_job(own_server: Server, app: App, other: Broker, one):
    job = await one.enqueue()
    tasks = [await awaited(own_server, job) for _ in range(3)]
    await end(other, kept(1))
    assert await asyncio.gather(*tasks) == [1, 1, 1]


async def test_job_that_has_ended_is_found_by_the_first_look(
    own_server: Server, other: Broker, one
):
    job = await one.enqueue()
    await end(other, kept(7))
    assert await job.result(timeout=10) == 7
    assert waiters(own_server) == {}


async def test_death_is_heard(own_server: Server, other: Broker, one, patient: None):
    result = await awaited(own_server, await one.enqueue())
    await end(other, Buried(failed_state("no paper")))
    with pytest.raises(JobFailed, match="no paper"):
        await result


# -- those who go ----------------------------------------------------------------------------------


async def test_wait_that_is_given_up_leaves_an_entry_for_the_end_of_the_job(
    own_server: Server, other: Broker, one
):
    job = await one.enqueue()
    with pytest.raises(TimeoutError, match=job.ref):
        await job.result(timeout=0.5)
    cancelled = await awaited(own_server, job)
    cancelled.cancel()
    with pytest.raises(asyncio.CancelledError):
        await cancelled
    assert list(waiters(own_server)) == [job.id]
    await end(other, kept(1))
    assert waiters(own_server) == {}
    assert await job.result(timeout=10) == 1


async def test_connection_is_closed_when_nobody_has_waited_for_long(
    own_server: Server, app: App, other: Broker, one, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(results, "LOOK_S", 0.2)
    monkeypatch.setattr(results, "IDLE_S", 0.3)
    for n in range(2):
        result = await awaited(own_server, await one.enqueue())
        assert len(listeners(own_server)) == 1
        await end(other, kept(n))
        assert await result == n
        server = app.broker._waiting._server
        assert server is not None
        await eventually(server.done)
        await eventually(lambda: listeners(own_server) == [])


async def test_close_of_the_app_ends_the_wait(own_server: Server, app: App, one):
    result = await awaited(own_server, await one.enqueue())
    await app.close()
    with pytest.raises(ConfigError, match="the app was closed"):
        await result
    await eventually(lambda: listeners(own_server) == [])


# -- what is lost ----------------------------------------------------------------------------------


async def test_message_that_is_lost_with_the_connection_is_made_up_for(
    own_server: Server, app: App, other: Broker, one, monkeypatch, patient: None
):
    """The job ends while nobody listens."""
    result = await awaited(own_server, await one.enqueue())
    connect, go = app.broker._endpoint.connect, asyncio.Event()

    async def later(*args: Any, **options: Any) -> Any:
        await go.wait()
        return await connect(*args, **options)

    monkeypatch.setattr(app.broker._endpoint, "connect", later)
    own_server.ask("CLIENT", "KILL", "TYPE", "pubsub")
    await eventually(lambda: listeners(own_server) == [])
    await end(other, kept(1))
    go.set()
    assert await result == 1


async def test_message_that_never_came_is_made_up_for_by_the_slow_look(
    own_server: Server, other: Broker, one, monkeypatch
):
    monkeypatch.setattr(results, "LOOK_S", 0.3)
    result = await awaited(own_server, await one.enqueue())
    (lease,) = await leases(other)
    await eventually(lambda: own_server.ask("HDEL", "{qcore:default}:waiters", lease.id))
    await settle(other, (lease, kept(1)), now_ms=None)
    assert await result == 1


async def test_connection_that_falls_silent_is_replaced(
    own_server: Server, other: Broker, one, monkeypatch
):
    async def into_the_void(_: object) -> None: ...

    monkeypatch.setattr(results, "LOOK_S", 0.3)
    monkeypatch.setattr(Subscription, "ping", into_the_void)
    result = await awaited(own_server, await one.enqueue())
    first = listeners(own_server)
    await eventually(lambda: listeners(own_server) not in (first, []))
    await end(other, kept(1))
    assert await result == 1


async def test_results_are_awaited_over_a_restart_of_redis(
    own_server: Server, other: Broker, one, patient: None, monkeypatch: pytest.MonkeyPatch
):
    tries: list[Exception] = []
    monkeypatch.setattr(Outage, "goes_on", lambda _, error: tries.append(error))
    own_server.options |= {"appendonly": "yes", "appendfsync": "always"}
    own_server.ask("CONFIG", "SET", "appendfsync", "always")
    own_server.ask("CONFIG", "SET", "appendonly", "yes")
    await eventually(lambda: "aof_rewrite_in_progress:0" in persistence(own_server))
    results = [await awaited(own_server, await one.enqueue()) for _ in range(3)]
    own_server.kill()
    await eventually(lambda: len(tries) >= 3)
    own_server.start()
    for n, lease in enumerate(await leases(other)):
        await settle(other, (lease, kept(n)), now_ms=None)
    assert await asyncio.gather(*results) == [0, 1, 2]


def persistence(server: Server) -> str:
    found: dict[str, Any] = server.ask("INFO", "persistence")
    return " ".join(f"{k}:{v}" for k, v in found.items())


async def test_wait_that_cannot_begin_says_so():
    config = BrokerConfig(url=f"redis://127.0.0.1:{free_port()}", enqueue_timeout_s=0.3)
    broker = Broker(config)
    with pytest.raises(BrokerUnavailable, match="cannot be reached"):
        await Inspector(broker).ended("default", "a")
    await broker.close()


async def test_user_who_may_not_listen_is_told(own_server: Server):
    own_server.ask("ACL", "SETUSER", "deaf", "on", ">word", "~*", "+@all", "resetchannels")
    url = own_server.url.replace("//", "//deaf:word@")
    broker = Broker(BrokerConfig(url=url))
    with pytest.raises(BrokerRefused, match="refuses this client"):
        await Inspector(broker).ended("default", "a")
    await broker.close()


@scripts_obey_min_replicas
async def test_server_that_cannot_look_for_a_while_is_asked_over_the_same_connection(
    own_server: Server, app: App, other: Broker, one, monkeypatch
):
    monkeypatch.setattr(results, "LOOK_S", 0.1)
    result = await awaited(own_server, await one.enqueue())
    (lease,) = await leases(other)
    first, looks = listeners(own_server), []
    send = app.broker._upkeep.send

    async def spy(commands: Any, **options: Any) -> list[Any]:
        looks.append(commands)
        return await send(commands, **options)

    monkeypatch.setattr(app.broker._upkeep, "send", spy)
    own_server.ask("CONFIG", "SET", "min-replicas-to-write", 1)
    await eventually(lambda: len(looks) >= 5)
    assert listeners(own_server) == first
    own_server.ask("CONFIG", "SET", "min-replicas-to-write", 0)
    await settle(other, (lease, kept(1)), now_ms=None)
    assert await result == 1


async def test_node_that_is_away_delays_only_its_own_results(
    own_server: Server, app: App, other: Broker, one, monkeypatch
):
    """More results than one look takes, on both sides."""
    queue = app.broker._waiting
    send = app.broker._upkeep.send

    async def half(calls: Any, **options: Any) -> list[Any]:
        replies = await send(calls, **options)
        away = BrokerUnavailable("the node is away")
        pairs = zip(calls, replies, strict=True)
        return [away if c.keys[0].startswith(b"{qcore:bad}") else reply for c, reply in pairs]

    monkeypatch.setattr(app.broker._upkeep, "send", half)
    ended = Inspector(app.broker).ended
    lost = [asyncio.create_task(ended("bad", f"{n}")) for n in range(150)]
    results = [asyncio.create_task((await one.enqueue()).result()) for _ in range(150)]
    await eventually(lambda: sum(wait.seen_at is not None for wait in queue._all()) == 150)
    for lease in await leases(other):
        await settle(other, (lease, kept(1)), now_ms=None)
    assert await asyncio.gather(*results) == [1] * 150
    assert {type(e) for e in await asyncio.gather(*lost, return_exceptions=True)} == {
        BrokerUnavailable
    }


async def test_error_in_the_serving_itself_leaves_nobody_waiting(
    own_server: Server, app: App, one, monkeypatch
):
    result = await awaited(own_server, await one.enqueue())

    def broken(*_: object) -> None:
        raise RuntimeError("a mistake")

    monkeypatch.setattr(app.broker._waiting, "_note_outage", broken)
    own_server.ask("CLIENT", "KILL", "TYPE", "pubsub")
    with pytest.raises(BrokerUnavailable, match="a mistake"):
        await result


async def test_wait_that_begins_while_all_tasks_are_cancelled_is_served(
    own_server: Server, app: App, other: Broker, one
):
    """As in the `finally` of a task at the end of `asyncio.run`."""
    job = await one.enqueue()
    await awaited(own_server, job)
    server = app.broker._waiting._server
    assert server is not None
    server.cancel()
    late = asyncio.create_task(job.result(timeout=30))
    await asyncio.sleep(0)
    await eventually(server.done)
    await end(other, kept(1))
    assert await late == 1


# -- what is no longer kept ------------------------------------------------------------------------


async def test_handle_of_an_expired_result_says_how_long_it_was_kept(app: App, other: Broker, one):
    job = await one.options(keep=60).enqueue()
    await end(other, kept(1))
    trace = (kept(1).outcome or b"")[:TRACE_BYTES]
    await other._ask([(b"HSET", other._keys_of("default").names["done"], job.id, trace)])
    with pytest.raises(ResultExpired, match=f"{job.ref} completed, its result was kept for 60 s"):
        await job.result()
    with pytest.raises(ResultExpired, match="kept for its time and is gone"):
        await app.job(job.ref).result()
    assert await job.status() is JobStatus.COMPLETED
    assert await app.job(job.ref).status() is JobStatus.COMPLETED


async def test_job_that_was_seen_alive_and_kept_nothing_returned_none(
    own_server: Server, app: App, other: Broker, one
):
    """Also for who did not enqueue it, who would otherwise not know that it was there."""
    job = await one.enqueue()
    stranger = await awaited(own_server, app.job(job.ref))
    await end(other, Acked())
    assert await stranger is None


async def test_result_that_was_not_to_be_kept_is_not_mistaken_for_none(
    own_server: Server, other: Broker, one
):
    result = await awaited(own_server, await one.options(keep=0).enqueue())
    await end(other, Acked())
    with pytest.raises(ResultExpired, match="keep=0"):
        await result
