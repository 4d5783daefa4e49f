"""Prunes what queues that nobody serves have left: their outcomes, traces and producers."""

import contextlib
import random

import anyio

from qcore.broker.redis.broker import Broker
from qcore.errors import BrokerError
from qcore.settings import WorkerConfig

#: So many queues, drawn from all, and so many calls for each of them, in one round.
_QUEUES, _CALLS = 10, 50


class UnservedQueues:
    """Looks after a few queues of the namespace that this worker does not serve, now and then.

    Every worker does, without a leader; those served by others have little left to prune. With
    5,000 queues and one worker each is visited about every four hours, and what it holds is kept
    for a day at least.
    """

    def __init__(self, broker: Broker, config: WorkerConfig) -> None:
        self._broker = broker
        self._config = config
        #: Where to go on among the producers of a queue.
        self._cursors: dict[str, int] = {}

    async def run(self) -> None:
        """Prune at a low rate, until cancelled; what fails is left to another time."""
        while True:
            await anyio.sleep(6 * self._config.sweep_s * random.uniform(0.8, 1.2))
            with contextlib.suppress(BrokerError):
                await self.prune_some()

    async def prune_some(self) -> None:
        """Prune a few queues, for a bounded time."""
        for queue in await self._broker.some_queues(_QUEUES):
            if queue not in self._config.queues:
                await self._prune(queue)

    async def _prune(self, queue: str) -> None:
        cursor, more, calls = self._cursors.get(queue, 0), True, 0
        while more and calls < _CALLS:
            _, cursor, more = await self._broker.prune(queue, cursor=cursor)
            calls += 1
        self._cursors[queue] = cursor
