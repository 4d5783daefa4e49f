"""What all tests share: real servers, a namespace of their own, a broker."""

import os
import signal
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from qcore import App
from qcore.broker.embedded.server import EmbeddedServer
from qcore.broker.redis.broker import Broker
from qcore.broker.redis.inspector import Inspector
from qcore.settings import BrokerConfig
from tests.support.content import forget_namespace
from tests.support.proxy import Proxy
from tests.support.servers import Server, start_cluster

# What nohup or a shell's background job ignores would be ignored by the commands of the tests, too.
for number, usual in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, usual)


def pytest_xdist_auto_num_workers() -> int:
    """Run two tests on each core: a test waits as long as it works."""
    return 2 * (os.cpu_count() or 1)


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The server of this session: QCORE_TEST_REDIS_URL, else an embedded one."""
    given = os.environ.get("QCORE_TEST_REDIS_URL")
    if given:
        yield given
        return
    folder = tmp_path_factory.mktemp("redis")
    server = EmbeddedServer.join(folder)  # a user for the whole session, so that it stays up
    yield f"embedded://{folder}"
    server.leave()


@pytest.fixture(scope="session")
def cluster_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Cluster of one node: it refuses a script whose keys are not of one slot."""
    server = start_cluster(tmp_path_factory.mktemp("cluster"))
    yield f"redis+cluster://127.0.0.1:{server.port}"
    server.kill()


@pytest.fixture
def server_url(request: pytest.FixtureRequest) -> str:
    """The server of `broker`; `on_standalone_and_cluster` runs a test on both kinds."""
    kind: str = getattr(request, "param", "standalone")
    return request.getfixturevalue({"standalone": "redis_url", "cluster": "cluster_url"}[kind])


@pytest.fixture
async def namespace(server_url: str) -> AsyncIterator[str]:
    """A name never used before; its keys are deleted afterwards."""
    name = f"t{uuid.uuid4().hex[:12]}"
    yield name
    await forget_namespace(server_url, name)


@pytest.fixture
def broker_config(server_url: str, namespace: str) -> BrokerConfig:
    return BrokerConfig(url=server_url, namespace=namespace)


@pytest.fixture
async def broker(broker_config: BrokerConfig) -> AsyncIterator[Broker]:
    broker = Broker(broker_config)
    yield broker
    await broker.close()


@pytest.fixture
def inspector(broker: Broker) -> Inspector:
    return Inspector(broker)


@pytest.fixture
async def app(server_url: str, namespace: str) -> AsyncIterator[App]:
    """An open app without tasks, of one queue: `default`."""
    async with App(server_url, namespace=namespace) as app:
        yield app


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[Server]:
    """A server for this test alone, which may change its settings, kill and start it."""
    with Server(tmp_path / "own") as server:
        yield server


@pytest.fixture
async def proxy(own_server: Server) -> AsyncIterator[Proxy]:
    async with Proxy(own_server.port) as proxy:
        yield proxy
