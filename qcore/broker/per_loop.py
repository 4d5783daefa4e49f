"""The brokers of one app: one per process and event loop, for neither can share a connection."""

import asyncio
import os
import weakref
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress
from dataclasses import dataclass

from qcore import blocking
from qcore.broker.broker import Broker
from qcore.config import BrokerConfig
from qcore.errors import ConfigError


@dataclass(slots=True, eq=False)
class _Held:
    """The broker of one loop."""

    broker: Broker
    #: Its end closes the broker. A loop ends the generators that began in it as its last act, so
    #: a broker that nobody closes is closed in its own loop all the same.
    guard: AsyncGenerator[None, None]
    #: How often this loop has opened the app and not closed it since.
    opens: int = 0


class Brokers:
    """Makes a broker for each loop that asks; an app is open while one loop has it open.

    A forked child inherits that the app is open, and nothing else: not a socket of its parent's is
    used or closed, and its brokers count their calls under names of their own.
    """

    def __init__(self, config: Callable[[], BrokerConfig]) -> None:
        self._config = config
        self._held: dict[asyncio.AbstractEventLoop, _Held] = {}
        #: The process that this one was forked from had the app open.
        self._inherited_open = False
        _all.add(self)
        # it holds what is open, so that connections are closed, not collected in another thread
        weakref.finalize(self, _close_all, self._held).atexit = False

    def get(self) -> Broker:
        """Return the broker of the running loop.

        Raises:
            ConfigError: the app is not open, or no loop runs here.
        """
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            raise ConfigError(
                "no event loop runs here: use `enqueue_sync` and the other `_sync` methods"
            ) from None
        held = self._held.get(loop)
        if held is None:
            if not self._is_open() and not blocking.is_own(loop):
                raise ConfigError(
                    "the app is not open: use `async with app:`, or `await app.open()`"
                )
            held = self._make(loop)
        return held.broker

    def _is_open(self) -> bool:
        return self._inherited_open or any(held.opens for held in self._held.values())

    async def open(self) -> None:
        """Open the broker of the running loop; each call needs a `close` of its own.

        Raises:
            ConfigError, BrokerUnavailable: see `Broker.open`.
        """
        loop = asyncio.get_running_loop()
        held = self._held.get(loop) or self._make(loop)
        held.opens += 1
        try:
            await held.broker.open()
        except BaseException:
            await self.close()
            raise
        self._forget_ended(lambda _: True)  # from now on this loop says whether the app is open

    async def close(self) -> None:
        """Close the broker of the running loop, if there is one and this is the last close."""
        loop = asyncio.get_running_loop()
        held = self._held.get(loop)
        if held is None:
            return
        held.opens -= 1
        if held.opens <= 0:
            del self._held[loop]
            await held.guard.aclose()

    def _forget_ended(self, which: Callable[[_Held], bool]) -> None:
        for loop, held in list(self._held.items()):
            if loop.is_closed() and which(held):
                self._held.pop(loop, None)

    def _make(self, loop: asyncio.AbstractEventLoop) -> _Held:
        self._forget_ended(lambda held: not held.opens)  # an app that was left open stays open
        broker = Broker(self._config())
        held = self._held[loop] = _Held(broker, _guard(broker))
        with suppress(StopIteration):  # runs to its yield, so that the loop knows of it
            held.guard.__anext__().send(None)
        return held

    def forget_inherited(self) -> None:
        """Begin anew in a forked child."""
        # Kept for ever: to close a connection would take it out of the poll set that the child
        # shares with its parent, and end a TLS session that the parent is using.
        self._inherited_open = self._is_open()
        _inherited.append(dict(self._held))
        self._held.clear()


async def _guard(broker: Broker) -> AsyncGenerator[None, None]:
    try:
        yield
    finally:
        await broker.close()


def _close_all(held: dict[asyncio.AbstractEventLoop, _Held]) -> None:
    """Close the brokers of an app that is no more, each in its own loop."""
    for loop, one in held.items():
        with suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(_close_soon, loop, one)


def _close_soon(loop: asyncio.AbstractEventLoop, one: _Held) -> None:
    loop.create_task(one.guard.aclose())


_all: "weakref.WeakSet[Brokers]" = weakref.WeakSet()
_inherited: list[dict[asyncio.AbstractEventLoop, _Held]] = []


def _forget_inherited_brokers() -> None:
    for brokers in list(_all):
        brokers.forget_inherited()


os.register_at_fork(after_in_child=_forget_inherited_brokers)
