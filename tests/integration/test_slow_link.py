"""Workers far away from Redis: a link of 20 KB/s with calls of 5 s, five times as fast here."""

import asyncio
import socket
from collections import Counter
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from qcore import App, Task
from qcore.broker.per_loop import Brokers
from qcore.broker.redis.endpoint import Endpoint
from qcore.settings import BrokerConfig
from tests.support.proxy import Proxy
from tests.support.servers import Server
from tests.support.waiting import eventually
from tests.support.workers import working

pytestmark = pytest.mark.skipif(
    not hasattr(socket, "TCP_INFO"), reason="nobody counts the bytes of a connection here"
)

RATE, DELAY_S, CALL_S = 100_000, 0.02, 1.0
TIMES: dict[str, Any] = {
    "lease_s": 6.0,
    "extend_s": 2.0,
    "sweep_s": 1.5,
    "shutdown_timeout_s": 15.0,
}


@pytest.fixture
async def link(own_server: Server) -> AsyncIterator[Proxy]:
    async with Proxy(own_server.port, rate=RATE) as proxy:
        proxy.delay_s = DELAY_S
        yield proxy


def echoing(url: str, ran: Callable[[int], None]) -> tuple[App, Task[[int, str], str]]:
    """Return an app there, and its task: it returns what it got."""
    app = App(url)
    app._made = Brokers(lambda: BrokerConfig(url=url, call_timeout_s=CALL_S))

    @app.task(name="echo")
    async def echo(n: int, text: str) -> str:
        ran(n)
        return text

    return app, echo


async def test_slow_worker_does_its_jobs_and_leaves_the_rest_to_another(
    own_server: Server, link: Proxy
):
    """What is to arrive, and to be told, takes several times as long as one call may."""
    text, far_ran, near_ran = "x" * 10_000, Counter[int](), Counter[int]()
    far, _ = echoing(link.url, lambda n: far_ran.update([n]))
    near, echo = echoing(own_server.url, lambda n: near_ran.update([n]))
    async with near, far:
        jobs = [await echo.enqueue(n, text) for n in range(50)]
        async with working(far, concurrency=50, **TIMES):
            await eventually(lambda: sum(far_ran.values()) >= 20, 30)
            async with working(near, concurrency=1, **TIMES):
                ends = [await job.result(timeout=30) for job in jobs]
    assert ends == [text] * 50
    assert near_ran
    assert far_ran + near_ran == Counter(range(50))


async def test_payload_that_takes_longer_than_a_call_may_arrives_and_so_does_its_result(
    own_server: Server, link: Proxy
):
    text, ran = "x" * 120_000, Counter[int]()
    far, echo = echoing(link.url, lambda n: ran.update([n]))
    near, _ = echoing(own_server.url, lambda _: None)
    async with far, near:
        jobs = [await echo.enqueue(n, text) for n in range(2)]  # over the link
        async with working(far, **TIMES):
            ends = [await near.job(job.ref).result(timeout=30) for job in jobs]
    assert ends == [text] * 2
    assert ran == Counter(range(2))


async def test_results_that_take_longer_than_a_call_may_arrive_in_several(
    own_server: Server, link: Proxy
):
    """They end while the way to Redis is cut, so that all are asked for at the same time."""
    text = "x" * 10_000
    config = BrokerConfig(url=link.url, call_timeout_s=0.4, enqueue_timeout_s=60.0)
    near, echo = echoing(own_server.url, lambda _: None)
    far = App(link.url)
    far._made = Brokers(lambda: config)
    async with near, far:
        jobs = [await echo.enqueue(n, text) for n in range(20)]
        results = asyncio.gather(*(far.job(job.ref).result(timeout=30) for job in jobs))
        await eventually(lambda: own_server.ask("HLEN", "{qcore:default}:waiters") == len(jobs))
        await link.refuse()
        async with working(near, **TIMES):
            for job in jobs:
                await job.result(timeout=30)
        await link.listen()
        assert await results == [text] * len(jobs)


# -- one call --------------------------------------------------------------------------------------

#: What takes more than the call timeout of 0.5 s, and less than four.
BODY = b"x" * 90_000


async def asked(url: str, command: tuple[object, ...]) -> Any:
    line = Endpoint(BrokerConfig(url=url, call_timeout_s=0.5)).pipeline()
    try:
        (reply,) = await line.send([command])
    finally:
        await line.close()
    return reply


async def test_reply_that_takes_longer_than_the_call_timeout_arrives(own_server: Server):
    own_server.ask("SET", "large", BODY.decode())
    async with Proxy(own_server.port, rate=RATE) as proxy:
        assert await asked(proxy.url, (b"GET", b"large")) == BODY


async def test_call_that_takes_longer_than_the_call_timeout_to_leave_arrives(own_server: Server):
    async with Proxy(own_server.port, rate=RATE) as proxy:
        await asked(proxy.url, (b"SET", b"large", BODY))
    assert own_server.ask("STRLEN", "large") == len(BODY)
