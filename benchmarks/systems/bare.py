"""No queue, but what one cannot do without: plain redis-py, awaited; for the ratios of targets.

To enqueue is one EVALSHA that stores 100 bytes; a worker waits with BZPOPMIN, then one EVALSHA.
"""

import redis
import redis.asyncio
import uvloop

from benchmarks import workloads
from benchmarks.harness.driver import URL, System, gate, main

GUARANTEE = "none"
SETTINGS = "plain redis-py: one EVALSHA to enqueue; BZPOPMIN, then one EVALSHA, to begin"
DEPTH = "ZCARD bare"
BULK = False

SOURCE = "return redis.call('ZADD', KEYS[1], 0, ARGV[1])"
CLAIM = "return redis.call('ZCARD', KEYS[1])"

client = redis.asyncio.Redis.from_url(URL)
blocking_client = redis.Redis.from_url(URL)
sha = ""


async def one(n: int) -> None:
    global sha
    sha = sha or await client.script_load(SOURCE)
    await client.evalsha(sha, 1, "bare", f"{n:0100}")


def blocking(n: int) -> None:
    global sha
    sha = sha or blocking_client.script_load(SOURCE)
    blocking_client.evalsha(sha, 1, "bare", f"{n:0100}")


async def consume() -> None:
    claim = await client.script_load(CLAIM)
    await client.zcard("bare")
    gate()
    while True:
        _, member, _ = await client.bzpopmin("bare", timeout=0)
        await client.evalsha(claim, 1, "bare")
        workloads.note(int(member))


def work(concurrency: int, processes: int) -> None:
    uvloop.run(consume())


if __name__ == "__main__":
    main(System(one, work, blocking=blocking))
