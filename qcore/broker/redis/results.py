"""Waiting for jobs to end: one subscription for all who wait in a process and event loop.

A look (`find.lua`) tells whether a job has ended, and leaves the channel of this process where
every script that ends a job finds it. What comes over the channel means "look now" and no more, so
a message that is lost costs time only: whenever the connection was lost every job is looked at
again, and every few seconds even so.
"""

import asyncio
import copy
import time
from collections.abc import Coroutine, Iterable
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple

from qcore.broker.backoff import Backoff
from qcore.broker.identity import new_owner
from qcore.broker.outage import Outage
from qcore.broker.redis import scripts
from qcore.broker.redis.call_limits import CallSize
from qcore.broker.redis.cluster_pipeline import ClusterPipeline
from qcore.broker.redis.endpoint import Endpoint
from qcore.broker.redis.keys import QueueKeys
from qcore.broker.redis.pipeline import Pipeline
from qcore.broker.redis.subscription import Subscription, subscribed
from qcore.errors import BrokerUnavailable, ConfigError
from qcore.model.reading import text_of
from qcore.settings import BrokerConfig

#: Looks in one write, at first and at most: a kept result may be as large as the limit of a
#: payload, so that a slow link carries fewer.
FIRST_LOOKS, LOOKS = 8, 100
#: Who hears nothing looks again after this long.
LOOK_S = 5.0
#: The connection is closed when nobody has waited for so long.
IDLE_S = 30.0


class Ending(NamedTuple):
    """What a look found of a job that has ended."""

    #: The reply of find.lua.
    reply: list[Any]
    #: When it was first seen, before it ended, by `time.monotonic`: if there is no trace of it now,
    #: it has kept nothing. None: it never was.
    seen_at: float | None
    #: When the last look that saw it was sent, by `time.monotonic`.
    last_seen_at: float
    #: When the last look was sent, by `time.monotonic`.
    asked_at: float


@dataclass(slots=True, eq=False)
class _Wait:
    """One caller who waits for one job."""

    keys: QueueKeys
    id: str
    end: "asyncio.Future[Ending]"
    #: When a caller whose job no look has found yet hears that Redis is away.
    patience: float
    seen_at: float | None = None
    last_seen_at: float = 0.0
    #: Looks in one write with this one: fewer after each that failed, until one is answered.
    most: int = LOOKS


class ResultWaiter:
    """Those who wait, and the task that serves them while there are any."""

    def __init__(
        self, endpoint: Endpoint, pipeline: Pipeline | ClusterPipeline, config: BrokerConfig
    ) -> None:
        self._endpoint = endpoint
        self._pipeline = pipeline
        self._channel = f"{config.namespace}:results:{new_owner()}".encode()
        self._patience_s = config.enqueue_timeout_s
        self._size = CallSize(pipeline.timeout_s, LOOKS, first=FIRST_LOOKS, least=1)
        self._waits: dict[str, set[_Wait]] = {}
        #: Those to look at next, in order.
        self._due: dict[_Wait, None] = {}
        self._rung = asyncio.Event()
        #: Whose last look failed, while other looks may work: in a Cluster a node fails alone.
        self._unanswered: dict[_Wait, BrokerUnavailable] = {}
        self._again: asyncio.TimerHandle | None = None
        self._server: asyncio.Task[None] | None = None
        #: When the last one went.
        self._idle_since = 0.0
        self._outage = Outage(endpoint.shown)

    async def ended(self, keys: QueueKeys, id: str) -> Ending:
        """Wait until a job has ended, however long Redis is away meanwhile.

        Cancelling leaves an entry in `waiters` that the end of the job removes.

        Raises:
            BrokerUnavailable: the first look could not be done in time.
            BrokerRefused: this client may not look, or not listen.
            ConfigError: the app was closed.

        Redis: two looks, each in one round trip with those of all others; one more every 5 s.
        """
        loop = asyncio.get_running_loop()
        wait = _Wait(keys, id, loop.create_future(), loop.time() + self._patience_s)
        self._waits.setdefault(id, set()).add(wait)
        self._look_soon([wait])
        if self._server is None:
            self._start()
        try:
            return await wait.end
        finally:
            self._forget(wait)

    async def close(self) -> None:
        """End all waits with an error, and close the connection."""
        self._fail(ConfigError("the app was closed while results were awaited"))
        server, self._server = self._server, None
        if server is not None:
            server.cancel()
            await asyncio.wait([server])

    # -- those who wait -------------------------------------------------------------------------

    def _all(self) -> Iterable[_Wait]:
        return [wait for same in self._waits.values() for wait in same]

    def _look_soon(self, waits: Iterable[_Wait]) -> None:
        self._due |= dict.fromkeys(waits)
        self._rung.set()

    def _forget(self, wait: _Wait) -> None:
        same = self._waits.get(wait.id, set())
        same.discard(wait)
        self._unanswered.pop(wait, None)
        if not same:
            self._waits.pop(wait.id, None)
        self._idle_since = asyncio.get_running_loop().time()

    def _conclude(self, wait: _Wait, end: Ending | Exception) -> None:
        self._forget(wait)
        if wait.end.done():  # its caller has gone
            return
        if isinstance(end, Ending):
            wait.end.set_result(end)
        else:
            wait.end.set_exception(end)

    def _fail(self, error: Exception, *, late_at: float | None = None) -> None:
        """End all waits, or with `late_at` those that no look has found until then."""
        for wait in self._all():
            if late_at is None or (wait.seen_at is None and wait.patience <= late_at):
                self._conclude(wait, copy.copy(error))

    # -- serving them ---------------------------------------------------------------------------

    def _start(self) -> None:
        self._server = asyncio.get_running_loop().create_task(self._serve())
        self._server.add_done_callback(self._stopped)

    def _stopped(self, server: "asyncio.Task[None]") -> None:
        """Leave nobody waiting for a server that has ended."""
        error = None if server.cancelled() else server.exception()
        if server is self._server:
            self._server = None
        if error is not None:
            self._fail(BrokerUnavailable(f"the wait for results ended by an error: {error!r}"))
        elif self._waits and self._server is None:
            # it was cancelled with all tasks, at the end of a loop; some wait while they clean up
            self._start()

    async def _serve(self) -> None:
        """Hold a session while anybody waits; begin another when one is lost."""
        backoff = Backoff(0.05, 1.0)
        while True:
            try:
                await self._session(backoff)
            except BrokerUnavailable as e:
                self._note_outage(e)
                self._fail(e, late_at=asyncio.get_running_loop().time())
                await asyncio.sleep(backoff.next_s() if self._waits else 0)
            except Exception as e:  # noqa: BLE001 - whatever it is, it is the callers' to hear
                self._fail(e)
            if not self._waits:  # with no await before the end: nobody can come in between
                return

    async def _session(self, backoff: Backoff) -> None:
        """Listen first, then look at all: what ends in between is heard.

        Those whose turn it was when the last session was lost come first.
        """
        async with subscribed(self._endpoint, self._channel, self._pipeline.timeout_s) as channel:
            self._look_soon(self._all())
            await _until_one_ends(self._listen(channel), self._look(backoff))

    async def _listen(self, channel: Subscription) -> None:
        """Have those looked at whose job is named; return when nobody has waited for long."""
        loop = asyncio.get_running_loop()
        heard, tick = True, loop.time() + LOOK_S
        while True:
            message = await channel.next(max(0.001, tick - loop.time()))
            heard = heard or message is not None
            if message:
                id = text_of(message.partition(b" ")[0])
                self._look_soon(self._waits.get(id, ()))
            now = loop.time()
            if now < tick:
                continue
            if not heard:
                raise BrokerUnavailable(f"a connection to {self._endpoint.shown} fell silent")
            if not self._waits and now - self._idle_since >= IDLE_S:
                return
            self._look_soon(self._all())
            await channel.ping()
            heard, tick = False, now + LOOK_S

    async def _look(self, backoff: Backoff) -> None:
        """Look at those whose turn it is, many in one write."""
        while True:
            await self._rung.wait()
            self._rung.clear()
            while self._due:
                await self._look_at(self._take())
            if self._unanswered:
                self._note_outage(next(iter(self._unanswered.values())))
                self._look_again(backoff)
            else:
                backoff.reset()
                self._outage.is_over()

    def _take(self) -> list[_Wait]:
        """Take out those of the next look: as many as the link may carry in time."""
        batch: list[_Wait] = []
        most = self._size.now
        for wait in list(islice(self._due, LOOKS)):
            most = min(most, wait.most)
            if len(batch) >= most:
                break
            del self._due[wait]
            if not wait.end.done():  # its caller has not gone
                batch.append(wait)
        return batch

    async def _look_at(self, waits: list[_Wait]) -> None:
        if not waits:
            return
        calls = [scripts.FIND.call(wait.keys, wait.id, self._channel) for wait in waits]
        loop = asyncio.get_running_loop()
        asked_at, began = time.monotonic(), loop.time()
        try:
            replies = await self._pipeline.send(calls)
        except (BrokerUnavailable, asyncio.CancelledError) as e:
            # cancelled: the connection that listens was lost, perhaps since this took all the link
            if not isinstance(e, BrokerUnavailable) or e.sent:
                self._note_late(waits, len(waits))
            self._put_behind(waits)
            raise
        pairs = list(zip(waits, replies, strict=True))
        late = [wait for wait, r in pairs if isinstance(r, BrokerUnavailable) and r.sent]
        if late:
            self._note_late(late, len(waits))
        else:
            self._size.took(loop.time() - began)
        for wait, reply in pairs:
            self._note(wait, reply, asked_at)

    def _note(self, wait: _Wait, reply: Any, asked_at: float) -> None:
        self._unanswered.pop(wait, None)
        if isinstance(reply, BrokerUnavailable):
            self._unanswered[wait] = reply
            if wait.seen_at is None and wait.patience <= asyncio.get_running_loop().time():
                self._conclude(wait, copy.copy(reply))
        elif isinstance(reply, Exception):
            self._conclude(wait, copy.copy(reply))
        elif reply[0] in (b"done", b"dead", b""):
            self._conclude(wait, Ending(reply, wait.seen_at, wait.last_seen_at, asked_at))
        else:
            wait.seen_at = wait.seen_at or time.monotonic()
            wait.last_seen_at = asked_at
            wait.most = LOOKS

    def _note_late(self, waits: Iterable[_Wait], looks: int) -> None:
        """Hear whose look failed, in a write of so many; they get half as many next time.

        Also when other calls are fast meanwhile: small replies say nothing of what large ones take.
        """
        self._size.failed()
        for wait in waits:
            wait.most = max(1, looks // 2)

    def _put_behind(self, waits: Iterable[_Wait]) -> None:
        """Let all others have their turn before these."""
        for wait in waits:
            self._due.pop(wait, None)  # a tick may have named it meanwhile
            self._due[wait] = None

    def _look_again(self, backoff: Backoff) -> None:
        """Look soon at those that no look has found yet; for the others the tick is soon enough."""

        def look() -> None:
            self._again = None
            self._look_soon([wait for wait in self._unanswered if wait.seen_at is None])

        if self._again is None:
            self._again = asyncio.get_running_loop().call_later(backoff.next_s(), look)

    def _note_outage(self, error: BrokerUnavailable) -> None:
        if self._waits:  # else nobody is concerned
            self._outage.goes_on(error)


async def _until_one_ends(*parts: Coroutine[Any, Any, None]) -> None:
    """Run all parts until one returns or raises, which this does too."""
    tasks = [asyncio.ensure_future(part) for part in parts]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in done:
        task.result()
