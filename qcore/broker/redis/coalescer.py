"""Many callers that enqueue at the same time -> one call in flight, which takes all of them."""

import asyncio
import math
import random
from collections import deque
from collections.abc import Iterable, Set
from contextvars import Context
from functools import partial
from typing import Any

from qcore.broker.backoff import Backoff
from qcore.broker.contract import CALL_BYTES, CALL_JOBS
from qcore.broker.identity import new_owner
from qcore.broker.redis.call_limits import CallSize
from qcore.broker.redis.cluster_pipeline import ClusterPipeline
from qcore.broker.redis.enqueueing import TOLD_S, admissions_of, enqueue_call
from qcore.broker.redis.keys import QueueKeys
from qcore.broker.redis.parcels import (
    Groups,
    Parcel,
    by_queue,
    conclude,
    cut_off,
    is_left,
    kept_waiting,
    read,
    unconfirmed,
)
from qcore.broker.redis.pipeline import Pipeline
from qcore.broker.redis.scripts import Call
from qcore.errors import BrokerError, BrokerUnavailable, QueueFull
from qcore.model.admission import Admission
from qcore.model.job import Job
from qcore.settings import DepthLimit

#: The share of a call's time that replicas get to confirm it; in the rest their number arrives.
_WAIT_SHARE = 0.8
#: A parcel that was not confirmed, and has no more of its time left than this share, is given up.
_LEFT_SHARE = 0.25
#: Between two tries where a queue is full and its producers wait.
FULL_S = 0.1


class Coalescer:
    """Carries parcels to Redis, at most one call at a time.

    The next call takes everything that gathered meanwhile: an idle producer has the latency of one
    call, a busy one batches by itself. A call that fails is repeated under its call number until
    the deadline of each parcel, so that it is executed once however often it arrives.

    Args:
        pipeline: Used for nothing else: WAIT speaks of the writes of its own connection, and
            blocks it.
        names: The key of the set of all queues.
        timeout_s: What each parcel has.
        confirm: Replicas that must have the jobs, too.
        limit: How many jobs may wait in the queue; with one, all parcels are for that queue.
    """

    def __init__(
        self,
        pipeline: Pipeline | ClusterPipeline,
        *,
        names: bytes,
        timeout_s: float,
        confirm: int = 0,
        limit: DepthLimit | None = None,
    ) -> None:
        self.pipeline = pipeline
        self._confirm = confirm
        self._limit = limit
        self._max_jobs = 0 if limit is None else limit.max_jobs
        #: The set of all queues; and when, by loop time, this process has written which into it.
        self._names = names
        self._named: dict[str, float] = {}
        self._timeout_s = timeout_s
        self._call_size = CallSize(pipeline.timeout_s, CALL_BYTES)
        self._nonce = new_owner()
        self._number = 0
        self._waiting: deque[Parcel] = deque()
        #: The queue had no room for a part of the last call, whose callers wait.
        self._is_full = False
        #: A call is in flight, or a delivery goes on.
        self._is_busy = False
        #: The task that brings a batch to its end where a call does not do, or waits for room.
        self._delivery: asyncio.Task[None] | None = None
        #: What is on its way.
        self._batch: list[Parcel] = []
        #: Who closes this waits until nothing is.
        self._idle: asyncio.Future[None] | None = None

    def add(self, keys: QueueKeys, jobs: list[Job]) -> "asyncio.Future[list[Admission]]":
        """Deliver `jobs` to one queue; all of them or none, but for ids that other jobs have.

        At most CALL_JOBS jobs; the order of calls to `add` is the order in the queue. A cancelled
        caller, who awaits what this returns, does not cancel the delivery.

        Returns:
            What became of those that were not created.

        Raises:
            QueueClosed, QueueFull, BrokerRefused: none was enqueued.
            BrokerUnavailable: the deadline passed; `sent` says whether they may be enqueued.
            NotConfirmed: they are enqueued, but fewer replicas had them in time.
            BrokerError: other jobs have some of the ids; it names the first three. These were not
                enqueued, but the rest of the call is, whether replicas have it or not.
        """
        loop = asyncio.get_running_loop()
        size = sum([len(job.envelope) for job in jobs])
        parcel = Parcel(keys, jobs, size, loop.time() + self._timeout_s, loop.create_future())
        self._waiting.append(parcel)
        if not self._is_busy:
            self._deliver_next(loop)
        return parcel.done

    async def close(self) -> None:
        """Wait until everything that was added is delivered or has failed."""
        while self._is_busy:
            self._idle = self._idle or asyncio.get_running_loop().create_future()
            await asyncio.wait([self._idle])

    def abandon(self) -> None:
        """Fail everything that was added and is not delivered."""
        waiting, self._waiting = self._waiting, deque()
        for parcel in waiting:
            conclude(parcel, cut_off(parcel, sent=False))
        for parcel in self._batch:
            conclude(parcel, cut_off(parcel, sent=True))
        if self._delivery is not None:
            self._delivery.cancel()

    def _deliver_next(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin the next call with what waits: at once where that can be, else in a task."""
        self._is_busy = True
        self._batch = batch = self._take()
        self._number += 1
        groups = by_queue(batch)
        began = loop.time()
        if self._confirm or self._unnamed(groups, began):
            self._deliver_in_task(batch, None)
            return
        max_s = max(0.05, batch[0].deadline - began)  # it was added first
        try:
            calls = [self._call(parcels) for parcels in groups.values()]
            has_begun = self.pipeline.begin(calls, partial(self._heard, groups, began), max_s=max_s)
        except Exception:  # noqa: BLE001 - the task meets it again, and tells the callers
            has_begun = False
        if not has_begun:
            self._deliver_in_task(batch, None)

    def _heard(self, groups: Groups, began: float, end: list[Any] | BrokerError) -> None:
        """Tell the callers; what failed goes on in a task, else the next call begins."""
        loop = asyncio.get_running_loop()
        if isinstance(end, BrokerError):
            replies = [end] * len(groups)
            if isinstance(end, BrokerUnavailable) and end.sent:
                self._call_size.failed()
        else:
            replies = end
            self._call_size.took(loop.time() - began)
        batch, self._batch, self._is_busy = self._batch, [], False
        try:
            failure = self._hear(groups, replies, None)
        except Exception as e:  # noqa: BLE001 - whatever it is, it is the callers' to hear
            failure = None
            for parcel in batch:
                conclude(parcel, e)
        if failure is not None:
            self._deliver_in_task(batch, failure)
            return
        if self._limit is not None:
            self._put_back(batch)
        self._go_on(loop)

    def _deliver_in_task(self, batch: list[Parcel], failure: BrokerError | None) -> None:
        # in a context of its own, which a connection that it opens keeps: it is for many callers
        delivery = self._deliver(batch, failure)
        task = asyncio.get_running_loop().create_task(delivery, context=Context())
        self._batch, self._delivery, self._is_busy = batch, task, True
        task.add_done_callback(self._stopped)

    def _stopped(self, task: "asyncio.Task[None]") -> None:
        """Leave no caller behind when the task was cancelled, with all tasks of its loop."""
        batch, self._batch = self._batch, []
        self._delivery, self._is_busy = None, False
        # of its own batch if it was cancelled before its first step
        self._put_back(batch)
        self._go_on(asyncio.get_running_loop())

    def _put_back(self, batch: list[Parcel]) -> None:
        """Let what was not delivered be the next, in its order; what may have been is given up."""
        self._is_full = any(parcel.is_refused for parcel in batch)
        for parcel in reversed(batch):
            if parcel.unknown:
                conclude(parcel, cut_off(parcel, sent=True))
            elif not parcel.done.done():
                self._waiting.appendleft(parcel)

    def _go_on(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin the next call, if one waits; a while later where the queue was full."""
        if not self._waiting or not self._is_full:
            self._deliver_rest(loop)
            return
        left_s = min([parcel.deadline for parcel in self._waiting]) - loop.time()
        rest_s = random.uniform(FULL_S, 2 * FULL_S)  # not all producers at once
        rest = loop.create_task(asyncio.sleep(min(rest_s, max(left_s, 0.0))))
        self._delivery, self._is_busy = rest, True
        rest.add_done_callback(self._rested)

    def _rested(self, rest: "asyncio.Task[None]") -> None:
        """Give up those whose time is over; try again with the others."""
        loop = asyncio.get_running_loop()
        self._delivery, self._is_busy = None, False
        waiting, self._waiting = self._waiting, deque()
        for parcel in waiting:
            if loop.time() >= parcel.deadline:
                conclude(parcel, parcel.full or kept_waiting(parcel))
            if not parcel.done.done():
                self._waiting.append(parcel)
        self._deliver_rest(loop)

    def _deliver_rest(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin the next call with what waits, if something does."""
        if self._waiting:
            self._deliver_next(loop)
        elif self._idle is not None:
            self._idle.set_result(None)
            self._idle = None

    def _take(self) -> list[Parcel]:
        waiting = self._waiting
        batch = [waiting.popleft()]
        if not waiting and self._limit is None:  # a lone call
            return batch
        jobs, size, own_ids = len(batch[0].jobs), batch[0].size, {batch[0].own_id}
        # before all are sent in vain, one is tried; but what joins a job finds room
        is_probe = self._is_full and not any(p.may_join and p.full is None for p in waiting)
        while waiting and not is_probe:
            jobs += len(waiting[0].jobs)
            size += waiting[0].size
            own_id = waiting[0].own_id
            # an answer is found again by its id
            is_twice = own_id is not None and own_id in own_ids
            if jobs > CALL_JOBS or size > self._call_size.now or is_twice:
                break
            own_ids.add(own_id)
            batch.append(waiting.popleft())
        if self._limit is not None:
            for parcel in batch:
                parcel.is_refused = False
        return batch

    async def _deliver(self, batch: list[Parcel], failure: BrokerError | None) -> None:
        """Bring one batch to its end: each parcel accepted, refused or expired.

        With `failure` its first call has failed.
        """
        backoff = Backoff(0.05, 1.0)
        try:
            while True:
                failure = failure or await self._attempt(batch)
                if failure is None:
                    return
                now = asyncio.get_running_loop().time()
                batch = [p for p in batch if is_left(p, now, failure)]
                if not batch:
                    return
                left_s = min(p.deadline for p in batch) - now
                await asyncio.sleep(min(backoff.next_s(), left_s))
                failure = None
        except BaseException:
            for parcel in batch:
                conclude(parcel, cut_off(parcel, sent=True))
            raise

    async def _attempt(self, batch: list[Parcel]) -> BrokerError | None:
        groups = by_queue(batch)
        calls = [self._call(parcels) for parcels in groups.values()]
        unnamed = self._unnamed(groups, asyncio.get_running_loop().time())
        replies, replicas = await self._send(batch, calls, unnamed)
        return self._hear(groups, replies, replicas)

    def _unnamed(self, queues: Iterable[str], now: float) -> Set[str]:
        """Return the queues whose names are to be told, or told again."""
        return {queue for queue in queues if self._named.get(queue, -math.inf) < now - TOLD_S}

    def _hear(self, groups: Groups, replies: list[Any], replicas: Any) -> BrokerError | None:
        """Tell the callers their ends; return why some have none yet."""
        failure = None
        for parcels, reply in zip(groups.values(), replies, strict=True):
            if reply == [] and not self._confirm:  # nearly always: all are accepted
                for parcel in parcels:
                    if not parcel.done.done():
                        parcel.done.set_result([])
                continue
            answered = read(reply)
            for parcel in parcels:
                if parcel.done.done():  # its caller was cancelled
                    continue
                end = self._end_of(parcel, answered, replicas)
                if end is parcel.full:  # that is certain
                    parcel.unknown, parcel.is_refused = False, True
                elif isinstance(end, BrokerUnavailable):
                    failure = end
                    parcel.unknown = parcel.unknown or end.sent
                else:
                    conclude(parcel, end)
        return failure

    async def _send(
        self, batch: list[Parcel], calls: list[Call], unnamed: Set[str]
    ) -> tuple[list[Any], Any]:
        """Return the replies to `calls`, and how many replicas have what they wrote."""
        left_s = min(p.deadline for p in batch) - asyncio.get_running_loop().time()
        max_s = max(0.05, left_s)
        for call in calls:
            # a script that the server did not know would run behind the WAIT
            call.teaches = self._confirm > 0
        wait_ms = round(min(max_s, self.pipeline.timeout_s) * _WAIT_SHARE * 1000)
        wait = [(b"WAIT", self._confirm, wait_ms)] if self._confirm else []
        naming = [(b"SADD", self._names, *unnamed)] if unnamed else []
        began = asyncio.get_running_loop().time()
        try:
            # WAIT right behind the scripts: in a Cluster it goes where the last of them went. One
            # that hangs leaves time for another one on a new connection
            replies = await self.pipeline.send([*calls, *wait, *naming], timeout_s=max_s)
        except Exception as e:  # noqa: BLE001 - whatever it is, it is the callers' to hear
            if isinstance(e, BrokerUnavailable) and e.sent:
                self._call_size.failed()
            return [e] * len(calls), None
        if not wait:  # the time that replicas take says nothing of the link
            self._call_size.took(asyncio.get_running_loop().time() - began)
        if unnamed and not isinstance(replies[-1], Exception):
            self._named |= dict.fromkeys(unnamed, asyncio.get_running_loop().time())
        return replies[: len(calls)], replies[len(calls)] if wait else None

    def _call(self, parcels: list[Parcel]) -> Call:
        jobs = [parcel.jobs for parcel in parcels]
        return enqueue_call(parcels[0].keys, self._nonce, self._number, jobs, self._max_jobs)

    def _end_of(
        self, parcel: Parcel, answered: dict[str, Admission] | Exception, replicas: Any
    ) -> list[Admission] | Exception:
        """Return what a parcel's caller hears; BrokerUnavailable if the call is to be repeated.

        Where the queue is full and its producers wait, that is the parcel's `full` from now on.
        """
        if isinstance(answered, Exception):
            return answered
        try:
            found = admissions_of(parcel.keys.queue, parcel.jobs, answered, self._max_jobs)
        except QueueFull as e:
            if self._limit is not None and self._limit.waits:
                parcel.full = e
            return e
        except BrokerError as e:
            return e
        if not self._confirm:
            return found
        parcel.known = parcel.known or found
        if isinstance(replicas, BrokerUnavailable):
            # it is done, but nobody knows whether it will last: the repeat asks again
            return BrokerUnavailable(str(replicas), sent=True)
        if isinstance(replicas, Exception):  # asking again cannot help
            return unconfirmed(parcel, f"nobody can say that a replica has it: {replicas}")
        if replicas >= self._confirm:
            return parcel.known
        had = f"{replicas} of {self._confirm} replicas had it in time"
        left_s = parcel.deadline - asyncio.get_running_loop().time()
        if left_s > self._timeout_s * _LEFT_SHARE:
            # the WAIT was as short as an older parcel of its batch, or the limit of a call
            return BrokerUnavailable(had, sent=True)
        return unconfirmed(parcel, f"{had}; look at the replicas (INFO replication)")
