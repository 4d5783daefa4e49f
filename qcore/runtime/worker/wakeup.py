"""Waits for the wakeups that say a queue may have jobs, while a worker has room for some."""

import asyncio
from collections.abc import Callable

import anyio

from qcore.broker.redis.broker import Broker
from qcore.errors import BrokerError
from qcore.settings import WorkerConfig
from qcore.telemetry import log

#: A queue whose wakeup was refused is listened to again after this.
_REFUSED_S = 2.0


class WakeupListener:
    """Blocks on the wakeups when told to; after each block the worker looks, woken or not.

    Args:
        broker: Where the wakeups are.
        config: Queues, block and reconnect times.
        claimable: The queues that the worker has room for now.
        look: Called when it is time to claim.
    """

    def __init__(
        self,
        broker: Broker,
        config: WorkerConfig,
        *,
        claimable: Callable[[], set[str]],
        look: Callable[[], None],
    ) -> None:
        self._broker = broker
        self._config = config
        self._claimable = claimable
        self._look = look
        self._asked = asyncio.Event()
        #: Whether a wakeup came with the last look.
        self.woken = False

    def listen(self) -> None:
        """Begin one wait, if none is going on: slots are free and nothing is in sight."""
        self._asked.set()

    async def run(self) -> None:
        """Listen whenever asked to, until cancelled."""
        try:
            await self._listen()
        finally:
            self._look()  # if this fails each time, that is how jobs are found

    async def _listen(self) -> None:
        config = self._config
        #: Queues whose wakeup came while there was no room for them: others may have it.
        refused: set[str] = set()
        backoff = self._broker.backoff(config.reconnect_min_s, config.reconnect_max_s)
        while True:
            await self._asked.wait()
            refused -= self._claimable()
            queue = None
            if queues := [name for name in config.queues if name not in refused]:
                # a job may come to a refused queue while there is room again
                block_s = min(config.block_s, _REFUSED_S) if refused else config.block_s
                try:
                    queue = await self._broker.wait_for_jobs(queues, block_s)
                    if queue is not None and queue not in self._claimable():
                        refused.add(queue)
                        await self._broker.wake([queue])
                        continue
                    backoff.reset()
                except BrokerError as e:
                    # claims may go on all the same, on their own connection
                    log.warning("wakeup.lost", error=str(e))
                    await anyio.sleep(backoff.next_s())
            self._asked.clear()
            if queues:
                self.woken = queue is not None
                self._look()
