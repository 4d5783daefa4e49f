"""No queue, but the same script: plain redis-py awaits an EVALSHA of what qcore enqueues with.

What it and qcore differ in is the client: qcore's checks, encodes and coalesces.
"""

import itertools

from redis.asyncio import Redis

from benchmarks.harness.driver import URL, System, main
from qcore.broker.identity import new_id, new_owner
from qcore.broker.redis import scripts
from qcore.broker.redis.keys import queue_keys
from qcore.model.codec import encode
from qcore.model.job import Envelope

GUARANTEE = "none"
SETTINGS = "plain redis-py: one EVALSHA of qcore's enqueue.lua for each job"
DEPTH = "LLEN {qcore:default}:ready"
BULK = False

SCRIPT = scripts.ENQUEUE
KEYS = queue_keys("qcore", "default").pick(SCRIPT.keys)
NONCE = new_owner()

redis = Redis.from_url(URL)
calls = itertools.count(1)


async def one(n: int) -> None:
    call = next(calls)
    if call == 1:
        await redis.script_load(SCRIPT.source)
    envelope = encode(Envelope(1, "job", encode({"n": n}), -1, -1))
    await redis.evalsha(SCRIPT.sha, len(KEYS), *KEYS, b"", NONCE, call, new_id(), "", envelope)


def work(concurrency: int, processes: int) -> None:
    raise NotImplementedError("it only enqueues")


if __name__ == "__main__":
    main(System(one, work))
