"""Waits for the wakeups that say a queue may have jobs, while a worker has room for some."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace

import anyio

from qcore.broker.contract import Turn
from qcore.broker.redis.broker import Broker
from qcore.broker.redis.claiming_wait import Woken
from qcore.errors import BrokerError
from qcore.runtime.worker.capacity import ClaimBudget
from qcore.runtime.worker.session import Session
from qcore.settings import WorkerConfig
from qcore.telemetry import log

#: A queue whose wakeup was refused is listened to again after this.
_REFUSED_S = 2.0
#: A wait that is to end and does not for so long is cut off.
_CUT_S = 0.5
#: While jobs run there is no claim behind a wait; it is short, for they may soon have ended.
_BUSY_S = 1.0


@dataclass(slots=True, eq=False)
class _ClaimingWait:
    """A wait with a claim behind it."""

    budget: ClaimBudget
    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)
    over: asyncio.Event = field(default_factory=asyncio.Event)


class WakeupListener:
    """Blocks on the wakeups when told to; after each block there is a claim, woken or not.

    Where that is possible the claim is in Redis already, behind the wait, so that `is_claiming`;
    else the worker is told to look.

    Args:
        broker: Where the wakeups are.
        session: Waits and claims.
        config: Queues, block and reconnect times.
        claimable: The queues that the worker has room for now.
        accept: Called with what a claim behind a wait brought.
        look: Called when it is time to claim.
    """

    def __init__(
        self,
        broker: Broker,
        session: Session,
        config: WorkerConfig,
        *,
        claimable: Callable[[], set[str]],
        accept: Callable[[Turn], None],
        look: Callable[[], None],
    ) -> None:
        self._broker = broker
        self._session = session
        self._config = config
        self._claimable = claimable
        self._accept = accept
        self._look = look
        self._backoff = broker.backoff(config.reconnect_min_s, config.reconnect_max_s)
        self._asked = asyncio.Event()
        #: The wait that is going on, where a claim goes with it; and how long it is else.
        self._claiming: _ClaimingWait | None = None
        self._block_s = config.block_s
        #: The wait that is going on is to end.
        self._enough = asyncio.Event()
        #: Queues whose wakeup came while there was no room for them: others may have it.
        self._refused: set[str] = set()
        #: Whether a wakeup came with the last look.
        self.woken = False

    @property
    def is_claiming(self) -> bool:
        """Whether a claim goes with the wait: there must be no other until it has come back."""
        return self._claiming is not None

    def listen(self, budget: ClaimBudget) -> None:
        """Begin one wait, if none is going on: slots are free and nothing is in sight."""
        if not self._asked.is_set():
            self._asked.set()
            self._claiming = _ClaimingWait(budget) if self._session.can_wait(budget) else None
            if_idle = replace(budget, is_idle=True)
            self._block_s = _BUSY_S if self._session.can_wait(if_idle) else self._config.block_s

    def end(self) -> None:
        """End a wait that claims, if there is one: soon its claim has come back."""
        if self.is_claiming:
            self._enough.set()

    async def run(self) -> None:
        """Listen whenever asked to, until cancelled."""
        try:
            while True:
                await self._asked.wait()
                if self._claiming is None:
                    await self._wait()
                else:
                    await self._wait_and_claim(self._claiming)
        finally:
            self._look()  # if this fails each time, that is how jobs are found

    async def _wait_and_claim(self, wait: "_ClaimingWait") -> None:
        """Wait for all queues, and hand on what the claim behind the wait has brought."""
        woken = Woken()
        try:
            with wait.scope:
                woken = await self._session.wait(wait.budget)
        except BrokerError as e:
            woken.error = e
        finally:
            self._claiming = None
            wait.over.set()
        self.woken = woken.called
        if woken.turn.claimed:
            self._accept(woken.turn)
        else:
            self._look()
        if woken.error is None:
            self._backoff.reset()
        else:
            await self._rest(woken.error)
            self._look()
        self._asked.clear()

    async def _wait(self) -> None:
        """Wait for all queues that have room; look, or hand on a wakeup that is of no use here."""
        self._refused -= self._claimable()
        queues = [name for name in self._config.queues if name not in self._refused]
        queue = None
        if queues:
            # a job may come to a refused queue while there is room again
            block_s = min(self._block_s, _REFUSED_S) if self._refused else self._block_s
            try:
                queue = await self._broker.wakeups.wait(queues, block_s)
                if queue is not None and queue not in self._claimable():
                    self._refused.add(queue)
                    await self._broker.wakeups.set([queue])
                    return
                self._backoff.reset()
            except BrokerError as e:
                await self._rest(e)
        self._asked.clear()
        if queues:
            self.woken = queue is not None
            self._look()

    async def _rest(self, error: BrokerError) -> None:
        # claims may go on all the same, on their own connection
        log.warning("wakeup.lost", error=str(error))
        await anyio.sleep(self._backoff.next_s())

    async def end_waits(self) -> None:
        """End the waits that are to end, until cancelled; one that does not is cut off."""
        while True:
            await self._enough.wait()
            self._enough.clear()
            if (wait := self._claiming) is None:
                continue
            with anyio.move_on_after(_CUT_S), suppress(BrokerError):
                await self._session.end_wait()
                await wait.over.wait()
            if not wait.over.is_set():
                wait.scope.cancel()
                await wait.over.wait()
