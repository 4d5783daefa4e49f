"""The protocol under the calls: what is out of order, and an event loop that is held up."""

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextvars import ContextVar
from functools import partial
from typing import Any

import pytest
import uvloop

from qcore.broker.redis import scripts
from qcore.broker.redis.broker import Broker
from qcore.broker.redis.endpoint import Endpoint
from qcore.broker.redis.keys import queue_keys
from qcore.broker.redis.pipeline import Pipeline
from qcore.broker.redis.wire import Wire
from qcore.errors import BrokerUnavailable
from qcore.model.job import Job
from qcore.settings import BrokerConfig
from tests.support.moves import QUEUE, claim, put
from tests.support.servers import Server, free_port
from tests.support.waiting import eventually

TIMEOUT_S = 0.4


@pytest.fixture
async def pipeline(own_server: Server) -> AsyncIterator[Pipeline]:
    config = BrokerConfig(url=own_server.url, call_timeout_s=TIMEOUT_S)
    made = Endpoint(config).pipeline()
    assert isinstance(made, Pipeline)
    yield made
    await made.close()


async def ping(pipeline: Pipeline) -> Any:
    return (await pipeline.send([(b"PING",)]))[0]


async def test_reply_that_came_while_the_loop_was_held_up_counts(pipeline: Pipeline):
    await ping(pipeline)
    for _ in range(3):
        call = asyncio.ensure_future(ping(pipeline))
        await asyncio.sleep(0)
        time.sleep(6 * TIMEOUT_S)  # noqa: ASYNC251 - the fault
        assert await call == b"PONG"


@pytest.mark.parametrize("is_lost", [False, True])
async def test_what_hears_replies_may_begin_the_next_call_and_fail(
    pipeline: Pipeline, is_lost: bool
):
    """It is called while bytes are read: an error of its own is not one of the connection."""
    heard: list[Any] = []
    told: list[dict[str, Any]] = []
    await ping(pipeline)
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))

    def hear(end: Any) -> None:
        has_begun = pipeline.begin([(b"ECHO", b"next")], heard.append, max_s=5)
        heard.append((end, has_begun))
        raise ValueError("of who hears")

    assert pipeline.begin([(b"CLIENT", b"ID")], hear, max_s=5)
    if is_lost:
        pipeline.drop()
    await eventually(lambda: len(heard) == 1 + (not is_lost))
    end, has_begun = heard[0]
    assert (isinstance(end, BrokerUnavailable), has_begun) == (is_lost, not is_lost)
    assert heard[1:] == [[b"next"]] * (not is_lost)
    assert [str(context["exception"]) for context in told] == ["of who hears"]
    assert await ping(pipeline) == b"PONG"


async def test_reply_that_cannot_be_read_is_told_and_the_next_call_goes_on(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
):
    def refuse(reply: object) -> Any:
        raise ValueError("no words for it")

    await ping(pipeline)
    monkeypatch.setattr("qcore.broker.redis.pipeline.error_of", refuse)
    with pytest.raises(BrokerUnavailable, match="cannot be read: no words for it") as e:
        await pipeline.send([(b"NONSENSE",)])
    assert e.value.sent
    assert await ping(pipeline) == b"PONG"


async def test_call_that_cannot_be_packed_teaches_nothing(pipeline: Pipeline):
    """A script by its digest would run behind the others of its write."""
    await ping(pipeline)
    call = scripts.DEPTH.call(queue_keys("qcore", QUEUE), b"")
    with pytest.raises(UnicodeEncodeError):
        await pipeline.send([call, (b"ECHO", "\ud800")])
    again = pipeline._words(call, set())
    assert again == call.by_source()


async def test_delivery_knows_nothing_of_the_caller_that_began_it(own_server: Server):
    """The connection that it opens is for all of them, and keeps its context."""
    broker = Broker(BrokerConfig(url=own_server.url))
    caller = ContextVar("caller", default="nobody")
    caller.set("the first")
    await broker.enqueue([Job("a", QUEUE, b"")])
    (coalescer,) = broker._coalescers.values()
    heard = asyncio.get_running_loop().create_future()
    assert coalescer.pipeline.begin([(b"PING",)], lambda _: heard.set_result(caller.get()), max_s=5)
    assert await heard == "nobody"
    await broker.close()


async def test_answer_that_nobody_understands_is_told_and_the_next_enqueue_goes_on(
    own_server: Server, monkeypatch: pytest.MonkeyPatch
):
    broker = Broker(BrokerConfig(url=own_server.url))
    await broker.enqueue([Job("a", QUEUE, b"")])
    (coalescer,) = broker._coalescers.values()

    def refuse(*_: object) -> Any:
        monkeypatch.undo()
        raise ValueError("of no use")

    monkeypatch.setattr(coalescer, "_hear", refuse)
    with pytest.raises(ValueError, match="of no use"):
        await broker.enqueue([Job("b", QUEUE, b"")])
    assert await broker.enqueue([Job("c", QUEUE, b"")]) == []
    await asyncio.wait_for(broker.close(), 10)


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
def test_loop_that_is_held_up_all_the_time_hears_replies_and_ends_what_hangs(
    own_server: Server, run: Callable[[Any], None]
):
    """Timers of the two kinds of loops differ in what they tell of themselves."""

    async def main() -> None:
        config = BrokerConfig(url=own_server.url, call_timeout_s=TIMEOUT_S)
        pipeline = Endpoint(config).pipeline()
        assert isinstance(pipeline, Pipeline)
        holding = asyncio.create_task(hold())
        for _ in range(3):
            wait = (b"BZPOPMIN", b"nobody-sets-this", b"0.3")
            assert await pipeline.send([wait], timeout_s=20, blocks=True) == [None]
            assert await ping(pipeline) == b"PONG"
        own_server.signal(signal.SIGSTOP)
        with pytest.raises(BrokerUnavailable, match="did not answer"):
            await ping(pipeline)
        own_server.signal(signal.SIGCONT)
        assert await ping(pipeline) == b"PONG"
        holding.cancel()
        await pipeline.close()

    async def hold() -> None:
        while True:
            time.sleep(0.07)  # noqa: ASYNC251 - the fault
            await asyncio.sleep(0.01)

    run(main())


async def test_write_that_fails_fails_its_call_alone(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
):
    await ping(pipeline)
    assert pipeline._wire is not None

    def fail(*_: object) -> None:
        raise RuntimeError("no more handles")

    monkeypatch.setattr(pipeline._wire, "_transport", _Failing(pipeline._wire._transport, fail))
    with pytest.raises(BrokerUnavailable, match="no more handles") as e:
        await ping(pipeline)
    assert e.value.sent
    assert await ping(pipeline) == b"PONG"


class _Failing:
    """A transport that cannot write."""

    def __init__(self, transport: Any, fail: Any) -> None:
        self._transport = transport
        self.write = self.writelines = fail

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


async def test_argument_that_cannot_be_sent_costs_no_connection(pipeline: Pipeline):
    await ping(pipeline)
    before = pipeline._wire
    with pytest.raises(TypeError):
        await pipeline.send([(b"ECHO", object())])
    assert await ping(pipeline) == b"PONG"
    assert pipeline._wire is before


@pytest.mark.parametrize("said", [b"+OK\r\n", b"$9\r\nhalf"])
async def test_bytes_that_nobody_asked_for_end_the_connection(said: bytes):
    ends = list[asyncio.StreamWriter]()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ends.append(writer)
        while data := await reader.read(65536):
            writer.write(b"+OK\r\n" * data.count(b"\r\nCLIENT\r\n"))
            writer.write(b"+PONG\r\n" * data.count(b"\r\nPING\r\n"))
            await writer.drain()
            if b"PING" in data:
                await asyncio.sleep(0.02)
                writer.write(said)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    made = Endpoint(BrokerConfig(url=f"redis://127.0.0.1:{port}", call_timeout_s=5)).pipeline()
    assert isinstance(made, Pipeline)
    for _ in range(3):
        assert await ping(made) == b"PONG"
        wire = made._wire
        assert wire is not None
        await eventually(partial(_is_closed, wire))
    await made.close()
    server.close()
    await eventually(lambda: all(end.is_closing() for end in ends))


def _is_closed(wire: Wire) -> bool:
    return not wire.is_open()


async def test_enqueue_behind_a_loop_that_was_held_up_is_sent_all_the_same(own_server: Server):
    broker = Broker(BrokerConfig(url=own_server.url, enqueue_timeout_s=TIMEOUT_S))
    await broker.enqueue([Job("0", QUEUE, b"")])
    calls = [asyncio.ensure_future(broker.enqueue([Job(id, QUEUE, b"")])) for id in "abc"]
    await asyncio.sleep(0)
    time.sleep(2 * TIMEOUT_S)  # noqa: ASYNC251 - the fault
    assert await asyncio.gather(*calls) == [[], [], []]
    await broker.close()


async def test_claim_on_a_server_that_became_a_replica_fails_whole(own_server: Server):
    """Jobs wait there, and may only be claimed where its address leads by now."""
    broker = Broker(BrokerConfig(url=own_server.url))
    await put(broker, "a")
    own_server.ask("REPLICAOF", "127.0.0.1", free_port())
    with pytest.raises(BrokerUnavailable, match=r"read only replica|READONLY"):
        await claim(broker)
    assert isinstance(broker._turns, Pipeline)
    assert broker._turns._wire is None
    own_server.ask("REPLICAOF", "NO", "ONE")
    assert [lease.id for lease in (await claim(broker)).leases] == ["a"]
    await broker.close()
