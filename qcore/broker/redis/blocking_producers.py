"""Producers that block: each call has a connection for itself, and needs no event loop."""

import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from redis.exceptions import ConnectionError as ConnectionLost
from redis.exceptions import RedisError, ResponseError

from qcore.blocking import refuse_in_a_loop
from qcore.broker.backoff import Backoff
from qcore.broker.identity import new_owner
from qcore.broker.redis.blocking_wire import BlockingWire
from qcore.broker.redis.connectors import Server
from qcore.broker.redis.enqueueing import (
    TOLD_S,
    admissions_in,
    admissions_of,
    check_payloads,
    enqueue_call,
    gave_up,
)
from qcore.broker.redis.keys import QueueKeys, queue_keys, queues_key
from qcore.broker.redis.pipeline import failure_of
from qcore.broker.redis.scripts import Call, error_of, unknown_script
from qcore.broker.redis.wire import pack
from qcore.errors import BrokerError, BrokerRefused, BrokerUnavailable, QueueFull
from qcore.model.admission import Admission
from qcore.model.job import Job
from qcore.per_process import PerProcess, importing
from qcore.settings import BrokerConfig

#: Connections that stay open while nobody calls.
KEPT = 32
#: Between two tries where a queue is full and its producers wait.
FULL_S = 0.1


class BlockingProducer:
    """One connection for one call at a time, with call numbers of its own.

    A call that fails is repeated under its number until the enqueue timeout, so that it is executed
    once however often it arrives.
    """

    def __init__(self, config: BrokerConfig) -> None:
        self._config = config
        #: It refuses a URL that redis-py does not take, in words of ours.
        self._shown = Server(config.url, timeout_s=config.call_timeout_s).shown
        self._nonce = new_owner()
        self._number = 0
        self._wire: BlockingWire | None = None
        #: When, by `time.monotonic`, the name of which queue was told.
        self._told: dict[str, float] = {}
        self._keys: dict[str, QueueKeys] = {}

    def enqueue(self, jobs: Sequence[Job]) -> list[Admission]:
        """- -> ready or scheduled; all jobs or none. See `Broker.enqueue`."""
        limit = self._config.depth_limits.get(jobs[0].queue)
        max_jobs = 0 if limit is None else limit.max_jobs
        end = time.monotonic() + self._config.enqueue_timeout_s
        pause_s = min(FULL_S, self._config.enqueue_timeout_s / 10)
        while True:
            answered = self._call(jobs, max_jobs, end)
            try:
                return admissions_of(jobs[0].queue, jobs, answered, max_jobs)
            except QueueFull:
                # the last try has some time left, or it would be told that Redis did not answer
                if limit is None or not limit.waits or end - time.monotonic() < 2 * pause_s:
                    raise
            time.sleep(pause_s)

    def _call(self, jobs: Sequence[Job], max_jobs: int, end: float) -> dict[str, Admission]:
        """Make one call, and repeat it until it is answered."""
        check_payloads(jobs, self._config.payload_limit_bytes)
        queue = jobs[0].queue
        keys = self._keys.get(queue)
        if keys is None:
            keys = self._keys[queue] = queue_keys(self._config.namespace, queue)
        self._number += 1
        call = enqueue_call(keys, self._nonce, self._number, [jobs], max_jobs)
        backoff: Backoff | None = None
        unknown = False
        while True:
            try:
                reply = self._attempt(call, queue, end)
                return {} if reply == [] else admissions_in(reply)
            except BrokerRefused as e:  # perhaps only the repeat
                e.sent = e.sent or unknown
                raise
            except BrokerUnavailable as e:
                unknown = unknown or e.sent
                left_s = end - time.monotonic()
                if left_s <= 0:
                    raise gave_up(queue, jobs, e, unknown=unknown) from e
            backoff = backoff or Backoff(0.05, 1.0)
            time.sleep(min(backoff.next_s(), left_s))

    def _attempt(self, call: Call, queue: str, end: float) -> Any:
        began = time.monotonic()
        naming = began - self._told.get(queue, -TOLD_S) >= TOLD_S
        sent = False
        # whatever interrupts this leaves no connection behind on which a reply is still to come
        wire, self._wire = self._wire, None
        try:
            if wire is None or not wire.is_open():
                timeout_s = min(self._config.call_timeout_s, end - began)
                wire = BlockingWire(self._config.url, timeout_s=timeout_s)
                if time.monotonic() >= end:
                    raise TimeoutError
            sent = True
            reply, *named = self._exchange(wire, call, queue, naming=naming, end=end)
        except (RedisError, OSError, ValueError) as e:  # the last: of an error that is none
            if wire is not None:
                wire.close()
            raise self._failure(e, time.monotonic() - began, sent=sent) from e
        if isinstance(reply, ResponseError):
            error = error_of(reply)
            if isinstance(error, BrokerUnavailable):
                wire.close()  # its address may lead to a new master by now
            else:
                self._wire = wire
            raise error
        self._wire = wire
        if named and not isinstance(named[0], Exception):
            self._told[queue] = began
        return reply

    def _failure(self, error: Exception, took_s: float, *, sent: bool) -> BrokerError:
        if isinstance(error, TimeoutError):
            why = f"Redis at {self._shown} did not answer within {took_s:.1f} s"
            return BrokerUnavailable(why, sent=sent)
        failure = failure_of(error, self._shown, sent=sent)
        failure.sent = failure.sent and sent
        return failure

    def _exchange(
        self, wire: BlockingWire, call: Call, queue: str, *, naming: bool, end: float
    ) -> list[Any]:
        still_s = self._config.call_timeout_s
        packed = pack(call.by_digest() if wire.has_script else call.by_source())
        if naming:
            packed += pack((b"SADD", queues_key(self._config.namespace), queue))
        replies = wire.request(packed, 1 + naming, still_s=still_s, until=end)
        if unknown_script(replies[0]):
            packed = pack(call.by_source())
            replies[:1] = wire.request(packed, 1, still_s=still_s, until=end)
        wire.has_script = True
        if isinstance(replies[0], ConnectionLost):  # an answer to whatever is asked
            raise replies[0]
        return replies

    def close(self) -> None:
        """Close the connection; the next call opens another."""
        wire, self._wire = self._wire, None
        if wire is not None:
            wire.close()


class BlockingProducers:
    """The producers of one process: as many as have ever called at the same time.

    A thread takes the one that was used last, so that few threads use few connections, however many
    threads come and go. A forked child makes its own.

    Args:
        config: Where Redis is; asked when a producer is made.
    """

    def __init__(self, config: Callable[[], BrokerConfig]) -> None:
        self._config = config
        self._free = PerProcess[deque[BlockingProducer]](lambda _: deque())

    def enqueue(self, jobs: Sequence[Job]) -> list[Admission] | None:
        """Enqueue over a connection of this call's own; None: such a URL needs an event loop.

        Raises:
            ConfigError: an event loop runs here, and would stand still; or there is no URL.
            BrokerError, PayloadTooLarge: see `Broker.enqueue`.
        """
        refuse_in_a_loop("await enqueue(...)")
        free = self._free.get()
        try:
            producer = free.pop()
        except IndexError:
            config = self._config()
            if not config.url.lower().startswith(("redis://", "unix://")):
                return None
            with importing:  # redis-py imports more where it is first used
                producer = BlockingProducer(config)
        try:
            return producer.enqueue(jobs)
        finally:
            if free is not self._free.get():  # it was let go meanwhile, with what it was made for
                producer.close()
            elif len(free) < KEPT:
                free.append(producer)
            else:  # its name is kept: each is remembered by Redis for an hour
                producer.close()
                free.appendleft(producer)

    def let_go(self) -> None:
        """Close the connections; the next call asks anew where Redis is."""
        free, self._free = self._free.get(), PerProcess[deque[BlockingProducer]](lambda _: deque())
        while free:
            free.pop().close()
