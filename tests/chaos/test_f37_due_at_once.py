"""F37: a hundred thousand jobs become due in the same millisecond."""

import asyncio
import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import pytest
import redis

from tests.support.checker import assert_sound
from tests.support.fleet import Fleet
from tests.support.load import load_on
from tests.support.servers import Server

JOBS = 100_000
LEAD_S = 3.0
#: Enqueueing takes a loaded machine longer than any lead: all become due at a moment after it.
MOVE = """
local ids = redis.call('ZRANGE', KEYS[1], 0, -1)
for _, id in ipairs(ids) do redis.call('ZADD', KEYS[1], 'XX', ARGV[1], id) end
redis.call('ZADD', KEYS[2], 0, '1')
return #ids
"""


@contextmanager
def pinging(server: Server) -> Iterator[list[float]]:
    """Ask the server all the time from a connection of its own; collect the times it took."""
    latencies_s, over = list[float](), threading.Event()

    def ping() -> None:
        with redis.Redis(port=server.port, protocol=2, socket_timeout=30) as client:
            while not over.wait(0.005):
                began = time.perf_counter()
                client.ping()
                latencies_s.append(time.perf_counter() - began)

    thread = threading.Thread(target=ping)
    thread.start()
    try:
        yield latencies_s
    finally:
        over.set()
        thread.join(35)


def quantile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


@pytest.mark.timeout(240)
async def test_jobs_due_in_one_millisecond_start_once_and_not_early(
    fleet: Fleet, durable_server: Server, dice: random.Random
):
    server = durable_server
    server.ask("CONFIG", "SET", "appendfsync", "everysec")  # the disk is not on trial
    wall_s = time.time() - time.monotonic()
    async with fleet.producer() as producer:
        numbers = [fleet.history.invoke() for _ in range(JOBS)]
        in_an_hour = producer.task("work").options(eta=datetime.now(UTC) + timedelta(hours=1))
        assert await in_an_hour.enqueue_many((n,) for n in numbers) == JOBS
        fleet.history.outcomes.update(dict.fromkeys(numbers, "ok"))
        names = producer.app.broker._keys_of("default").names
    command = fleet.start(processes=2)
    await command.ready(2)
    due_ms = round((time.time() + LEAD_S) * 1000)
    keys = (names["scheduled"].decode(), names["wakeup"].decode())
    assert server.ask("EVAL", MOVE, 2, *keys, due_ms) == JOBS
    with pinging(server) as latencies_s:
        # others are claimed all the time, and each claim promotes what is due
        async with load_on(fleet, dice, producers=1, tasks=["work"], max_open=2 * JOBS):
            await asyncio.sleep(max(0.0, due_ms / 1000 - time.time()))
        await fleet.emptied(150)
    took_s = time.time() - due_ms / 1000
    command.signal()
    assert await command.ended(15) == 0
    runs = fleet.runs()
    findings = assert_sound(fleet.history, runs)
    assert findings.runs == findings.done >= JOBS
    first_ms = 1000 * (wall_s + min(run.started_at for n in numbers for run in runs[n]))
    assert first_ms >= due_ms - 1  # the clocks of this machine, read one after the other
    print(
        f"all done {took_s:.1f} s after they were due; PING took "
        f"{1000 * quantile(latencies_s, 0.5):.1f} ms (median), "
        f"{1000 * quantile(latencies_s, 0.99):.1f} ms (99 %), {1000 * max(latencies_s):.1f} ms"
    )
    # one script never holds the server for long: promoting them all at once takes far longer
    assert quantile(latencies_s, 0.9) < 0.5
