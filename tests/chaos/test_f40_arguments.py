"""F40: scripts called with arguments of any shape, on queues in any state: all or nothing.

A call that is answered with an error has changed nothing at all; after one that succeeded each id
is in one place, with its payload (I7).
"""

import asyncio
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from qcore.broker.redis import scripts
from qcore.broker.redis.broker import Broker
from qcore.settings import BrokerConfig
from tests.support.content import forget_namespace, reads, shown
from tests.support.house import QUEUE, House, calls, keep_together
from tests.support.moves import LEASE_MS, NOW, OWNER, put


@pytest.mark.parametrize("script", scripts.SCRIPTS, ids=lambda script: script.name)
def test_call_with_any_arguments_does_all_or_nothing(redis_url, namespace, script):
    with asyncio.Runner() as loop:
        broker = Broker(BrokerConfig(url=redis_url, namespace=namespace))
        house = House(broker)

        @settings(
            max_examples=100,
            deadline=None,
            print_blob=True,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        )
        @given(calls(script))
        def run(words: list[Any]) -> None:
            loop.run(house.call(script, words))

        try:
            run()
        finally:
            loop.run(broker.close())
            loop.run(forget_namespace(redis_url, namespace))


@pytest.mark.parametrize("limit", [1000, 8000, 10**12])
async def test_limit_larger_than_what_one_command_takes_loses_nothing(broker, limit):
    """Lua hands some thousand words to a command; what was popped for more would be gone."""
    names, ids = broker._keys_of(QUEUE).names, [f"{n:05}" for n in range(9000)]
    for i in range(0, 9000, 500):
        await put(broker, *ids[i : i + 500], when="+1")
    keys = broker._keys_of(QUEUE)
    while (await broker._ask([scripts.PROMOTE.call(keys, NOW + 1, limit)]))[0][0]:
        pass
    words = (NOW, limit, LEASE_MS, f"{OWNER}:1:", 10**9, limit, 0, limit)
    await broker._ask([scripts.CLAIM.call(keys, *words)])
    found = shown(await broker._ask(reads(broker, QUEUE)))
    keep_together(found)
    assert len(found["active"]) == 1000
    await broker._ask([(b"DEL", names["active"], names["running"])])
    while (await broker._ask([scripts.CLEAR.call(keys, NOW, limit, "gone", 1)]))[0]:
        pass
    found = shown(await broker._ask(reads(broker, QUEUE)))
    assert not {"ready", "scheduled", "done"} & set(found)
    assert len(found["jobs"]) == 1000
    dead = [word for id in found["jobs"] for word in (NOW, id)]
    await broker._ask([(b"ZADD", names["dead"], *dead)])
    assert (await broker._ask([scripts.PURGE.call(keys, NOW, 0, limit)]))[0] == 1000
    assert "jobs" not in shown(await broker._ask(reads(broker, QUEUE)))
