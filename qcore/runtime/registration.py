"""A supervisor in the registry: it says that it lives, and obeys orders to restart."""

import asyncio
import contextlib
import random
from collections.abc import Callable

import anyio

from qcore.broker.broker import Broker
from qcore.broker.fleet import Fleet, Order
from qcore.broker.identity import new_owner
from qcore.config import WorkerConfig
from qcore.errors import BrokerError
from qcore.model.fleet import SupervisorView
from qcore.telemetry import log

#: Supervisors that hear of the same order obey it spread over this.
_SPREAD_S = 2.0


class Registration:
    """Writes a supervisor's record once per heartbeat, with the orders in the reply.

    Args:
        broker: Where the registry is.
        worker: Queues, heartbeat and reconnect times.
        view: Returns what to write.
        obey: Called with an order that concerns this supervisor and is newer than it, and than
            those obeyed before.
    """

    def __init__(
        self,
        broker: Broker,
        worker: WorkerConfig,
        *,
        view: Callable[[], SupervisorView],
        obey: Callable[[Order], None],
    ) -> None:
        self._broker = broker
        self._worker = worker
        self._view = view
        self._obey = obey
        self._fleet = Fleet(broker)
        self._id = new_owner()
        #: The generation of the last order obeyed; at first the start on the Redis clock.
        self._obeyed: int | None = None
        #: Whether the last heartbeat was answered; None before the first.
        self._is_heard: bool | None = None
        self._lost_at = 0.0
        self._over = asyncio.Event()

    async def run(self) -> None:
        """Beat until `end`; then take the record away, as the last act."""
        config = self._worker
        backoff = self._broker.backoff(config.reconnect_least_s, config.reconnect_most_s)
        while not self._over.is_set():
            try:
                await self._beat()
            except BrokerError as e:
                if self._is_heard is not False:
                    self._lost_at = anyio.current_time()
                    log.warning("registry.lost", error=str(e))
                self._is_heard = False
                rest_s = backoff.next_s()
            else:
                backoff.reset()
                rest_s = config.heartbeat_s
            with anyio.move_on_after(rest_s):
                await self._over.wait()
        if self._is_heard:
            with contextlib.suppress(BrokerError):
                await self._fleet.forget([self._id])

    def end(self) -> None:
        """Let `run` come to its end."""
        self._over.set()

    async def _beat(self) -> None:
        loop, view = asyncio.get_running_loop(), self._view()
        sent_at = loop.time()
        contact = await self._fleet.beat(self._id, view)
        if self._is_heard is False:
            away_s = round(anyio.current_time() - self._lost_at, 3)
            log.warning("registry.regained", away_s=away_s)
        self._is_heard = True
        if self._obeyed is None:
            # an order may have come before a heartbeat that was long on its way
            age_s = view.age_s + loop.time() - sent_at
            self._obeyed = contact.now_ms - round(age_s * 1000)
        due = [order for order in contact.orders if order.generation > self._obeyed]
        due = [order for order in due if order.concerns(view.host, view.queues)]
        if due:
            order = max(due, key=lambda order: order.generation)
            self._obeyed = order.generation
            loop.call_later(random.uniform(0, _SPREAD_S), self._obey, order)
