"""Timed chores of every worker, jittered so that workers do not do them together."""

import contextlib
import random
from collections.abc import Callable, Collection

import anyio

from qcore.broker.broker import Broker
from qcore.broker.epoch import Epochs
from qcore.broker.reading import text_of
from qcore.broker.wire import CHORE_LIMIT, Reclaimed
from qcore.config import WorkerConfig
from qcore.errors import BrokerError
from qcore.telemetry import log

#: Sweeps between two prunings of kept outcomes.
_PRUNE_EVERY = 6


class Maintenance:
    """Reclaims expired leases, promotes due jobs and prunes kept outcomes of a worker's queues.

    Every worker does this, without a leader: the scripts do each thing once. `claimable` tells
    which queues the worker claims from now; `suspects` hears how many wait in the others.
    """

    def __init__(
        self,
        broker: Broker,
        config: WorkerConfig,
        *,
        claimable: Callable[[], Collection[str]],
        suspects: Callable[[int], None],
    ) -> None:
        self._broker = broker
        self._claimable = claimable
        self._suspects = suspects
        self._config = config
        self._cursors = dict.fromkeys(config.queues, 0)
        self._epochs = Epochs(broker, tuple(config.queues))

    async def run(self) -> None:
        """Sweep until cancelled; a sweep that fails is left to the next one."""
        turn = 0
        with contextlib.suppress(BrokerError):
            await self._look_for_losses()
        while True:
            await anyio.sleep(self._config.sweep_s * random.uniform(0.8, 1.0))
            turn += 1
            if turn % _PRUNE_EVERY == 0:  # Redis may have lost them
                with contextlib.suppress(BrokerError):
                    await self._broker.register(self._config.queues)
                    await self._look_for_losses()
            for queue in self._config.queues:
                # the node of another queue may answer; the worker's turns log what is away
                with contextlib.suppress(BrokerError):
                    await self._look_after(queue, turn)

    async def _look_for_losses(self) -> None:
        if lost := await self._epochs.look():
            log.error("broker.emptied", url=self._broker.shown_url, queues=lost)

    async def _look_after(self, queue: str, turn: int) -> None:
        await self._reclaim(queue)
        if queue not in self._claimable():
            # a claim promotes, too; without one, due jobs would not count as ready
            _, suspects = await self._broker.promote(queue)
            self._suspects(suspects)
        if turn % _PRUNE_EVERY == 0:
            await self._prune(queue)

    async def _reclaim(self, queue: str) -> None:
        config = self._config
        while True:
            reclaimed = await self._broker.reclaim(
                queue,
                lease_ms=round(config.lease_s * 1000),
                sweep_ms=round(config.sweep_s * 1000),
                guard_ms=round(1000 * min(config.lease_s, 2 * config.extend_s)),
                crash_limit=config.crash_limit,
            )
            log_reclaimed(queue, reclaimed)
            if len(reclaimed) < CHORE_LIMIT:
                return

    async def _prune(self, queue: str) -> None:
        count = CHORE_LIMIT
        while count == CHORE_LIMIT:
            count, self._cursors[queue] = await self._broker.prune(
                queue, cursor=self._cursors[queue]
            )


def log_reclaimed(queue: str, reclaimed: list[Reclaimed]) -> None:
    """Log each job that was taken from its owner."""
    for item in reclaimed:
        owner = text_of(item.token.partition(b":")[0])
        log.warning("job.reclaimed", job=item.id, queue=queue, owner=owner, to=item.to)
