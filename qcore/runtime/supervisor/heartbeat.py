"""A supervisor in the registry: it says that it lives, and obeys orders to restart."""

import asyncio
import contextlib
import random
from collections.abc import Callable

import anyio
import msgspec

from qcore.broker.contract import Contact, Order
from qcore.broker.identity import new_owner
from qcore.broker.redis.broker import Broker
from qcore.broker.redis.fleet import OLD_ORDER_MS, Fleet
from qcore.errors import BrokerError
from qcore.model.fleet import SupervisorView
from qcore.settings import WorkerConfig
from qcore.telemetry import log

#: Supervisors that hear of the same order obey it spread over this.
_SPREAD_S = 2.0
#: Orders of one moment have generations apart.
_APART_MS = 1000


class Heartbeat:
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
        #: The highest generation that was seen; None before the first contact.
        self._seen: int | None = None
        #: The highest of those that were there at the start, and are not for this supervisor.
        self._given_before: int | None = None
        #: Orders that lay far ahead when they were seen: none, also when their time comes.
        self._void: set[Order] = set()
        #: Whether the last heartbeat was answered; None before the first.
        self._is_heard: bool | None = None
        self._lost_at = 0.0
        self._over = asyncio.Event()

    async def run(self) -> None:
        """Beat until `end`; then take the record away, as the last act."""
        config = self._worker
        backoff = self._broker.backoff(config.reconnect_min_s, config.reconnect_max_s)
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
        loop = asyncio.get_running_loop()
        view = msgspec.structs.replace(self._view(), given_before=self._given_before)
        sent_at = loop.time()
        contact = await self._fleet.beat(self._id, view)
        if self._is_heard is False:
            away_s = round(anyio.current_time() - self._lost_at, 3)
            log.warning("registry.regained", away_s=away_s)
        self._is_heard = True
        orders = self._valid(contact)
        if self._seen is None:
            # an order may have come before a heartbeat that was long on its way
            age_s = view.age_s + loop.time() - sent_at
            new = [o for o in orders if _is_since(o, age_s, contact.now_ms)]
            before = {order.generation for order in orders if order not in new}
            self._given_before = max(before, default=0)
        else:
            new = [order for order in orders if order.generation > self._seen]
        self._seen = max((o.generation for o in orders), default=self._seen or 0)
        due = [order for order in new if order.concerns(view.host, view.queues)]
        if due:
            order = max(due, key=lambda order: order.generation)
            loop.call_later(random.uniform(0, _SPREAD_S), self._obey, order)

    def _valid(self, contact: Contact) -> list[Order]:
        """Return the orders that were given, by the time of Redis; one far ahead would be the last.

        What was seen counts no more when the Redis clock was set back by more than that.
        """
        last_ms = contact.now_ms + OLD_ORDER_MS + _APART_MS
        self._void = {o for o in contact.orders if o in self._void or o.generation > last_ms}
        orders = [order for order in contact.orders if order not in self._void]
        if self._seen is not None and self._seen > last_ms:
            self._seen = max((order.generation for order in orders), default=0)
        return orders


def _is_since(order: Order, age_s: float, now_ms: int) -> bool:
    """Say whether an order was given in the last `age_s`.

    Generations are times, as long as the Redis clock is not set back. One of the future was given
    before that, nobody knows when: who obeyed it would leave, and so would each successor.
    """
    return now_ms - age_s * 1000 < order.generation <= now_ms + _APART_MS
