"""A real set of Sentinels: who is asked, who is believed, and what a planned failover means."""

import asyncio
import signal
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from qcore import App, ArgumentError, BrokerUnavailable, NotConfirmed
from qcore.broker.redis import scripts
from qcore.model.job import Job
from tests.support.proxy import Proxy
from tests.support.servers import Server, free_port
from tests.support.topologies import SERVICE, SentinelSet
from tests.support.workers import working


@pytest.fixture(scope="module")
def sentinels(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SentinelSet]:
    with SentinelSet(tmp_path_factory.mktemp("sentinels")) as sentinels:
        yield sentinels


@pytest.fixture
def namespace() -> str:
    return f"t{uuid.uuid4().hex[:12]}"


@pytest.fixture
async def app(sentinels: SentinelSet, namespace: str) -> AsyncIterator[App]:
    async with App(sentinels.url, namespace=namespace) as app:
        yield app


async def test_jobs_run_at_the_master_that_sentinels_name(sentinels: SentinelSet, app: App):
    @app.task
    async def double(n: int) -> int:
        return 2 * n

    async with working(app):
        job = await double.options(confirm=2).enqueue(21)
        assert await job.result(timeout=10) == 42
    name = app.broker._keys_of("default").names["done"].decode()
    assert sentinels.master().ask("EXISTS", name) == 1


async def test_one_sentinel_that_answers_is_enough(sentinels: SentinelSet, namespace: str):
    living = sentinels.sentinels[0].port
    hosts = f"127.0.0.1:{free_port()},127.0.0.1:{living},127.0.0.1:{free_port()}"
    async with App(f"redis+sentinel://{hosts}/{SERVICE}", namespace=namespace) as app:
        assert await app.inspector.queues() == []


async def test_sentinel_that_hangs_does_not_hold_up_the_others(sentinels: SentinelSet, app: App):
    frozen = sentinels.sentinels[0]
    frozen.signal(signal.SIGSTOP)
    try:
        began = time.monotonic()
        assert await app.inspector.queues() == []
        assert time.monotonic() - began < app.broker.config.call_timeout_s
    finally:
        frozen.signal(signal.SIGCONT)


async def test_database_of_the_url_is_used(sentinels: SentinelSet, namespace: str):
    async with App(f"{sentinels.url[:-2]}/3", namespace=namespace) as app:
        await app.broker.register(["default"])
    assert sentinels.master().ask("EXISTS", f"{namespace}:queues") == 0


async def test_service_that_no_sentinel_knows_is_said_to_be_unknown(sentinels: SentinelSet):
    async with App(sentinels.url.replace(SERVICE, "nobody")) as app:
        with pytest.raises(BrokerUnavailable, match="they do not know this service") as e:
            await app.inspector.queues()
        assert not e.value.sent


async def test_sentinels_that_are_away_are_named_without_the_password():
    url = f"redis+sentinel://u:hunter2@127.0.0.1:{free_port()},127.0.0.1:{free_port()}/x"
    async with App(url) as app:
        with pytest.raises(BrokerUnavailable, match=r"no Sentinel of .* leads to a master") as e:
            await app.inspector.queues()
        assert "hunter2" not in str(e.value)


@asynccontextmanager
async def sentinel_that_names(server: Server) -> AsyncIterator[int]:
    """Stands for a Sentinel with old news, which answers first; gives its port."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(4096):
            port = str(server.port).encode()
            named = b"*2\r\n$9\r\n127.0.0.1\r\n$%d\r\n%s\r\n" % (len(port), port)
            commands = data.count(b"*") - data.count(b"SENTINEL")
            writer.write(b"+OK\r\n" * commands + named * data.count(b"SENTINEL"))
        writer.close()

    liar = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with liar:
        yield liar.sockets[0].getsockname()[1]


async def test_old_master_that_fewer_sentinels_name_is_not_believed(
    sentinels: SentinelSet, namespace: str, own_server: Server
):
    """It says itself that it is the master, but most Sentinels have replaced it."""
    async with (
        sentinel_that_names(own_server) as port,
        Proxy(sentinels.sentinels[0].port) as one,
        Proxy(sentinels.sentinels[1].port) as two,
    ):
        one.delay_s = two.delay_s = 0.1
        hosts = f"127.0.0.1:{port},127.0.0.1:{one.port},127.0.0.1:{two.port}"
        async with App(f"redis+sentinel://{hosts}/{SERVICE}", namespace=namespace) as app:
            await app.broker.register(["default"])
    assert own_server.ask("DBSIZE") == 0


async def test_replica_that_a_sentinel_takes_for_the_master_is_not_believed(tmp_path: Path):
    """A Sentinel with old news; the one with the right ones may answer later."""
    with Server(tmp_path / "master") as master:
        replica = Server(tmp_path / "replica", {"replicaof": f"127.0.0.1 {master.port}"})
        with replica:
            async with (
                sentinel_that_names(replica) as port,
                App(f"redis+sentinel://127.0.0.1:{port}/{SERVICE}") as app,
            ):
                with pytest.raises(BrokerUnavailable, match="is no master, it is a slave"):
                    await app.inspector.queues()


# -- confirmed enqueues ------------------------------------------------------------------------


async def test_confirm_that_waits_in_vain_holds_up_no_other(app: App):
    vain = asyncio.ensure_future(app.broker.enqueue([Job("a", "default", b"x")], confirm=3))
    await asyncio.sleep(0)
    assert await app.broker.enqueue([Job("b", "default", b"x")], confirm=2) == []
    assert not vain.done()
    with pytest.raises(NotConfirmed, match="a enqueued, but 2 of 3 replicas"):
        await vain


async def test_confirm_fails_when_the_replicas_do_not_answer(sentinels: SentinelSet, app: App):
    replicas = [s for s in sentinels.servers if s is not sentinels.master()]
    await app.broker.enqueue([Job("a", "default", b"x")], confirm=2)
    for replica in replicas:
        replica.signal(signal.SIGSTOP)
    try:
        with pytest.raises(NotConfirmed, match="b enqueued, but 0 of 2 replicas"):
            await app.broker.enqueue([Job("b", "default", b"x")], confirm=2)
    finally:
        for replica in replicas:
            replica.signal(signal.SIGCONT)
    assert await app.inspector.job("default", "b") is not None


async def test_confirm_of_a_script_that_the_server_must_learn_waits_for_its_writes(
    sentinels: SentinelSet, app: App
):
    replicas = [s for s in sentinels.servers if s is not sentinels.master()]
    sentinels.master().ask("SCRIPT", "FLUSH")
    for replica in replicas:
        replica.signal(signal.SIGSTOP)
    try:
        with pytest.raises(NotConfirmed):
            await app.broker.enqueue([Job("a", "default", b"x")], confirm=2)
    finally:
        for replica in replicas:
            replica.signal(signal.SIGCONT)


async def test_repeat_of_an_enqueue_writes_so_that_it_can_be_confirmed(app: App):
    keys = app.broker._keys_of("default")
    for now in (1000, 2000):
        call = scripts.ENQUEUE.call(keys, now, "nonce", 7, "a", "", b"x")
        assert await app.broker._ask([call, (b"WAIT", 2, 2000)]) == [[], 2]
        (written,) = await app.broker._ask([(b"HGET", keys.names["producers"], "nonce")])
        assert written == b"7 %d" % now
    assert [s.ready for s in await app.inspector.queues(["default"])] == [1]


async def test_repeat_of_an_enqueue_is_accepted_by_a_full_server(
    own_server: Server, namespace: str
):
    async with App(own_server.url, namespace=namespace) as app:
        call = scripts.ENQUEUE.call(app.broker._keys_of("default"), b"", "nonce", 7, "a", "", b"x")
        await app.broker._ask([call])
        own_server.ask("CONFIG", "SET", "maxmemory", 1)
        assert await app.broker._ask([call]) == [[]]


async def test_confirm_on_a_server_without_replicas_says_so(own_server: Server, namespace: str):
    async with App(own_server.url, namespace=namespace) as app:

        @app.task
        async def nothing() -> None: ...

        with pytest.raises(NotConfirmed, match="but 0 of 1 replicas had it in time") as e:
            await nothing.options(confirm=1).enqueue()
        assert e.value.sent
        with pytest.raises(NotConfirmed) as e:
            await nothing.options(confirm=1).enqueue_many([()] * 3)
        assert "3 jobs enqueued" in str(e.value)
        assert [s.ready for s in await app.inspector.queues(["default"])] == [4]
        with pytest.raises(ArgumentError, match="confirm is -1, allowed is 0 and more"):
            nothing.options(confirm=-1)
