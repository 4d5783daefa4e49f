"""One lease -> one outcome, as short named steps. Knows no Redis."""

import asyncio
import os
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from functools import partial
from typing import Any

import msgspec

from qcore.context import Context, Lifecycle
from qcore.environment import host_name
from qcore.errors import (
    ArgumentError,
    CodecError,
    JobTimedOut,
    NewerVersion,
    Parked,
    QcoreError,
    ResultError,
)
from qcore.model.codec import decode_envelope, decode_state, encode
from qcore.model.job import (
    ACKED,
    Acked,
    AttemptError,
    Buried,
    Cancelled,
    Envelope,
    JobOutcome,
    JobState,
    JobStatus,
    Lease,
    Outcome,
    Released,
    Retried,
)
from qcore.model.reasons import control_in
from qcore.model.retry import GiveUp, RetryLater
from qcore.runtime.ipc.pool import RemoteError, Request
from qcore.runtime.ipc.results import NIL, encode_result, error_line, error_text
from qcore.runtime.worker.process_pool import ProcessPool
from qcore.runtime.worker.running_job import Running, Stop
from qcore.runtime.worker.threads import Threads
from qcore.settings import KEEP_S
from qcore.task import Task
from qcore.telemetry import log, trace_in

#: A job that no worker can run yet (its task unknown, its arguments of another version) is tried
#: again for a day, which is longer than a rolling deploy, 5 s to 5 min apart.
PARK_MS = 24 * 3600 * 1000
_PARK_FIRST_S, _PARK_MAX_S = 5.0, 300.0


class _CalledOff(QcoreError):
    """It is not to run any more; the text says why."""


class Executor:
    """Runs the jobs of one worker process.

    Args:
        tasks: The app's tasks by name.
        lifecycle: What the jobs see of the worker.
        threads: Where other `def` tasks run.
        pool: Where `run_in="process"` tasks run.
        write_record: Writes the record of a job; returns False when its lease was lost.
        result_limit_bytes: A job whose encoded result is larger has failed.
    """

    def __init__(
        self,
        tasks: Mapping[str, Task[Any, Any]],
        lifecycle: Lifecycle,
        *,
        threads: Threads,
        pool: ProcessPool,
        write_record: Callable[[Lease, bytes], Awaitable[bool]],
        result_limit_bytes: int,
    ) -> None:
        self._tasks = tasks
        self._lifecycle = lifecycle
        self._threads = threads
        self._pool = pool
        self._write_record = write_record
        self._result_limit_bytes = result_limit_bytes
        # the fields of a line that is dropped would cost more than the rest of an empty job
        self._logs_acks = log.shows("debug", "job.acked")
        self._host = host_name()
        self._pid = os.getpid()

    async def execute(self, running: Running) -> Outcome | None:
        """Run one job to its outcome; None when its lease was lost, so that it has none to give.

        When the asyncio task is cancelled, `running.stop` says what that means.

        Raises:
            BaseException: whatever ended the run; `outcome_of` says what becomes of it.
        """
        lease = running.lease
        running.started_ms = _now_ms()
        if running.stop is not None:
            return self._stopped(running)
        envelope = self._read(lease)
        running.task_name = envelope.task
        if lease.cancel_requested:
            raise _CalledOff("on request")
        if envelope.expires_ms >= 0:
            self._check_expiry(envelope, running)
        task = self._tasks.get(envelope.task)
        if task is None:
            raise Parked(
                f"no worker that took it knows task {envelope.task}: deploy the code that has it, "
                "or register it under this name"
            )
        running.exclusive = task.settings.exclusive
        result = await self._call(task, envelope, running)
        return self._completed(result, task.keep_ms(envelope.keep_ms, result), running)

    # -- the steps ------------------------------------------------------------------------------

    def _read(self, lease: Lease) -> Envelope:
        if lease.envelope is None:
            raise CodecError("payload missing")
        if "\\x" in lease.id and not lease.token.endswith(lease.id.encode()):
            raise CodecError(f"its id is no text ({lease.id}): qcore has not made this job")
        return decode_envelope(lease.envelope)

    def _check_expiry(self, envelope: Envelope, running: Running) -> None:
        """Refuse a run that would start too late.

        The age is that at the claim, by the Redis clock, and the wait since then for a place.
        """
        lease = running.lease
        if decode_state(lease.state).revived:
            return
        waited_ms = round((asyncio.get_running_loop().time() - running.claimed_at) * 1000)
        age_ms = lease.claimed_ms - lease.enqueued_ms + waited_ms
        if envelope.expires_ms <= age_ms:
            raise _CalledOff(
                f"it expired: {age_ms / 1000:g} s after its enqueue no run may start, it was to "
                f"start within {envelope.expires_ms / 1000:g} s"
            )

    async def _begin(self, task: Task[Any, Any], envelope: Envelope, running: Running) -> None:
        """Begin the run: it has its place now, and the clock of the task timeout starts.

        A job that is stopped while it waits for a thread or a process has not begun.
        """
        if envelope.expires_ms >= 0:
            self._check_expiry(envelope, running)
        if task.settings.at_most_once:
            await self._begin_once(running)
        running.start_clock(task.settings.timeout_s)

    async def _begin_once(self, running: Running) -> None:
        """Write down that the only run begins; whoever finds that written does not begin it."""
        state = decode_state(running.lease.state)
        if state.started_ms:
            when = datetime.fromtimestamp(state.started_ms / 1000, UTC)
            raise GiveUp(f"at most once: its run of {when:%Y-%m-%d %H:%M:%S}Z was cut off")
        state = msgspec.structs.replace(state, started_ms=running.started_ms)
        if not await self._write_record(running.lease, encode(state)):
            running.cancel(Stop.LEASE_LOST)
            await asyncio.sleep(0)  # where the cancellation arrives
        running.begun_once = True

    def _call(self, task: Task[Any, Any], envelope: Envelope, running: Running) -> Awaitable[Any]:
        """Return what runs the function where it belongs, and gives its result.

        For the ordinary task that is the function's own coroutine, with none around it.
        """
        try:
            named = task.arguments.decode(envelope.args)
        except ArgumentError as e:
            raise Parked(
                f"{e}: the job was enqueued for another version of the task; deploy the code that "
                "fits"
            ) from e
        if task.settings.run_in == "process":
            return self._call_in_process(task, envelope, running)
        if task.arguments.injected:
            running.context = Context(running.facts(task.settings.timeout_s), self._lifecycle)
            named = task.with_context(named, running.context)
        if task.settings.run_in == "thread":
            return self._call_in_thread(task, envelope, running, named)
        if task.settings.at_most_once:
            return self._call_once(task, envelope, running, named)
        running.start_clock(task.settings.timeout_s)
        return task.function(**named)

    async def _call_once(
        self, task: Task[Any, Any], envelope: Envelope, running: Running, named: dict[str, Any]
    ) -> Any:
        await self._begin(task, envelope, running)
        return await task.function(**named)

    async def _call_in_thread(
        self, task: Task[Any, Any], envelope: Envelope, running: Running, named: dict[str, Any]
    ) -> Any:
        async with self._threads.thread() as thread:
            await self._begin(task, envelope, running)
            running.in_thread = True
            lease = running.lease
            thread.job, thread.task, thread.queue = lease.id, task.name, lease.queue
            if running.deadline is not None:
                thread.kill_at = running.deadline + task.settings.grace_s
            return await thread.call(partial(task.function, **named))

    async def _call_in_process(
        self, task: Task[Any, Any], envelope: Envelope, running: Running
    ) -> Any:
        async with self._pool.process() as process:
            await self._begin(task, envelope, running)
            # any result but None is kept, or none is
            is_kept = task.keep_ms(envelope.keep_ms, result=...) > 0
            limit = self._result_limit_bytes if is_kept else -1
            facts = running.facts(task.settings.timeout_s)
            raw = await process.call(Request(facts, envelope.args, limit))
        return None if raw == NIL else msgspec.Raw(raw)

    def _completed(self, result: Any, keep_ms: int, running: Running) -> Outcome:
        raw = NIL
        if keep_ms or result is not None:
            raw = encode_result(result, self._result_limit_bytes if keep_ms else -1)
        if self._logs_acks:
            duration_ms = _now_ms() - running.started_ms
            log.debug("job.acked", **running.log_fields(), duration_ms=duration_ms)
        if not keep_ms:
            return ACKED
        return Acked(encode(JobOutcome(JobStatus.COMPLETED, msgspec.Raw(raw))), keep_ms)

    # -- when it did not complete -----------------------------------------------------------------

    def outcome_of(self, error: BaseException, running: Running) -> Outcome | None:
        """Return the outcome of a run that ended with an exception.

        One so odd that it cannot be classified must not cost the worker a slot: the job is dead.
        """
        try:
            return self._classify(error, running)
        except BaseException:
            log.exception("job.unclassified", job=running.lease.id, queue=running.lease.queue)
            odd = CodecError(f"its {type(error).__name__} cannot be recorded; see the worker's log")
            return Buried(encode(self._after(odd, running, charge=True)))

    def _classify(self, error: BaseException, running: Running) -> Outcome | None:
        error = control_in(error)
        if isinstance(error, ResultError) and running.stop is not Stop.LEASE_LOST:
            return self._bury(error, running)  # the work is done, whatever was asked meanwhile
        # what a cleanup raises when the worker stops the job is no failure of the job
        is_over = running.stop not in (None, Stop.TIMEOUT)
        if is_over or (running.stop is not None and isinstance(error, asyncio.CancelledError)):
            return self._stopped(running)
        if (
            isinstance(error, _CalledOff) or running.lease.cancel_requested
        ):  # whatever else is wrong with it
            return self._cancelled(str(error), running)
        # a process without the code for it has not begun it
        if running.begun_once and not isinstance(error, Parked):
            return self._bury(_last(error), running)
        if isinstance(error, Parked | NewerVersion):
            return self._park(error, running)
        if isinstance(error, CodecError | GiveUp):
            return self._bury(error, running)
        if isinstance(error, RetryLater):
            return self._retry_later(error, running)
        return self._failed(error, running)

    def _stopped(self, running: Running) -> Outcome | None:
        if running.stop is Stop.TIMEOUT:
            task = self._tasks[running.task_name]
            limit_s = task.settings.timeout_s or 0
            return self._failed(
                JobTimedOut(f"task {task.name} ran longer than its timeout of {limit_s:g} s"),
                running,
            )
        if running.stop is Stop.LEASE_LOST:
            return None
        if running.stop is Stop.CANCELLED:
            return self._cancelled("on request, while it ran", running)
        log.info("job.released", **running.log_fields())
        return Released()

    def _cancelled(self, reason: str, running: Running) -> Outcome:
        log.info("job.cancelled", **running.log_fields(), reason=reason)
        kept = encode(JobOutcome(JobStatus.CANCELLED, reason=reason))
        return Cancelled(kept, round(KEEP_S * 1000))

    def _failed(self, error: BaseException, running: Running) -> Outcome:
        """Charge one failure and ask the retry policy."""
        state = self._after(error, running, charge=True)
        task = self._tasks.get(running.task_name)
        delay_s = None
        if task is not None:
            delay_s = task.settings.retry.delay_s(state.failures, random.random())
        if delay_s is None:
            return self._buried(error, running, state)
        return self._retried(error, running, state, delay_s)

    def _retry_later(self, raised: RetryLater, running: Running) -> Outcome:
        state = self._after(raised, running, charge=raised.charge)
        task = self._tasks[running.task_name]
        if raised.charge and state.failures >= task.settings.retry.max_attempts:
            return self._buried(raised, running, state)
        return self._retried(raised, running, state, raised.delay_s)

    def _bury(self, error: BaseException, running: Running) -> Outcome:
        return self._buried(error, running, self._after(error, running, charge=True))

    def _park(self, error: BaseException, running: Running) -> Outcome:
        """Wait, uncharged, for a worker that has the code; after a day the job is dead."""
        state = decode_state(running.lease.state)
        now_ms = running.lease.claimed_ms
        since_ms = state.parked_ms or now_ms
        if now_ms - since_ms >= PARK_MS:
            return self._bury(error, running)
        if not state.parked_ms:
            state = self._after(error, running, charge=False)
        state = msgspec.structs.replace(state, parked_ms=since_ms, parks=state.parks + 1)
        bound_s = min(_PARK_MAX_S, _PARK_FIRST_S * 2 ** min(state.parks - 1, 16))
        delay_ms = round(bound_s * random.uniform(800, 1200))
        log.warning("job.parked", **running.log_fields(), error=str(error), delay_ms=delay_ms)
        return Retried(delay_ms, encode(state))

    def _after(self, error: BaseException, running: Running, *, charge: bool) -> JobState:
        """Return the job's record with this failure in it."""
        state = decode_state(running.lease.state)
        record = AttemptError(
            attempt=state.failures + 1,
            kind=error.kind if isinstance(error, RemoteError) else type(error).__name__,
            text=error_text(error),
            started_ms=running.started_ms,
            ended_ms=_now_ms(),
            host=self._host,
            pid=self._pid,
            reason=error_line(error),
        )
        return state.failed(record, charge=charge)

    def _retried(
        self, error: BaseException, running: Running, state: JobState, delay_s: float
    ) -> Outcome:
        delay_ms = round(delay_s * 1000)
        log.info(
            "job.retried",
            **running.log_fields(),
            **trace_in(state),
            error=error_line(error),
            delay_ms=delay_ms,
        )
        return Retried(delay_ms, encode(state))

    def _buried(self, error: BaseException, running: Running, state: JobState) -> Outcome:
        log.warning(
            "job.buried", **running.log_fields(), **trace_in(state), error=error_line(error)
        )
        return Buried(encode(state))


def _last(error: BaseException) -> BaseException:
    """Return how the only run of a job failed: it cannot ask for another one."""
    if isinstance(error, RetryLater):
        return GiveUp(f"at most once: it raised RetryLater ({error}), and must not run again")
    return error


def _now_ms() -> int:
    """Return this machine's unix ms, for error records only: Redis owns the clock."""
    return time.time_ns() // 1_000_000
