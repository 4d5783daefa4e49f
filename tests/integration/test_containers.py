"""The round trip of a job on a server in a container, where Docker answers and is asked for."""

import os
from collections.abc import Iterator

import pytest

from qcore.broker.redis.broker import Broker
from qcore.model.job import Acked, Job
from qcore.settings import BrokerConfig
from tests.support.moves import QUEUE, claim, content, settle
from tests.support.servers import docker_answers


@pytest.fixture
def container_url() -> Iterator[str]:
    if os.environ.get("QCORE_TEST_DOCKER") != "1":
        pytest.skip("QCORE_TEST_DOCKER is not 1")
    if not docker_answers():
        pytest.skip("no Docker daemon answers")
    community = pytest.importorskip("testcontainers.community.redis")
    image = os.environ.get("QCORE_TEST_IMAGE", "redis:8")
    with community.RedisContainer(image) as container:
        host, port = container.get_container_host_ip(), container.get_exposed_port(6379)
        yield f"redis://{host}:{port}/0"


async def test_job_makes_its_round_trip_on_a_server_in_a_container(container_url):
    broker = Broker(BrokerConfig(url=container_url))
    await broker.enqueue([Job("a", QUEUE, b"payload"), Job("b", QUEUE, b"", delay_ms=60_000)])
    (lease,) = (await claim(broker, now_ms=None)).leases
    assert (lease.id, lease.envelope) == ("a", b"payload")
    assert await settle(broker, (lease, Acked(b"result", 60_000)), now_ms=None) == set()
    found = await content(broker)
    assert found["done"] == {"a": "60000 result"}
    assert list(found["scheduled"]) == ["b"]
    await broker.close()
