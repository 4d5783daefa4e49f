"""Records that must be in Redis before a job goes on: those of a moment share a call."""

import asyncio
from collections.abc import Sequence

from qcore.broker.backoff import Backoff
from qcore.errors import BrokerRefused, BrokerUnavailable
from qcore.model.job import Lease
from qcore.runtime.worker.record_writer import RecordWriter
from qcore.settings import WorkerConfig
from tests.support.virtual_time import run_in_no_time


class Redis:
    """Answers after 10 ms; fails as often as told to, and knows which leases are lost."""

    def __init__(self, *failures: Exception, lost: Sequence[str] = ()) -> None:
        self.calls: list[list[str]] = []
        self._failures, self._lost = list(failures), lost

    def backoff(self, min_s: float, max_s: float) -> Backoff:
        return Backoff(min_s, max_s)

    async def update_records(self, records: Sequence[tuple[Lease, bytes]]) -> set[bytes]:
        self.calls.append([lease.id for lease, _ in records])
        await asyncio.sleep(0.01)
        if self._failures:
            raise self._failures.pop(0)
        return {lease.token for lease, _ in records if lease.id in self._lost}


def lease_of(id: str, queue: str = "default") -> Lease:
    return Lease(f"o:1:{id}".encode(), queue, id, b"", None, 0, 0, 0)


def written(redis: Redis, *leases: Lease) -> list[bool]:
    writer = RecordWriter(redis, WorkerConfig(queues=("default",)))  # pyright: ignore[reportArgumentType]

    async def write() -> list[bool]:
        return await asyncio.gather(*(writer.write(lease, b"record") for lease in leases))

    return run_in_no_time(write())


def test_records_of_a_moment_share_the_call_behind_the_first():
    redis = Redis()

    assert written(redis, *map(lease_of, "abcd")) == [True] * 4
    assert redis.calls == [["a"], ["b", "c", "d"]]


def test_record_of_a_lost_lease_is_told_to_its_writer_alone():
    assert written(Redis(lost=["b"]), *map(lease_of, "abc")) == [True, False, True]


def test_records_of_several_queues_do_not_wait_for_each_other():
    redis = Redis()

    assert written(redis, lease_of("a", "one"), lease_of("b", "two")) == [True, True]
    assert sorted(redis.calls) == [["a"], ["b"]]


def test_record_is_written_for_as_long_as_it_takes():
    failures = [
        BrokerUnavailable("away", sent=True),
        BrokerRefused("no"),
        BrokerUnavailable("away"),
    ]
    redis = Redis(*failures)

    assert written(redis, lease_of("a")) == [True]
    assert redis.calls == [["a"]] * 4


def test_record_of_a_job_that_was_cancelled_is_written_no_more():
    redis = Redis(*[BrokerUnavailable("away") for _ in range(1000)])
    writer = RecordWriter(redis, WorkerConfig(queues=("default",)))  # pyright: ignore[reportArgumentType]

    async def write() -> int:
        first = asyncio.ensure_future(writer.write(lease_of("a"), b"record"))
        await asyncio.sleep(1)
        first.cancel()
        await asyncio.sleep(1)
        calls = len(redis.calls)
        await asyncio.sleep(60)
        return len(redis.calls) - calls

    assert run_in_no_time(write()) == 0
