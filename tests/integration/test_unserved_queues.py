"""Queues that nobody serves are pruned by the workers of other queues."""

from qcore.broker.redis.broker import PRODUCER_SILENT_MS
from qcore.model.job import Acked
from qcore.runtime.worker.unserved_queues import UnservedQueues
from qcore.settings import WorkerConfig
from tests.support.content import keys_of
from tests.support.moves import OTHER_OWNER, QUEUE, ask, leased, settle


async def test_worker_prunes_what_a_queue_that_nobody_serves_has_left(broker):
    await broker.register([QUEUE, "served"])
    leases = await leased(broker, *(f"{n:03}" for n in range(500)))
    await settle(broker, *((lease, Acked(b"r", 5)) for lease in leases))
    (mine,) = await leased(broker, "a", queue="served", prefix=f"{OTHER_OWNER}:1:")
    await settle(broker, (mine, Acked(b"r", 5)))
    seconds = int((await ask(broker, b"TIME"))[0])
    old = f"1 {seconds * 1000 - PRODUCER_SILENT_MS - 1000}"
    producers = [word for n in range(5000) for word in (f"{n:016x}", old)]
    keys = broker._keys_of(QUEUE).names
    await broker._ask([(b"DEL", keys["producers"]), (b"HSET", keys["producers"], *producers)])
    for queue in (QUEUE, "served"):  # whose time is over on the clock of Redis
        expiry = broker._keys_of(queue).names["expiry"]
        ids = await ask(broker, b"ZRANGE", expiry, 0, -1)
        await ask(broker, b"ZADD", expiry, *(word for id in ids for word in (1, id)))
    unserved = UnservedQueues(broker, WorkerConfig(queues=("served",)))
    await unserved.prune_some()
    await unserved.prune_some()
    found = await keys_of(broker, QUEUE)
    assert len(found.get("producers", {})) < 100
    assert not [kept for kept in found.get("done", {}).values() if " " in kept]
    assert (await keys_of(broker, "served"))["done"] == {"a": "5 r"}
