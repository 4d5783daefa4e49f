"""A claim in several parts, as in a Cluster: all together keep to the bounds of one."""

import asyncio
from collections.abc import Collection
from typing import Any

import pytest

from qcore.broker.contract import ClaimRequest, Turn
from qcore.broker.redis.broker import Broker
from qcore.broker.redis.call_limits import leasing_s
from qcore.broker.redis.scripts import Call
from qcore.settings import BrokerConfig
from tests.support.virtual_time import run_in_no_time

PAYLOAD = bytes(10_000)
LEASE_MS = 30_000
CONFIG = BrokerConfig(url="redis+cluster://nowhere:7000")
#: What the call that gives leases may take in all.
MAX_S = leasing_s(CONFIG.call_timeout_s, LEASE_MS)
QUEUES = [f"q{n:02}" for n in range(20)]


class ClusterOfOneJobEach:
    """Stands for the connections: each queue has one job ready, each call takes so long."""

    timeout_s = CONFIG.call_timeout_s

    def __init__(self, call_s: float, *, empty: Collection[str] = ()) -> None:
        self._call_s, self._empty = call_s, empty
        #: The payload that each part asked for at most.
        self.bytes: list[object] = []
        #: When each part began, and when it would have been ended.
        self.begins: list[float] = []
        self.ends: list[float] = []

    async def send(self, commands: list[Call], *, timeout_s: float) -> list[Any]:
        (call,) = commands
        now = asyncio.get_running_loop().time()
        queue = QUEUES[len(self.bytes)]
        self.bytes.append(call.args[4])
        self.begins.append(now)
        self.ends.append(now + timeout_s)
        await asyncio.sleep(self._call_s)
        if queue in self._empty:
            return [[b"0", b"", b"0"]]
        columns = [[queue.encode()], [bytes(8) + PAYLOAD], [], [], []]
        return [[b"0", b"", b"0", [b"1", b"0", *columns]]]


def claimed(line: ClusterOfOneJobEach, *, max_bytes: int = 1 << 20) -> Turn:
    async def work() -> Turn:
        broker = Broker(CONFIG)
        broker._turns = line  # type: ignore[assignment]
        claim = ClaimRequest(QUEUES, 100, LEASE_MS, "owner:1:", max_bytes=max_bytes)
        return await broker.turn([], claim)

    return run_in_no_time(work())


def test_parts_share_the_bytes_of_one_claim():
    line = ClusterOfOneJobEach(0.0)
    turn = claimed(line, max_bytes=35_000)
    assert line.bytes == [35_000, 25_000, 15_000, 5_000]
    assert len(turn.leases) == 4
    assert turn.again_ms == 0


def test_parts_are_over_in_the_time_of_one_call_that_gives_leases():
    """Nobody renews what the first has claimed until the last is over."""
    line = ClusterOfOneJobEach(3.0)
    turn = claimed(line)
    assert max(line.ends) == pytest.approx(MAX_S)
    assert 1 < len(turn.leases) < len(QUEUES)
    assert turn.again_ms == 0


def test_part_that_is_begun_has_time_to_end():
    line = ClusterOfOneJobEach(3.0)
    claimed(line)
    min_s = min(end - begin for begin, end in zip(line.begins, line.ends, strict=True))
    assert min_s >= MAX_S / 2


def test_every_queue_is_asked_as_long_as_there_is_nothing_to_renew():
    line = ClusterOfOneJobEach(3.0, empty=QUEUES[:-1])
    turn = claimed(line)
    assert [lease.queue for lease in turn.leases] == QUEUES[-1:]
    assert turn.again_ms is None


def test_parts_on_a_fast_link_ask_every_queue():
    turn = claimed(ClusterOfOneJobEach(0.001))
    assert [lease.queue for lease in turn.leases] == QUEUES
    assert turn.again_ms is None
