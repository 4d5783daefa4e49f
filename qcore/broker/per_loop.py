"""The brokers of one app: one per process and event loop, for neither can share a connection."""

import asyncio
import weakref
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress
from dataclasses import dataclass, field

from qcore import blocking
from qcore.broker.redis.blocking_producers import BlockingProducers
from qcore.broker.redis.broker import Broker
from qcore.broker.redis.inspector import Inspector
from qcore.errors import ConfigError
from qcore.per_process import PerProcess, importing
from qcore.settings import BrokerConfig
from qcore.telemetry import log


@dataclass(slots=True, eq=False)
class _Held:
    """The broker of one loop."""

    broker: Broker
    #: Its end closes the broker. A loop ends the generators that began in it as its last act, so
    #: a broker that nobody closes is closed in its own loop all the same.
    guard: AsyncGenerator[None, None]
    #: How often this loop has opened the app and not closed it since.
    opens: int = 0


@dataclass(slots=True, eq=False)
class _Own:
    """The brokers of one process."""

    #: The process that this one was forked from had the app open.
    inherited_open: bool = False
    held: dict[asyncio.AbstractEventLoop, _Held] = field(
        default_factory=dict[asyncio.AbstractEventLoop, _Held]
    )

    def is_open(self) -> bool:
        return self.inherited_open or any(held.opens for held in self.held.values())

    def forget_ended(self, which: Callable[[_Held], bool]) -> None:
        for loop, held in list(self.held.items()):
            if loop.is_closed() and which(held):
                self.held.pop(loop, None)


class Brokers:
    """Makes a broker for each loop that asks; an app is open while one loop has it open.

    A forked child inherits that the app is open, and nothing else: not a socket of its parent's is
    used or closed, and its brokers count their calls under names of their own.
    """

    def __init__(self, config: Callable[[], BrokerConfig]) -> None:
        self._config = config
        self._own = PerProcess[_Own](_forked)
        #: For callers that block.
        self.producers = BlockingProducers(config)
        # it holds what is open, so that connections are closed, not collected in another thread
        weakref.finalize(self, _close_all, self._own).atexit = False

    @property
    def is_open(self) -> bool:
        """Whether some loop of this process has it open."""
        return self._own.get().is_open()

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
        own = self._own.get()
        held = own.held.get(loop)
        if held is None:
            if not own.is_open() and not blocking.is_own(loop):
                raise ConfigError(
                    "the app is not open: use `async with app:`, or `await app.open()`"
                )
            held = self._make(own, loop)
        return held.broker

    def inspector(self) -> Inspector:
        """Return what reads and repairs, by the broker of the running loop; raises as `get`."""
        return Inspector(self.get())

    def let_go(self) -> None:
        """Close what nobody has opened: brokers, each in its own loop, and blocking producers.

        The next call makes anew.
        """
        self.producers.let_go()
        held = self._own.get().held
        for loop, one in list(held.items()):  # other threads may add theirs meanwhile
            if not one.opens and held.pop(loop, None):
                _close_from_anywhere(loop, one)

    async def open(self) -> None:
        """Open the broker of the running loop; each call needs a `close` of its own.

        Raises:
            ConfigError, BrokerUnavailable: see `Broker.open`.
        """
        loop = asyncio.get_running_loop()
        own = self._own.get()
        held = own.held.get(loop) or self._make(own, loop)
        held.opens += 1
        try:
            await held.broker.open()
        except BaseException:
            await self.close()
            raise
        own.forget_ended(lambda _: True)  # from now on this loop says whether the app is open

    async def close(self) -> None:
        """Close the broker of the running loop, if there is one and this is the last close."""
        loop = asyncio.get_running_loop()
        own = self._own.get()
        held = own.held.get(loop)
        if held is None:
            return
        held.opens -= 1
        if held.opens <= 0:
            del own.held[loop]
            await held.guard.aclose()

    def _make(self, own: _Own, loop: asyncio.AbstractEventLoop) -> _Held:
        own.forget_ended(lambda held: not held.opens)  # an app that was left open stays open
        config = self._config()
        with importing:  # redis-py, too, where it is first used
            log.get_ready()
            broker = Broker(config)
        held = own.held[loop] = _Held(broker, _guard(broker))
        with suppress(StopIteration):  # runs to its yield, so that the loop knows of it
            held.guard.__anext__().send(None)
        return held


def _forked(parent: _Own | None) -> _Own:
    return _Own(inherited_open=parent is not None and parent.is_open())


async def _guard(broker: Broker) -> AsyncGenerator[None, None]:
    try:
        yield
    finally:
        await broker.close()


def _close_all(own: PerProcess[_Own]) -> None:
    """Close the brokers of an app that is no more, each in its own loop."""
    for loop, one in own.get().held.items():
        _close_from_anywhere(loop, one)


def _close_from_anywhere(loop: asyncio.AbstractEventLoop, one: _Held) -> None:
    with suppress(RuntimeError):  # the loop is closed
        loop.call_soon_threadsafe(_close_soon, loop, one)


def _close_soon(loop: asyncio.AbstractEventLoop, one: _Held) -> None:
    loop.create_task(one.guard.aclose())
