"""Sweeps at times that a test chooses."""

from collections.abc import Collection

from qcore.broker.redis.broker import Broker
from tests.support.moves import LEASE_MS, OWNER, QUEUE, SECOND, ask

SWEEP_MS = 5 * SECOND
STALE_MS = LEASE_MS // 2
GUARD_MS = 20 * SECOND
CRASH_LIMIT = 10


async def swept(broker: Broker, at_ms: int, queue: str = QUEUE) -> None:
    """Let the last sweep have been at this time, so that the next one has no guard."""
    await ask(broker, b"HSET", broker._keys_of(queue).names["meta"], "last_sweep", at_ms)


async def reclaim(
    broker: Broker,
    now_ms: int,
    *,
    queue: str = QUEUE,
    crash_limit: int = CRASH_LIMIT,
    heard_ms: int = 0,
) -> list[tuple[str, str]]:
    """Sweep at `now_ms`; return (token, where its job went)."""
    swept = await broker.reclaim(
        [queue],
        lease_ms=LEASE_MS,
        stale_ms=STALE_MS,
        guard_ms=GUARD_MS,
        crash_limit=crash_limit,
        heard_ms=heard_ms,
        now_ms=now_ms,
    )
    assert swept.now_ms == now_ms
    return [(item.token.decode(), item.to) for item in swept.taken[queue]]


async def reclaim_owner(
    broker: Broker,
    now_ms: int,
    *,
    owner: str = OWNER,
    queue: str = QUEUE,
    charge: bool = True,
    crash_limit: int = CRASH_LIMIT,
    culprits: Collection[bytes] = (),
) -> list[tuple[str, str]]:
    taken = await broker.reclaim_owner(
        [queue], owner, charge=charge, crash_limit=crash_limit, culprits=culprits, now_ms=now_ms
    )
    return [(item.token.decode(), item.to) for item in taken[queue]]
