"""Timed chores of every worker, jittered so that workers do not do them together."""

import contextlib
import random
from collections.abc import Awaitable, Callable, Collection, Sequence

import anyio

from qcore.broker.contract import CHORE_LIMIT
from qcore.broker.redis.broker import Broker
from qcore.broker.redis.epoch import Epochs
from qcore.errors import BrokerError
from qcore.runtime.worker.unserved_queues import UnservedQueues
from qcore.settings import WorkerConfig
from qcore.telemetry import log, log_reclaimed

#: Sweeps between two prunings of kept outcomes.
_PRUNE_EVERY = 6
#: Queues that one call sweeps, 80 KB of words: little enough for a slow link, and others.
_CALL_QUEUES = 100


class Maintenance:
    """Reclaims expired leases, promotes due jobs and prunes kept outcomes of a worker's queues.

    Every worker does this, without a leader: the scripts do each thing once. `claimable` tells
    which queues the worker claims from now; `quarantined` hears how many wait in the others.
    `renew` renews the worker's own leases if that is due, and returns the queues where it could
    not.
    """

    def __init__(
        self,
        broker: Broker,
        config: WorkerConfig,
        claimable: Callable[[], Collection[str]],
        quarantined: Callable[[int], None],
        renew: Callable[[], Awaitable[Collection[str]]],
    ) -> None:
        self._broker = broker
        self._claimable = claimable
        self._quarantined = quarantined
        self._renew = renew
        self._config = config
        self._cursors = dict.fromkeys(config.queues, 0)
        self._epochs = Epochs(broker, tuple(config.queues))
        #: When Redis last answered a sweep, on its clock.
        self._heard_ms = 0
        #: Queues that were swept since it last was away: others have had no guard yet.
        self._guarded: set[str] = set()

    async def run(self) -> None:
        """Sweep and prune until cancelled; what fails is left to the next time."""
        async with anyio.create_task_group() as group:
            group.start_soon(self._keep_sweeping)
            group.start_soon(self._keep_pruning)
            group.start_soon(UnservedQueues(self._broker, self._config).run)

    # -- sweeps ---------------------------------------------------------------------------------

    async def _keep_sweeping(self) -> None:
        while True:
            await anyio.sleep(self._config.sweep_s * random.uniform(0.8, 1.0))
            # Redis may just be back: what this worker runs is not to be taken for lost
            unrenewed = await self._renew()
            queues = [queue for queue in self._config.queues if queue not in unrenewed]
            for part in _parts(queues):
                # the worker's turns log that Redis is away
                with contextlib.suppress(BrokerError):
                    await self._sweep(part)

    async def _sweep(self, queues: Sequence[str]) -> None:
        # a claim promotes, too; without one, due jobs would not count as ready
        full = [queue for queue in queues if queue not in self._claimable()]
        while queues:
            queues = await self._reclaim(queues)
        if full:
            _, quarantined = await self._broker.promote(full)
            self._quarantined(quarantined)

    async def _reclaim(self, queues: Sequence[str]) -> Sequence[str]:
        """Sweep once; return the queues of which there may be more."""
        config = self._config
        swept = await self._broker.reclaim(
            queues,
            lease_ms=round(config.lease_s * 1000),
            stale_ms=round(config.stale_s * 1000),
            guard_ms=round(config.guard_s * 1000),
            crash_limit=config.crash_limit,
            heard_ms=self._heard_ms if self._guarded.issuperset(queues) else 0,
        )
        if swept.now_ms - self._heard_ms > config.stale_s * 1000:
            self._guarded.clear()
        self._guarded.update(swept.taken)
        self._heard_ms = swept.now_ms
        for queue, reclaimed in swept.taken.items():
            log_reclaimed(queue, reclaimed)
        return [q for q, reclaimed in swept.taken.items() if len(reclaimed) == CHORE_LIMIT]

    # -- prunings -------------------------------------------------------------------------------

    async def _keep_pruning(self) -> None:
        """A task of its own: on a slow link many queues take longer than a lease."""
        with contextlib.suppress(BrokerError):
            await self._look_for_losses()
        while True:
            await anyio.sleep(_PRUNE_EVERY * self._config.sweep_s * random.uniform(0.8, 1.0))
            for part in _parts(self._config.queues):
                with contextlib.suppress(BrokerError):  # Redis may have lost them
                    await self._broker.register(part)
            with contextlib.suppress(BrokerError):
                await self._look_for_losses()
            for queue in self._config.queues:
                # the node of another queue may answer
                with contextlib.suppress(BrokerError):
                    await self._prune(queue)

    async def _look_for_losses(self) -> None:
        if lost := await self._epochs.look():
            log.error("broker.emptied", url=self._broker.shown_url, queues=lost)

    async def _prune(self, queue: str) -> None:
        more = True
        while more:
            _, self._cursors[queue], more = await self._broker.prune(
                queue, cursor=self._cursors[queue]
            )


def _parts(queues: Sequence[str]) -> list[Sequence[str]]:
    return [queues[i : i + _CALL_QUEUES] for i in range(0, len(queues), _CALL_QUEUES)]
