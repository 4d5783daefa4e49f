"""Renews the leases of a worker's jobs in batches; stops the jobs that are lost or not wanted."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Collection, Sequence

import anyio

from qcore.broker.redis.broker import Broker
from qcore.errors import BrokerError, BrokerUnavailable
from qcore.model.job import Lease
from qcore.settings import WorkerConfig

#: Of the time until the first lease ends, so much passes at most between two tries to renew it.
_HASTE = 0.05


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
        self._min_s = min(config.reconnect_min_s, config.extend_s / 10)
        max_s = min(config.extend_s, config.reconnect_max_s)
        self._backoff = broker.backoff(self._min_s, max_s)
        self._busy = asyncio.Lock()
        #: There is reason to renew earlier than planned.
        self._hurry = asyncio.Event()
        #: Loop time of the next renewal of all.
        self._next_at = 0.0
        #: No lease was given or renewed before; but for those of a call that was slow.
        self._safe_at = 0.0
        #: Queues whose leases the last call did not renew.
        self._failed: set[str] = set()

    async def run(self) -> None:
        """Renew until cancelled; faster, while that fails, the nearer the ends of the leases."""
        if not self._next_at:  # this may be begun again
            self._safe_at = asyncio.get_running_loop().time()
            self._next_at = self._safe_at + self._config.extend_s
        while True:
            wait_s = self._left_s(self._next_at)
            if self._failed:
                await anyio.sleep(self._min_s)
                left_s = self._left_s(self._safe_at + self._config.lease_s)
                wait_s = min(self._backoff.next_s(), wait_s, left_s * _HASTE)
            with anyio.move_on_after(wait_s):
                await self._hurry.wait()
            self._hurry.clear()
            await self.renew()

    def heard(self, at: float) -> None:
        """Hear that Redis has answered a call of that loop time, which may have given leases.

        What could not be renewed is tried again at once. What a slow call gave is due earlier than
        the rest.
        """
        due_at = at + self._config.extend_s
        if self._failed or due_at < self._next_at:
            self._next_at = min(self._next_at, due_at)
            self._hurry.set()

    async def renew(self) -> Collection[str]:
        """Renew what is due, and what failed before; return the queues that failed now."""
        async with self._busy:
            leases: Sequence[Lease] = ()
            if self._left_s(self._next_at) <= 0:
                leases = self._held()
                self._next_at = asyncio.get_running_loop().time() + self._config.extend_s
            elif self._failed:
                leases = [lease for lease in self._held() if lease.queue in self._failed]
            else:
                return ()
            self._failed.clear()
            # the worker's turns log that Redis is away
            with contextlib.suppress(BrokerError):
                await self._for_each_part(leases, self._extend_part)
            if not self._failed:
                self._backoff.reset()
                self._safe_at = self._next_at - self._config.extend_s
            return set(self._failed)

    async def _extend_part(self, leases: Sequence[Lease]) -> None:
        queues = {lease.queue for lease in leases}
        self._failed |= queues
        sent_at = asyncio.get_running_loop().time()
        # a call that hangs must leave time for another one
        left_s = self._left_s(self._safe_at + self._config.lease_s)
        limit_s = min(self._broker.config.call_timeout_s, max(self._config.extend_s, left_s / 2))
        lease_ms = round(self._config.lease_s * 1000)
        lost = await self._broker.extend(leases, lease_ms, timeout_s=limit_s)
        self._failed -= queues
        self._renewed(leases, sent_at)
        for token in lost:
            self._lost(token)

    def _left_s(self, at: float) -> float:
        return max(0.0, at - asyncio.get_running_loop().time())

    async def heed(self) -> None:
        """Ask once per heartbeat which of the jobs somebody wants cancelled, until cancelled."""
        while True:
            await anyio.sleep(self._config.heartbeat_s)
            leases, asked_at = self._held(), asyncio.get_running_loop().time()
            with contextlib.suppress(BrokerError):  # the next heartbeat asks again
                await self._for_each_part(leases, self._heed_part)
                if leases:
                    self.heard(asked_at)

    async def _heed_part(self, leases: Sequence[Lease]) -> None:
        for token in await self._broker.cancel_requested(leases):
            self._unwanted(token)

    async def _for_each_part(
        self, leases: Sequence[Lease], act: Callable[[Sequence[Lease]], Awaitable[None]]
    ) -> None:
        """Act on all leases at once; what fails for some must not hold up what others are told."""
        groups = self._broker.groups(sorted({lease.queue for lease in leases}))
        parts = [[lease for lease in leases if lease.queue in group] for group in groups]
        acts = (self._act_on(part, act) for part in parts if part)
        ends = await asyncio.gather(*acts, return_exceptions=True)
        for end in ends:
            if isinstance(end, BaseException):
                raise end

    async def _act_on(
        self, leases: Sequence[Lease], act: Callable[[Sequence[Lease]], Awaitable[None]]
    ) -> None:
        """Act on the leases of several queues: with one call, or where one is odd with one each."""
        try:
            await act(leases)
        except BrokerUnavailable:
            raise
        except BrokerError:  # a key of another type, say
            for queue in {lease.queue for lease in leases}:
                with contextlib.suppress(BrokerError):
                    await act([lease for lease in leases if lease.queue == queue])
