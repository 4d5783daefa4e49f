"""What a job costs in the memory of Redis, by what it waits for."""

from collections.abc import Awaitable, Callable

import pytest

from qcore.broker.contract import CHORE_LIMIT
from qcore.broker.identity import new_id
from qcore.broker.redis.broker import Broker
from qcore.model.job import Acked, Buried, Job, Outcome
from tests.support.moves import QUEUE, SECOND, ask, claim, failed_state, settle

JOBS = 10_000
ENVELOPE, OUTCOME = bytes(100), bytes(30)
KEEP_MS = 60 * SECOND


async def enqueue(broker: Broker, delay_ms: int | None = None) -> None:
    for _ in range(0, JOBS, 500):
        jobs = [Job(new_id(), QUEUE, ENVELOPE, delay_ms=delay_ms) for _ in range(500)]
        await broker.enqueue(jobs)


async def ready(broker: Broker) -> None:
    await enqueue(broker)


async def scheduled(broker: Broker) -> None:
    await enqueue(broker, delay_ms=3600 * SECOND)


async def running(broker: Broker) -> None:
    await enqueue(broker)
    for _ in range(0, JOBS, 500):
        await claim(broker, now_ms=None)


async def ended(broker: Broker, outcome: Outcome) -> None:
    await enqueue(broker)
    for _ in range(0, JOBS, 500):
        turn = await claim(broker, now_ms=None)
        await settle(broker, *((lease, outcome) for lease in turn.leases), now_ms=None)


async def kept(broker: Broker) -> None:
    await ended(broker, Acked(OUTCOME, KEEP_MS))


async def traced(broker: Broker) -> None:
    """The time of what was kept is over: a repeated enqueue is still known."""
    await kept(broker)
    (seconds, _) = await ask(broker, b"TIME")
    over_ms = int(seconds) * SECOND + KEEP_MS + SECOND
    for _ in range(0, JOBS, CHORE_LIMIT):
        await broker.prune(QUEUE, now_ms=over_ms)


async def dead(broker: Broker) -> None:
    await ended(broker, Buried(failed_state("no")))


#: Bytes a job. Of Redis 6.2, 7.0, 8.2 and Valkey 9.1 the most was 236, 336, 515, 285, 240, 498:
#: an id takes 36 of them wherever it stands, a sorted set some 70 beside it.
@pytest.mark.parametrize(
    ("state", "budget"),
    [(ready, 250), (scheduled, 350), (running, 540), (kept, 300), (traced, 255), (dead, 525)],
)
async def test_job_takes_little_memory(
    broker: Broker, state: Callable[[Broker], Awaitable[None]], budget: int
):
    await state(broker)
    sizes = {
        name: await ask(broker, b"MEMORY", b"USAGE", key, b"SAMPLES", 0)
        for name, key in broker._keys_of(QUEUE).names.items()
    }
    held = {name: size / JOBS for name, size in sizes.items() if size}
    assert sum(held.values()) <= budget, held
