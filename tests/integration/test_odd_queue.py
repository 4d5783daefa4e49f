"""One queue with a key of another type, as a hand leaves it: the others are looked after."""

import asyncio
from typing import Any

import pytest

from qcore.broker.redis.acquittal import acquit
from qcore.broker.redis.broker import Broker
from qcore.model.job import Death
from qcore.runtime.worker.leases import LeaseKeeper
from qcore.settings import WorkerConfig
from tests.support.moves import ask, leased
from tests.support.waiting import eventually


async def replaced(broker: Broker, queue: str, key: str) -> None:
    name = broker._keys_of(queue).names[key]
    await ask(broker, b"DEL", name)
    await ask(broker, b"SET", name, b"of somebody else")


async def test_leases_of_the_other_queues_are_renewed_and_their_cancel_requests_heard(
    broker: Broker,
):
    sound, odd = [(await leased(broker, "a", queue=queue))[0] for queue in ("sound", "odd")]
    renewed, unwanted = set[str](), set[bytes]()
    for key in ("active", "cancels"):
        await replaced(broker, "odd", key)
    await ask(broker, b"HSET", broker._keys_of("sound").names["cancels"], "a", b"9 cancel request")
    keeper = LeaseKeeper(
        broker,
        WorkerConfig(queues=("sound", "odd"), lease_s=3, extend_s=1, sweep_s=0.5, heartbeat_s=0.05),
        held=lambda: [sound, odd],
        renewed=lambda leases, sent_at: renewed.update(lease.queue for lease in leases),
        lost=lambda token: None,
        unwanted=unwanted.add,
    )
    assert await keeper.renew() == {"odd"}
    assert renewed == {"sound"}
    heeding: asyncio.Task[Any] = asyncio.create_task(keeper.heed())
    await eventually(lambda: unwanted == {sound.token})
    heeding.cancel()
    with pytest.raises(asyncio.CancelledError):
        await heeding


async def test_nobody_waits_for_an_acquittal(broker: Broker):
    """What holds it up would hold up the end of the culprit, whose lease is renewed meanwhile."""
    await replaced(broker, "odd", "state")
    death = Death("SIGSEGV", "worker.1", "host", 7, 0, 2, ("beside",), quarantined=True)
    assert await acquit(broker, ["sound", "odd"], [death]) == []
