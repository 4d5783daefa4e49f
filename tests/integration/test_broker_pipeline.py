"""The way to Redis: deadlines, dropped connections, error replies, unknown scripts."""

import asyncio
import random
import signal
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from qcore.broker.contract import ClaimRequest
from qcore.broker.redis import scripts
from qcore.broker.redis.broker import Broker
from qcore.broker.redis.endpoint import Endpoint
from qcore.broker.redis.pipeline import Pipeline
from qcore.errors import BrokerError, BrokerRefused, BrokerUnavailable
from qcore.model.job import Acked, Job
from qcore.settings import BrokerConfig
from tests.support.moves import NOW, PREFIX, QUEUE, ask, claim, content, leased, put, settle
from tests.support.proxy import Proxy
from tests.support.servers import Server, free_port, scripts_obey_min_replicas
from tests.support.waiting import eventually

TIMEOUT_S = 0.3


@pytest.fixture
async def new_line() -> AsyncIterator[Callable[..., Pipeline]]:
    lines: list[Pipeline] = []

    def make(url: str, timeout_s: float = 5.0) -> Pipeline:
        line = Endpoint(BrokerConfig(url=url, call_timeout_s=timeout_s)).pipeline()
        assert isinstance(line, Pipeline)
        lines.append(line)
        return line

    yield make
    for line in lines:
        await line.close()


@pytest.fixture
async def own_broker(own_server: Server) -> AsyncIterator[Broker]:
    broker = Broker(BrokerConfig(url=own_server.url, call_timeout_s=2, enqueue_timeout_s=2))
    yield broker
    await broker.close()


@pytest.fixture
def silent_url() -> Iterator[str]:
    """A server that accepts connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"redis://127.0.0.1:{listener.getsockname()[1]}/0"


async def run(line: Pipeline, command: tuple[object, ...]) -> Any:
    """Send one command and return its reply; an error reply raises."""
    (reply,) = await line.send([command])
    if isinstance(reply, BrokerError):
        raise reply
    return reply


@contextmanager
def stopped(server: Server) -> Iterator[None]:
    server.signal(signal.SIGSTOP)
    try:
        yield
    finally:
        server.signal(signal.SIGCONT)


# -- scripts that the server does not know ---------------------------------------------------------


async def test_script_unknown_to_the_server_is_taught_unseen(own_server, own_broker):
    await put(own_broker, "a")
    own_server.ask("SCRIPT", "FLUSH")
    (lease,) = (await claim(own_broker)).leases
    own_server.ask("SCRIPT", "FLUSH")
    assert await settle(own_broker, (lease, Acked())) == set()
    own_server.ask("SCRIPT", "FLUSH")
    await own_broker.enqueue([Job("b", QUEUE, b"")])
    assert (await content(own_broker))["ready"] == ["b"]


async def test_script_unknown_among_others_keeps_every_reply_in_its_place(own_server, own_broker):
    await put(own_broker, "a", "b")
    own_server.ask("SCRIPT", "FLUSH")
    await own_broker.promote([QUEUE], now_ms=NOW)  # this one the server knows again
    keys = own_broker._keys_of(QUEUE)
    replies = await own_broker._ask(
        [
            (b"ECHO", b"first"),
            scripts.DEPTH.call(keys, NOW),
            scripts.PROMOTE.call(keys, NOW, 1),
            scripts.FIND.call(keys, "a", b""),
            (b"ECHO", b"last"),
        ]
    )
    assert replies[1][1] == 2
    assert replies[2] == [0, 0]
    assert replies[3][0] == b"ready"
    assert (replies[0], replies[4]) == (b"first", b"last")


# -- one reply, one question -----------------------------------------------------------------------


async def test_line_after_a_cancelled_call_gives_the_right_reply(new_line, redis_url):
    line = new_line(redis_url)
    blocked = asyncio.ensure_future(run(line, (b"BZPOPMIN", b"nobody-sets-this", 5)))
    await eventually(lambda: line._wire is not None)  # it is on its way
    blocked.cancel()
    with pytest.raises(asyncio.CancelledError):
        await blocked
    assert await run(line, (b"ECHO", b"mine")) == b"mine"


async def test_line_never_gives_a_reply_to_another_question(new_line, redis_url):
    """Calls cancelled at any moment, with others waiting behind them."""
    line, draw = new_line(redis_url), random.Random(3)
    answered = 0

    async def question(n: int) -> None:
        nonlocal answered
        assert await run(line, (b"ECHO", f"{n}")) == f"{n}".encode()
        answered += 1

    for n in range(0, 300, 3):
        three = [asyncio.ensure_future(question(n + i)) for i in range(3)]
        for _ in range(draw.randrange(6)):
            await asyncio.sleep(0)
        draw.choice(three).cancel()
        results = await asyncio.gather(*three, return_exceptions=True)
        assert all(r is None or isinstance(r, asyncio.CancelledError) for r in results)
    assert answered >= 200


async def test_line_error_reply_stands_in_its_place_alone(new_line, redis_url):
    line = new_line(redis_url)
    first, wrong, last = await line.send([(b"ECHO", b"1"), (b"LPOP",), (b"ECHO", b"2")])
    assert (first, last) == (b"1", b"2")
    assert isinstance(wrong, BrokerError)
    assert "wrong number of arguments" in str(wrong)


async def test_line_opens_one_connection_for_many_calls(new_line, own_server):
    async with Proxy(own_server.port) as proxy:
        line = new_line(proxy.url)
        for n in range(10):
            assert await run(line, (b"ECHO", f"{n}")) == f"{n}".encode()
        await asyncio.gather(*(run(line, (b"PING",)) for _ in range(10)))
        assert proxy.accepted == 1
        await line.close()


async def test_line_opens_a_new_connection_when_the_server_closed_the_idle_one(
    new_line, own_server
):
    """A server or balancer that drops idle clients costs the next caller no error."""
    async with Proxy(own_server.port) as proxy:
        line = new_line(proxy.url)
        await run(line, (b"PING",))
        proxy.cut()
        await eventually(lambda: not proxy.serving)
        assert await run(line, (b"PING",)) == b"PONG"
        await line.close()


# -- deadlines -------------------------------------------------------------------------------------


async def test_line_to_a_silent_server_ends_in_time_and_sent_nothing(new_line, silent_url):
    line = new_line(silent_url, TIMEOUT_S)
    began = time.monotonic()
    with pytest.raises(BrokerUnavailable, match=r"did not answer within \d+\.\d s") as e:
        await run(line, (b"PING",))
    assert TIMEOUT_S <= time.monotonic() - began < 20 * TIMEOUT_S
    assert e.value.sent is False


async def test_line_to_a_refused_port_says_so_and_sent_nothing(new_line):
    line = new_line(f"redis://:secret@127.0.0.1:{free_port()}/0")
    with pytest.raises(BrokerUnavailable, match="cannot be reached") as e:
        await run(line, (b"PING",))
    assert e.value.sent is False
    assert "secret" not in str(e.value)


async def test_line_to_a_server_that_hangs_may_have_sent(new_line, own_server):
    line = new_line(own_server.url, TIMEOUT_S)
    await run(line, (b"PING",))
    with stopped(own_server), pytest.raises(BrokerUnavailable) as e:
        await run(line, (b"INCR", b"n"))
    assert e.value.sent is True
    assert await run(line, (b"ECHO", b"well")) == b"well"


async def test_line_whose_connection_breaks_in_a_call_may_have_sent(new_line, own_server):
    async with Proxy(own_server.port) as proxy:
        line = new_line(proxy.url)
        await run(line, (b"PING",))
        proxy.lose_reply(b"INCR")
        with pytest.raises(BrokerUnavailable) as e:
            await run(line, (b"INCR", b"n"))
        assert e.value.sent is True
        assert await run(line, (b"GET", b"n")) == b"1"  # executed once: nothing was replayed
        await line.close()


async def test_wait_for_jobs_may_block_longer_than_a_call(own_server):
    # the limit is for what a loaded machine adds, too: connecting and answering
    config = BrokerConfig(url=own_server.url, call_timeout_s=2.0)
    broker = Broker(config)
    assert await broker.wakeups.wait([QUEUE], 2.5) is None
    await broker.close()


# -- the wakeup ------------------------------------------------------------------------------------


async def test_wait_for_jobs_returns_the_queue_of_the_wakeup_and_takes_it(broker):
    waiting = asyncio.ensure_future(broker.wakeups.wait(["empty", QUEUE], 5))
    await put(broker, "a")
    assert await waiting == QUEUE
    assert "wakeup" not in await content(broker)
    assert (await content(broker))["ready"] == ["a"]


async def test_wakeup_wakes_one_of_many(broker_config):
    brokers = [Broker(broker_config) for _ in range(3)]
    waiting = [asyncio.ensure_future(b.wakeups.wait([QUEUE], 0.5)) for b in brokers]
    await put(brokers[0], "a", "b", "c")
    assert sorted(map(str, await asyncio.gather(*waiting))) == ["None", "None", QUEUE]
    for broker in brokers:
        await broker.close()


async def test_wait_for_jobs_cancelled_loses_no_job_and_not_the_next_wakeup(broker):
    for n in range(20):
        waiting = asyncio.ensure_future(broker.wakeups.wait([QUEUE], 5))
        await put(broker, f"{n:02}")
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
    assert len((await content(broker))["ready"]) == 20
    await broker.wakeups.set([QUEUE])
    assert await broker.wakeups.wait([QUEUE], 5) == QUEUE


# -- what the server says --------------------------------------------------------------------------


def read_only(server: Server) -> None:
    server.ask("REPLICAOF", "127.0.0.1", free_port())


def master_down(server: Server) -> None:
    server.ask("CONFIG", "SET", "replica-serve-stale-data", "no")
    read_only(server)


def no_replicas(server: Server) -> None:
    server.ask("CONFIG", "SET", "min-replicas-to-write", 1)


@pytest.mark.parametrize(
    "state", [read_only, master_down, pytest.param(no_replicas, marks=scripts_obey_min_replicas)]
)
async def test_turn_in_a_state_that_passes_is_unavailable_and_applied_nothing(
    own_server, own_broker, state
):
    (lease,) = await leased(own_broker, "a")
    before = await content(own_broker)
    state(own_server)
    with pytest.raises(BrokerUnavailable) as e:
        await settle(own_broker, (lease, Acked()))
    assert e.value.sent is False
    own_server.ask("REPLICAOF", "NO", "ONE")
    own_server.ask("CONFIG", "SET", "min-replicas-to-write", 0)
    assert await content(own_broker) == before
    assert await settle(own_broker, (lease, Acked())) == set()


async def test_call_while_a_foreign_script_runs_is_unavailable(own_server, own_broker):
    await put(own_broker, "a")
    own_server.ask("CONFIG", "SET", "lua-time-limit", 1)
    busy = asyncio.get_running_loop().run_in_executor(None, _busy_script, own_server)

    async def refused() -> BrokerError | None:
        try:
            await claim(own_broker)
        except BrokerError as e:
            return e
        return None

    error = await eventually(refused)
    own_server.ask("SCRIPT", "KILL")
    await busy
    assert isinstance(error, BrokerUnavailable)
    assert "BUSY" in str(error) or "busy" in str(error)


def _busy_script(server: Server) -> None:
    try:
        server.ask("EVAL", "while true do end", 0)
    except Exception as e:  # noqa: BLE001 - killed, in the words of this server
        assert "kill" in str(e).lower()  # noqa: PT017


async def test_server_without_room_for_a_client_is_unavailable(own_server, own_broker, new_line):
    await ask(own_broker, b"PING")
    await ask(own_broker, b"CONFIG", b"SET", b"maxclients", 1)
    with pytest.raises(BrokerUnavailable, match="max number of clients") as e:
        await run(new_line(own_server.url), (b"PING",))
    assert e.value.sent is False
    await ask(own_broker, b"CONFIG", b"SET", b"maxclients", 100)


async def test_blocked_call_that_is_unblocked_is_unavailable(own_server, own_broker):
    waiting = asyncio.ensure_future(own_broker.wakeups.wait([QUEUE], 5))

    async def unblock() -> bool:
        clients = await ask(own_broker, b"CLIENT", b"LIST")
        blocked = [c for c in clients.decode().splitlines() if "cmd=bzpopmin" in c]
        return bool(blocked) and bool(
            await ask(own_broker, b"CLIENT", b"UNBLOCK", blocked[0].split()[0][3:], b"ERROR")
        )

    await eventually(unblock)
    with pytest.raises(BrokerUnavailable, match="UNBLOCKED"):
        await waiting


@pytest.mark.parametrize("userinfo", ["", ":wrong@", "nobody:wrong@"])
async def test_server_that_wants_a_password_refuses_clearly(own_server, new_line, userinfo):
    own_server.ask("CONFIG", "SET", "requirepass", "right")
    line = new_line(own_server.url.replace("://", f"://{userinfo}"))
    with pytest.raises(BrokerRefused, match="check user, password and rights") as e:
        await run(line, (b"PING",))
    assert "wrong" not in str(e.value).replace("wrong pass", "").replace("WRONGPASS", "")
    right = new_line(own_server.url.replace("://", "://:right@"))
    assert await run(right, (b"PING",)) == b"PONG"


async def test_user_without_rights_is_refused(own_server):
    own_server.ask("ACL", "SETUSER", "poor", "on", ">pw", "~*", "+@all", "-@scripting", "-eval")
    url = own_server.url.replace("://", "://poor:pw@")
    broker = Broker(BrokerConfig(url=url, enqueue_timeout_s=60))
    began = time.monotonic()
    with pytest.raises(BrokerRefused):
        await broker.enqueue([Job("a", QUEUE, b"")])
    with pytest.raises(BrokerRefused):
        await broker.promote([QUEUE])
    assert time.monotonic() - began < 30  # nothing was tried again
    await broker.close()


async def test_turn_with_a_claim_that_ran_beside_a_failed_settle_brings_both(
    own_broker, monkeypatch
):
    """The state of the server changed between the two: what the claim took is not lost."""
    (lease,) = await leased(own_broker, "a")
    await put(own_broker, "b")
    real = own_broker._turns.send

    async def send(commands, **options):
        replies = await real(commands[1:], **options)
        return [BrokerUnavailable("Redis cannot do this at the moment: READONLY"), *replies]

    monkeypatch.setattr(own_broker._turns, "send", send)
    request = ClaimRequest([QUEUE], 1, 30_000, PREFIX.replace("1", "2"))
    turn = await own_broker.turn([(lease, Acked())], request, now_ms=NOW)
    assert [lease.id for lease in turn.leases] == ["b"]
    assert list(turn.unsettled) == [QUEUE]


async def test_line_leaves_a_server_that_became_a_replica(own_server, own_broker):
    """Behind its address there may be a new master by now; only a new connection finds it."""
    (lease,) = await leased(own_broker, "a")
    read_only(own_server)
    with pytest.raises(BrokerUnavailable):
        await settle(own_broker, (lease, Acked()))
    assert own_broker._turns._wire is None


async def test_deadline_of_a_line_covers_the_wait_for_it(own_server, own_broker):
    own_server.signal(signal.SIGSTOP)
    try:
        began = time.monotonic()
        line = own_broker._upkeep
        calls = (line.send([(b"PING",)], timeout_s=0.5) for _ in range(80))
        ends = await asyncio.gather(*calls, return_exceptions=True)
        assert all(isinstance(end, BrokerUnavailable) for end in ends)
        assert time.monotonic() - began < 20  # and not 80 times half a second
    finally:
        own_server.signal(signal.SIGCONT)
