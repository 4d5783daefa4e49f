"""JobHandle: follow one job from outside."""

import time
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

import msgspec

from qcore.durations import Seconds, seconds
from qcore.errors import (
    ArgumentError,
    JobCancelled,
    JobFailed,
    JobNotFound,
    QcoreError,
    ResultExpired,
)
from qcore.model.admission import Answer
from qcore.model.job import JobStatus
from qcore.model.reasons import last_reason
from qcore.model.reference import reference
from qcore.model.views import JobRecord
from qcore.per_process import imported_late

if TYPE_CHECKING:
    from qcore.broker.redis.inspector import Inspector

R = TypeVar("R")
T = TypeVar("T")

#: Who waited in vain learns where the job stands if that takes no longer.
_ANSWER_S = 1.0


class Accepted(NamedTuple):
    """What the producer of a job knows when it is asked for a result that is nowhere."""

    #: How long a result is kept, in seconds; 0: none is.
    keep_s: float
    #: Until then no result can have expired; `time.monotonic`.
    until: float
    #: When Redis had accepted it; `time.monotonic`.
    since: float
    #: Whatever it returns is kept: None too, as an explicit `keep` asks, or it never returns None.
    keeps_all: bool = False


class JobHandle(Generic[R]):
    """A job, by queue and id. Holds no connection and no state of the job."""

    def __init__(
        self,
        inspector: Callable[[], "Inspector"],
        queue: str,
        id: str,
        *,
        decode: Callable[[msgspec.Raw], Any],
        accepted: Callable[[], Accepted] | None = None,
        answer: Answer | None = None,
    ) -> None:
        self.queue = queue
        self.id = id
        self._inspector = inspector
        self._decode = decode
        self._acceptance = accepted
        #: What became of the request that brought this handle: "created"; "joined": the job of an
        #: earlier request stands for it; "replaced": with the arguments of this one; "throttled": a
        #: job was created within the window. None for a handle that no enqueue returned.
        self.answer: Answer | None = answer

    @property
    def ref(self) -> str:
        """`QUEUE/ID`, as printed everywhere and taken by `app.job` and the command."""
        return reference(self.queue, self.id)

    def __repr__(self) -> str:
        return f"JobHandle({self.ref!r})"

    async def status(self) -> JobStatus:
        """Return where the job is.

        A job that its producer saw accepted and that left no trace has completed and kept nothing;
        a cancelled one leaves a trace for 48 h.

        Raises:
            JobNotFound: there is no trace of it, and this handle did not enqueue it; or its queue
                was cleared, or dead jobs of it were purged, after that.

        Redis: one script, one round trip.
        """
        record = await self._inspector().job(self.queue, self.id, since=self._since)
        if record is not None:
            return record.status
        self._check_accepted()
        return JobStatus.COMPLETED

    def status_sync(self) -> JobStatus:
        """Do the same as `status`, for a caller that blocks; see `Task.enqueue_sync`."""
        return call_blocking(self.status, instead="await status()")

    async def cancel(self) -> bool:
        """Ask that the job does not run, or that its run ends.

        A scheduled job is cancelled at once. A ready one is when its turn comes, and its handle
        says so from now on. One that runs hears of it within a second: a coroutine sees
        CancelledError, a process is killed, a thread goes on unseen and may ask
        `ctx.cancel_requested`; if it completes all the same, it has completed.

        Returns:
            False when it had ended before.

        Raises:
            JobNotFound: as `status`.

        Redis: one script, one round trip; another one if there is no trace of it.
        """
        inspector = self._inspector()
        (place,) = await inspector.cancel(self.queue, [self.id])
        if place == "" and await inspector.job(self.queue, self.id, since=self._since) is None:
            self._check_accepted()
        return place not in ("ended", "")

    def cancel_sync(self) -> bool:
        """Do the same as `cancel`, for a caller that blocks; see `Task.enqueue_sync`."""
        return call_blocking(self.cancel, instead="await cancel()")

    async def result(self, timeout: Seconds | None = None) -> R:
        """Wait until the job has ended and return what the task returned.

        A result that is not None is kept for 24 h by default (task option `keep`); without one
        the answer is None. The end of the job is published to this process; a Redis that goes
        away meanwhile is waited for.

        Args:
            timeout: Seconds, timedelta, or text as "10m", to wait at most; None for ever.

        Raises:
            TimeoutError: it has not ended in time, and goes on all the same; the message says
                where it is, and whether a worker serves its queue.
            JobFailed: it is dead; the message is the reason, `trace` that of its last error.
            JobCancelled: it was cancelled, or it expired; the message says why.
            ResultExpired: it has completed, and its result was not kept or no longer is.
            JobNotFound: there is no trace of it, and this handle did not enqueue it; or it did, and
                the outcome would still be kept (an explicit `keep`, or an annotation without
                None): Redis lost the job. Or Redis lost the whole queue; or the queue was cleared,
                and nobody had waited for it; or dead jobs of the queue were purged, and it may be
                one of them.
            BrokerUnavailable: Redis could not be asked at first, for as long as an enqueue tries.
            CodecError: the kept result does not fit the task's annotation.

        Redis: two scripts, each in one round trip with those of all others who wait.
        """
        import asyncio  # which runs this

        timeout_s = None if timeout is None else seconds("timeout", timeout, ArgumentError)
        try:
            async with asyncio.timeout(timeout_s):
                record = await self._inspector().ended(self.queue, self.id, since=self._since)
        except TimeoutError:
            stands = await self._standing()
            raise TimeoutError(
                f"job {self.ref} has not ended within {timeout_s or 0:g} s: {stands}"
            ) from None
        if record is None:
            self._check_accepted()
        return self._result_of(record)

    def result_sync(self, timeout: Seconds | None = None) -> R:
        """Do the same as `result`, for a caller that blocks; see `Task.enqueue_sync`.

        Ctrl-C ends the wait; the job goes on.
        """
        return call_blocking(self.result, timeout, instead="await result(...)")

    async def _standing(self) -> str:
        """Say what keeps the caller waiting, if Redis tells it at once."""
        import asyncio

        try:
            async with asyncio.timeout(_ANSWER_S):
                return await _standing_of()(self._inspector(), self.queue, self.id)
        except (TimeoutError, QcoreError) as e:
            return f"where it is cannot be seen ({str(e) or 'the broker does not answer'})"

    @property
    def _accepted(self) -> Accepted | None:
        # few handles are ever asked: 1 us less for each enqueue
        return None if self._acceptance is None else self._acceptance()

    @property
    def _since(self) -> float | None:
        accepted = self._accepted
        return None if accepted is None else accepted.since

    def _check_accepted(self) -> None:
        if self._accepted is None:
            raise JobNotFound(
                f"there is no job {self.ref}: the id or the queue is wrong, or it ended and its "
                "outcome is no longer kept"
            )
        self._check_kept()

    def _check_kept(self) -> None:
        accepted = self._accepted
        if accepted is not None and accepted.keeps_all and time.monotonic() <= accepted.until:
            raise JobNotFound(
                f"there is no job {self.ref}, and its outcome would still be kept: it was lost, "
                "or it was purged, or it returned None against its annotation"
            )

    def _result_of(self, record: JobRecord | None) -> Any:
        if record is not None and record.status is JobStatus.DEAD:
            raise _failed(self.ref, record)
        if record is not None and record.status is JobStatus.CANCELLED:
            reason = record.reason or "the reason is no longer kept"
            raise JobCancelled(f"job {self.ref} was cancelled: {reason}")
        if record is not None and record.result is not None:
            return self._decode(record.result)
        self._check_not_expired(record)
        self._check_kept()
        return None  # nothing is kept of a None

    def _check_not_expired(self, record: JobRecord | None) -> None:
        accepted = self._accepted
        if accepted is not None and accepted.keep_s == 0:
            raise ResultExpired(
                f"job {self.ref} completed and kept no result, as keep=0 asked: give keep= a time"
            )
        forgotten = record is None and accepted is not None and time.monotonic() > accepted.until
        if forgotten or (record is not None and record.expired):
            kept = "its time" if accepted is None else f"{accepted.keep_s:g} s"
            raise ResultExpired(
                f"job {self.ref} completed, its result was kept for {kept} and is gone: give "
                "keep= a longer time"
            )


def call_blocking(
    function: Callable[..., Coroutine[Any, Any, T]], *args: object, instead: str
) -> T:
    """Run `function(*args)` in the loop for callers that block; see `qcore.blocking.call`."""
    return _blocking_call()(function, *args, instead=instead)


@imported_late
def _blocking_call() -> Callable[..., Any]:
    # with asyncio it takes 7 MB: `import qcore` brings neither
    from qcore.blocking import call

    return call


@imported_late
def _standing_of() -> "Callable[[Inspector, str, str], Coroutine[Any, Any, str]]":
    from qcore.broker.redis.wait_diagnosis import standing

    return standing


def _failed(ref: str, record: JobRecord) -> JobFailed:
    reason = record.reason or "unknown"
    last = record.errors[-1] if record.errors else None
    # one that was buried for its crashes did not die of the error before
    ended_it = last is not None and reason == last_reason(record.errors)
    return JobFailed(
        f"job {ref} is dead: {reason}",
        reason=reason,
        kind=last.kind if last is not None and ended_it else "",
        attempts=record.attempts,
        trace=last.text if last is not None and ended_it else "",
    )
