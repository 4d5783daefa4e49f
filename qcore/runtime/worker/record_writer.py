"""Records of jobs that must be in Redis before the jobs go on."""

import asyncio
from collections import defaultdict
from dataclasses import dataclass, field

import anyio

from qcore.broker.contract import CALL_JOBS
from qcore.broker.redis.broker import Broker
from qcore.errors import BrokerError, BrokerUnavailable
from qcore.model.job import Lease
from qcore.settings import WorkerConfig
from qcore.telemetry import log


@dataclass(slots=True)
class _Desk:
    """What is to be written for the jobs of one queue, and the right to write it."""

    waiting: dict[bytes, tuple[Lease, bytes]] = field(
        default_factory=dict[bytes, tuple[Lease, bytes]]
    )
    #: Tokens of those who have not heard yet that their lease was lost.
    lost: set[bytes] = field(default_factory=set[bytes])
    busy: asyncio.Lock = field(default_factory=asyncio.Lock)


class RecordWriter:
    """Writes the records of a worker's jobs, those of a moment together.

    One call per queue is in flight; who comes next takes along all that gathered meanwhile.
    """

    def __init__(self, broker: Broker, config: WorkerConfig) -> None:
        self._broker = broker
        self._backoff = broker.backoff(config.reconnect_min_s, config.reconnect_max_s)
        self._desks: defaultdict[str, _Desk] = defaultdict(_Desk)

    async def write(self, lease: Lease, record: bytes) -> bool:
        """Write the record of a running job, for as long as it takes; False: its lease was lost.

        Cancelling leaves open whether it was written.
        """
        desk = self._desks[lease.queue]
        desk.waiting[lease.token] = lease, record
        try:
            async with desk.busy:
                while lease.token in desk.waiting:
                    await self._write(desk)
        finally:
            desk.waiting.pop(lease.token, None)
            was_lost = lease.token in desk.lost
            desk.lost.discard(lease.token)
        return not was_lost

    async def _write(self, desk: _Desk) -> None:
        """Write what waits. A call that fails, or is cut off, is left to be made again."""
        batch = list(desk.waiting.values())[:CALL_JOBS]
        try:
            desk.lost |= await self._broker.update_records(batch)
        except BrokerError as e:
            if not isinstance(e, BrokerUnavailable):  # the turns log that Redis is away
                log.warning(
                    "record.refused", jobs=len(batch), queue=batch[0][0].queue, error=str(e)
                )
            await anyio.sleep(self._backoff.next_s())
            return
        self._backoff.reset()
        for lease, _ in batch:
            desk.waiting.pop(lease.token, None)
