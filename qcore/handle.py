"""JobHandle: follow one job from outside."""

import asyncio
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import msgspec

from qcore import blocking
from qcore.broker.broker import Broker
from qcore.broker.inspector import Inspector, JobRecord
from qcore.config import Seconds, seconds
from qcore.errors import JobCancelled, JobFailed, JobNotFound
from qcore.model.job import JobStatus

R = TypeVar("R")

#: `result` asks again after this long, growing by half each time up to the second number.
_FIRST_LOOK_S, _LAST_LOOK_S = 0.01, 0.5


class JobHandle(Generic[R]):
    """A job, by queue and id. Holds no connection and no state of the job."""

    def __init__(
        self,
        broker: Callable[[], Broker],
        queue: str,
        id: str,
        *,
        decode: Callable[[msgspec.Raw], Any],
        accepted: bool,
    ) -> None:
        self.queue = queue
        self.id = id
        self._broker = broker
        self._decode = decode
        self._accepted = accepted

    @property
    def ref(self) -> str:
        """`QUEUE/ID`, as printed everywhere and taken by `app.job` and the command."""
        return f"{self.queue}/{self.id}"

    def __repr__(self) -> str:
        return f"JobHandle({self.ref!r})"

    async def status(self) -> JobStatus:
        """Return where the job is.

        A job that its producer saw accepted and that is nowhere has completed and kept nothing.

        Raises:
            JobNotFound: there is no trace of it, and this handle did not enqueue it.

        Redis: one script, one round trip.
        """
        record = await self._look()
        return JobStatus.COMPLETED if record is None else record.status

    def status_sync(self) -> JobStatus:
        """Do the same as `status`, for a caller that blocks; see `Task.enqueue_sync`."""
        return blocking.call(self.status, instead="await status()")

    async def result(self, timeout: Seconds | None = None) -> R:
        """Wait until the job has ended and return what the task returned.

        A result that is not None is kept for 24 h by default (task option `keep`); without one
        the answer is None. Looks every 10 ms at first, every 0.5 s later.

        Args:
            timeout: Seconds or timedelta to wait at most; None for ever.

        Raises:
            TimeoutError: it has not ended in time; it goes on all the same.
            JobFailed: it is dead; the message is the reason and the trace of its last error.
            JobCancelled: it was cleared before it could run.
            JobNotFound: there is no trace of it, and this handle did not enqueue it.
            CodecError: the kept result does not fit the task's annotation.
        """
        wait_s = _FIRST_LOOK_S
        try:
            async with asyncio.timeout(None if timeout is None else seconds(timeout)):
                while True:
                    record = await self._look()
                    if record is None:
                        return None  # type: ignore[return-value]  # the task returned None
                    if record.status is JobStatus.COMPLETED:
                        return self._decode(record.result or msgspec.Raw(b"\xc0"))
                    self._raise_if_over(record)
                    await asyncio.sleep(wait_s)
                    wait_s = min(wait_s * 1.5, _LAST_LOOK_S)
        except TimeoutError:
            raise TimeoutError(f"job {self.ref} has not ended within {timeout} s") from None

    def result_sync(self, timeout: Seconds | None = None) -> R:
        """Do the same as `result`, for a caller that blocks; see `Task.enqueue_sync`.

        Ctrl-C ends the wait; the job goes on.
        """
        return blocking.call(self.result, timeout, instead="await result(...)")

    async def _look(self) -> JobRecord | None:
        record = await Inspector(self._broker()).job(self.queue, self.id)
        if record is None and not self._accepted:
            raise JobNotFound(
                f"there is no job {self.ref}: the id or the queue is wrong, or it ended and its "
                "outcome is no longer kept"
            )
        return record

    def _raise_if_over(self, record: JobRecord) -> None:
        if record.status is JobStatus.DEAD:
            trace = record.errors[-1].text if record.errors else ""
            more = f"\n{trace}" if "\n" in trace else ""
            raise JobFailed(f"job {self.ref} is dead: {record.reason}{more}")
        if record.status is JobStatus.CANCELLED:
            raise JobCancelled(f"job {self.ref} was cancelled before it ran")
