"""Renews the leases of a worker's jobs in batches; stops the jobs that are lost or not wanted."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence

import anyio

from qcore.broker.broker import Broker
from qcore.config import WorkerConfig
from qcore.errors import BrokerError
from qcore.model.job import Lease


class LeaseKeeper:
    """Extends every lease of the process, one call per interval.

    Args:
        broker: Where the leases are.
        config: Lease, interval and reconnect times.
        held: Every lease whose outcome Redis has not confirmed, so also of jobs that have ended:
            until their outcome is sent, nobody else may take them.
        renewed: Called with the leases of each renewal that was answered, and the loop time at
            which it was sent: the trust in them counts from there.
        lost: Called with each token that Redis no longer knows.
        unwanted: Called with the token of each job that somebody wants cancelled.
    """

    def __init__(
        self,
        broker: Broker,
        config: WorkerConfig,
        *,
        held: Callable[[], Sequence[Lease]],
        renewed: Callable[[Sequence[Lease], float], None],
        lost: Callable[[bytes], None],
        unwanted: Callable[[bytes], None],
    ) -> None:
        self._broker = broker
        self._config = config
        self._held = held
        self._renewed = renewed
        self._lost = lost
        self._unwanted = unwanted

    async def run(self) -> None:
        """Extend until cancelled. While Redis is away, try at reconnect pace."""
        config = self._config
        most_s = min(config.extend_s, config.reconnect_most_s)
        backoff = self._broker.backoff(config.reconnect_least_s, most_s)
        wait_s = config.extend_s
        while True:
            await anyio.sleep(wait_s)
            try:
                await self._extend()
            except BrokerError:
                # the worker's turns log that Redis is away
                wait_s = backoff.next_s()
            else:
                backoff.reset()
                wait_s = config.extend_s

    async def _extend(self) -> None:
        await self._for_each_part(self._extend_part)

    async def _extend_part(self, leases: Sequence[Lease]) -> None:
        sent_at = asyncio.get_running_loop().time()
        lost = await self._broker.extend(leases, round(self._config.lease_s * 1000))
        self._renewed(leases, sent_at)
        for token in lost:
            self._lost(token)

    async def heed(self) -> None:
        """Ask once per heartbeat which of the jobs somebody wants cancelled, until cancelled."""
        while True:
            await anyio.sleep(self._config.heartbeat_s)
            with contextlib.suppress(BrokerError):  # the next heartbeat asks again
                await self._for_each_part(self._heed_part)

    async def _heed_part(self, leases: Sequence[Lease]) -> None:
        for token in await self._broker.wishes(leases):
            self._unwanted(token)

    async def _for_each_part(self, act: Callable[[Sequence[Lease]], Awaitable[None]]) -> None:
        """Act on all leases at once; what fails for some must not hold up what others are told."""
        leases = self._held()
        groups = self._broker.groups(sorted({lease.queue for lease in leases}))
        parts = [[lease for lease in leases if lease.queue in group] for group in groups]
        ends = await asyncio.gather(*(act(part) for part in parts if part), return_exceptions=True)
        for end in ends:
            if isinstance(end, BaseException):
                raise end
