"""Time and size limits of a call on Redis, adapted to the speed of the link."""

import asyncio
import socket
from collections.abc import Callable

from qcore.broker.redis.wire import Wire

#: A call in which bytes move may take so many call timeouts in all.
MAX_TIMEOUTS = 4
#: A call that stands still is looked at so many times before it is ended.
_LOOKS = 4
#: Of Linux: struct tcp_info begins with so many bytes, of which the last 16 count what the peer
#: has acknowledged and what came from it.
_TCP_INFO_BYTES = 136
_COUNTS = slice(120, 136)
#: A timer that is so late says that the event loop was held up: what has arrived is read first.
_LATE_S = 0.05


def leasing_s(timeout_s: float, lease_ms: int) -> float:
    """Return the time of a call that gives leases: a third of each is left to renew it."""
    return min(MAX_TIMEOUTS * timeout_s, max(timeout_s, lease_ms / 1500))


def moved(wire: Wire | None) -> bytes | None:
    """Return something that changes whenever bytes have left or arrived; None: nobody counts.

    The kernel counts, so that calls pay nothing for it: on Linux over TCP. A process does not see
    its bytes leave, for the kernel takes them at once.
    """
    option: int | None = getattr(socket, "TCP_INFO", None)
    if option is None or wire is None:
        return None
    try:
        return wire.socket().getsockopt(socket.IPPROTO_TCP, option, _TCP_INFO_BYTES)[_COUNTS]
    except OSError:  # a Unix socket, or one that is closed
        return None


class StallTimeout:
    """Ends a call in which nothing has moved for `still_s`, or that takes `max_s` in all.

    One call at a time. Its timer outlives the call that set it, so that calls which are answered
    soon set none.

    Args:
        moved: Returns something that changes when bytes move.
    """

    def __init__(self, moved: Callable[[], bytes | None]) -> None:
        self._moved = moved
        self._expire: Callable[[], None] | None = None
        self._end = self._step_s = self._next = 0.0
        self._looks = self._still = 0
        self._seen: bytes | None = None
        self._timer: asyncio.Handle | None = None
        #: When it is due, by loop time: a handle of uvloop may not tell.
        self._due = 0.0
        #: The loop was held up, and has had a turn to read since.
        self._has_read = False

    def start(
        self,
        loop: asyncio.AbstractEventLoop,
        expire: Callable[[], None],
        *,
        still_s: float,
        max_s: float,
    ) -> None:
        """Begin with a call; `expire` is called if it is too late.

        Args:
            loop: The event loop of the call.
            expire: Ends the call.
            still_s: Seconds without a byte.
            max_s: Seconds in all.
        """
        now = loop.time()
        self._expire = expire
        self._end = now + max_s
        self._step_s = min(still_s, max_s) / _LOOKS
        self._next = now + self._step_s
        self._looks = self._still = 0
        self._has_read = False
        if self._timer is not None:
            if self._due <= self._next:
                return
            self._timer.cancel()
        self._set(loop, self._next)

    def stop(self) -> None:
        """Look no more: the call is over."""
        self._expire = None

    def close(self) -> None:
        """Leave no timer."""
        self._expire = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = None
        if self._expire is None:
            return
        now = loop.time()
        if now - self._due > _LATE_S and not self._has_read:
            self._has_read = True
            self._set(loop, now)
            return
        self._has_read = False
        if now >= self._next:
            seen = self._moved()
            # the first look has nothing to compare with
            self._still = self._still + 1 if seen == self._seen or not self._looks else 0
            self._looks += 1
            self._seen = seen
            if self._still >= _LOOKS or now >= self._end:
                expire, self._expire = self._expire, None
                expire()
                return
            self._next = min(now + self._step_s, self._end)
        self._set(loop, self._next)

    def _set(self, loop: asyncio.AbstractEventLoop, due: float) -> None:
        # not at once: uvloop would look before it reads
        self._due = max(due, loop.time() + 0.001)
        self._timer = loop.call_at(self._due, self._look, loop)


class CallSize:
    """How much the next call of many is to carry: bytes, if nothing else is said.

    It begins small. After a call that fails, or takes longer than the call timeout, it is half of
    that, after one that is done in a quarter of it twice as much.

    Args:
        timeout_s: The call timeout.
        most: The size that a fast link is given.
        first: The size of the first call.
        least: The size that the slowest link is given.
    """

    def __init__(
        self, timeout_s: float, most: int, *, first: int = 64 * 1024, least: int = 8 * 1024
    ) -> None:
        self._timeout_s = timeout_s
        self._max, self._min = most, least
        self.now = first

    def failed(self) -> None:
        """Hear that a call had no reply in time."""
        self.now = max(self._min, self.now // 2)

    def took(self, call_s: float) -> None:
        """Hear how long a call took."""
        if call_s < self._timeout_s / 4:
            self.now = min(self._max, self.now * 2)
        elif call_s > self._timeout_s:
            self.failed()
