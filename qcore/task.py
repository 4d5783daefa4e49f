"""Task: a registered function, and how its jobs are enqueued."""

import inspect
import math
import time
from collections.abc import AsyncIterable, Callable, Coroutine, Iterable, Mapping
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, Protocol, TypeVar, cast

import msgspec

from qcore.broker.contract import CALL_JOBS
from qcore.broker.identity import new_id
from qcore.context import Context, detached
from qcore.durations import Seconds, seconds
from qcore.errors import ArgumentError, UnknownQueue
from qcore.handle import Accepted, JobHandle, call_blocking
from qcore.model.callee import RunIn, returns_a_value, source_of
from qcore.model.codec import ENVELOPE_VERSION, Arguments, encode
from qcore.model.job import Envelope, Job
from qcore.model.retry import Retry
from qcore.pacing import Pacing, Rate
from qcore.queue import Queue
from qcore.settings import KEEP_S, BrokerConfig, check_type

if TYPE_CHECKING:
    from qcore.broker.redis.blocking_producers import BlockingProducers
    from qcore.broker.redis.broker import Broker
    from qcore.broker.redis.inspector import Inspector

P = ParamSpec("P")
R = TypeVar("R")


class Home(Protocol):
    """What a task needs of its app."""

    queues: tuple[str, ...]

    @property
    def producers(self) -> "BlockingProducers":
        """What enqueues for callers that block."""
        ...

    @property
    def broker(self) -> "Broker":
        """The broker for the running event loop."""
        ...

    @property
    def inspector(self) -> "Inspector":
        """What reads records, for the running event loop."""
        ...

    def work_at(self, broker: BrokerConfig) -> None:
        """Call on the Redis of the worker, as it does."""
        ...


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What a task was registered with."""

    name: str
    queue: str
    retry: Retry
    run_in: RunIn
    #: Seconds until the soft timeout; None: no limit.
    timeout_s: float | None = None
    #: Seconds until the process of a run that did not stop is killed; None: no limit.
    kill_timeout_s: float | None = None
    #: Seconds to keep the outcome; None: 24 h, and only of results that are not None.
    keep_s: float | None = None
    #: Milliseconds after its enqueue from which on no run of a job may start; -1: never.
    expires_ms: int = -1
    #: Two runs of one job never overlap while the lease of the first is trusted.
    exclusive: bool = False
    #: A run that was begun is never begun again.
    at_most_once: bool = False

    @property
    def grace_s(self) -> float:
        """Seconds that a run has to end when it was stopped at its timeout."""
        return (self.kill_timeout_s or 0.0) - (self.timeout_s or 0.0)


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What one dispatch asks for, on top of the task's settings."""

    delay_ms: int | None = None
    eta_ms: int | None = None
    queue: str | None = None
    keep_ms: int = -1
    expires_ms: int = -1
    #: Replicas that must have the job before `enqueue` returns.
    confirm: int = 0


class Dispatch(Generic[P, R]):
    """A task together with the options of the jobs it enqueues."""

    def __init__(self, task: "Task[P, R]", options: Options) -> None:
        self._task = task
        self._options = options

    async def enqueue(self, *args: P.args, **kwargs: P.kwargs) -> JobHandle[R]:
        """Enqueue one call of the task, and return its handle once Redis has accepted it.

        Calls that are made at the same time travel together. Cancelling leaves open whether the
        job was enqueued.

        Raises:
            ArgumentError: the arguments do not fit the annotations; nothing was enqueued.
            PayloadTooLarge, QueueClosed, QueueFull: nothing was enqueued.
            BrokerUnavailable: no answer within the enqueue timeout; `sent` says whether the job
                may have been enqueued all the same.
            NotConfirmed: with `options(confirm=n)`: it is enqueued, but fewer replicas had it.

        Redis: one script, shared with all callers of the moment.
        """
        # awaited here and nowhere deeper: each step on the way back to a caller costs
        job = self._job(args, kwargs)
        await self._task.app.broker.enqueue([job], confirm=self._options.confirm)
        return self._handle(job)

    def enqueue_sync(self, *args: P.args, **kwargs: P.kwargs) -> JobHandle[R]:
        """Do the same as `enqueue`, for a caller that blocks: a script, a view, a shell.

        The app need not be open. Each call has a connection for itself; there are as many as
        threads that have called at the same time. With `confirm`, and at a URL of TLS, Sentinels,
        a Cluster or the embedded server, all threads share one, and its round trips.

        Raises:
            ConfigError: an event loop runs here: use `await enqueue(...)`; or there is no URL.
            ArgumentError, PayloadTooLarge, QueueClosed, QueueFull, BrokerUnavailable: as `enqueue`.
        """
        job = self._job(args, kwargs)
        if not self._options.confirm and self._task.app.producers.enqueue([job]):
            return self._handle(job)
        return call_blocking(self._accept, job, instead="await enqueue(...)")

    async def _accept(self, job: Job) -> JobHandle[R]:
        await self._enqueue([job])
        return self._handle(job)

    def _handle(self, job: Job) -> JobHandle[R]:
        accepted = partial(self._accepted, job.delay_ms, job.eta_ms, time.monotonic())
        return self._task.handle(job.queue, job.id, accepted=accepted)

    def _accepted(self, delay_ms: int | None, eta_ms: int | None, since: float) -> Accepted:
        keep_s = self._options.keep_ms / 1000
        if keep_s < 0:
            keep_s = KEEP_S if self._task.settings.keep_s is None else self._task.settings.keep_s
        begins = since + (delay_ms or 0) / 1000
        if eta_ms is not None:
            wait_s = eta_ms / 1000 - datetime.now(UTC).timestamp()
            begins = max(since, time.monotonic() + wait_s)
        explicit = self._options.keep_ms >= 0 or self._task.settings.keep_s is not None
        keeps_all = keep_s > 0 and (explicit or self._task.returns_a_value)
        return Accepted(keep_s, begins + keep_s, since, keeps_all=keeps_all)

    async def enqueue_many(
        self,
        calls: Iterable[tuple[Any, ...] | Mapping[str, Any]]
        | AsyncIterable[tuple[Any, ...] | Mapping[str, Any]],
        *,
        chunk: int = CALL_JOBS,
        rate: Rate | None = None,
    ) -> int:
        """Enqueue one job per item, in order, with memory for two chunks only.

        Args:
            calls: Each item is a tuple of positional arguments or a mapping of named ones.
            chunk: Jobs per call on Redis, 1 to 500; a chunk is accepted as a whole or not at all.
            rate: Jobs a second, or jobs and the time that they are for, `(1000, "1m")`: they are
                enqueued at once, and become due one after another at that pace.

        Returns:
            How many were enqueued.

        Raises:
            ArgumentError: an item does not fit; its message names the item's number. Like every
                other exception, of the items too, and a cancellation, it carries a note saying
                how many jobs were enqueued before.
        """
        check_type(f"task {self._task.name}: chunk", chunk, int, "a whole number", ArgumentError)
        if not 1 <= chunk <= CALL_JOBS:
            raise ArgumentError(f"chunk is {chunk}, allowed is 1 to {CALL_JOBS}")
        make = self._job_of_item
        if rate is not None:
            make = Pacing(self._task.name, rate).paced(make)
        from qcore import bulk  # with asyncio, which runs this

        return await bulk.enqueue(calls, make, self._enqueue, chunk)

    async def _enqueue(self, jobs: list[Job]) -> None:
        await self._task.app.broker.enqueue(jobs, confirm=self._options.confirm)

    def _job(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Job:
        settings, options = self._task.settings, self._options
        raw = self._task.arguments.encode(args, kwargs)
        envelope = Envelope(
            ENVELOPE_VERSION,
            settings.name,
            msgspec.Raw(raw),
            options.keep_ms,
            _expires_ms(settings, options),
        )
        return Job(
            new_id(),
            options.queue or settings.queue,
            encode(envelope),
            options.delay_ms,
            options.eta_ms,
        )

    def _job_of_item(self, number: int, call: tuple[Any, ...] | Mapping[str, Any]) -> Job:
        try:
            if isinstance(call, tuple):
                return self._job(call, {})
            if isinstance(call, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]
                return self._job((), call)
        except ArgumentError as e:
            raise ArgumentError(f"item {number}: {e}") from e
        # a bare value is the mistake to expect here, whatever the annotation says
        raise ArgumentError(
            f"item {number} has the type {type(call).__name__}: give a tuple of positional "
            "arguments, as in (42,), or a mapping of named ones"
        )


class Task(Dispatch[P, R]):
    """A registered function. It stays callable as it was; jobs are made by `enqueue`."""

    def __init__(self, function: Callable[..., Any], settings: Settings, *, app: Home) -> None:
        super().__init__(self, Options())
        self.function = function
        self.settings = settings
        self.app = app
        self.arguments = Arguments(settings.name, function, Context)
        #: Its result is never None, so that something of each job that completes is kept.
        self.returns_a_value = returns_a_value(self.arguments.returns)
        self._check_queue(settings.queue)
        source = source_of(function)
        self.__doc__ = source.__doc__
        self.__name__ = source.__name__
        self.__module__ = source.__module__
        self.__wrapped__ = function

    @property
    def name(self) -> str:
        """The stable name under which jobs find this task again."""
        return self.settings.name

    def options(
        self,
        *,
        delay: Seconds | None = None,
        eta: datetime | None = None,
        queue: str | Queue | None = None,
        keep: Seconds | None = None,
        expires: Seconds | None = None,
        confirm: int = 0,
    ) -> Dispatch[P, R]:
        """Return this task with options for the jobs enqueued through the returned object.

        Args:
            delay: Until the job becomes ready, on the Redis clock. Durations are seconds, a
                timedelta, or text as "10m".
            eta: The aware datetime at which it becomes ready; not together with `delay`.
            queue: Instead of the task's queue.
            keep: Keep the outcome for so long; 0 keeps nothing.
            expires: After the enqueue, on the Redis clock, from when on no run may start: the job
                is cancelled instead.
            confirm: `enqueue` returns only when so many replicas of Redis have the job, too; it
                waits for them within the enqueue timeout.

        Raises:
            UnknownQueue: the app does not declare `queue`.
            ArgumentError: another type, a negative number, a naive `eta`, both `delay` and `eta`,
                or a job that would expire before it is ready; with an `eta` only `enqueue` can
                tell.
        """
        if isinstance(queue, Queue):
            queue = queue.name
        if queue is not None:
            check_type(f"task {self.name}: queue", queue, str, "a name", ArgumentError)
            self._check_queue(queue)
        if delay is not None and eta is not None:
            raise ArgumentError(f"task {self.name}: give delay or eta, not both")
        if eta is not None:
            check_type(f"task {self.name}: eta", eta, datetime, "an aware datetime", ArgumentError)
            if eta.tzinfo is None:
                raise ArgumentError(
                    f"task {self.name}: eta {eta} has no time zone, use datetime.UTC"
                )
        check_type(f"task {self.name}: confirm", confirm, int, "a whole number", ArgumentError)
        if confirm < 0:
            raise ArgumentError(f"task {self.name}: confirm is {confirm}, allowed is 0 and more")
        options = Options(
            delay_ms=None if delay is None else self._ms("delay", delay),
            eta_ms=None if eta is None else int(eta.astimezone(UTC).timestamp() * 1000),
            queue=None if queue is None else str.__str__(queue),
            keep_ms=-1 if keep is None else self._ms("keep", keep),
            expires_ms=-1 if expires is None else self._ms("expires", expires),
            confirm=confirm,
        )
        if options.expires_ms == 0:
            raise ArgumentError(f"task {self.name}: expires is {expires}, allowed is more than 0")
        if eta is None:  # which may be far away now, and near when the job is enqueued
            _expires_ms(self.settings, options)
        return Dispatch(self, options)

    def handle(
        self, queue: str, id: str, *, accepted: Callable[[], Accepted] | None = None
    ) -> JobHandle[R]:
        """Return a handle of a job of this task."""
        decode = self.arguments.decode_result
        return JobHandle(lambda: self.app.inspector, queue, id, decode=decode, accepted=accepted)

    def keep_ms(self, asked: int, result: object) -> int:
        """Return how long to keep `result`, in ms: what the job asked, else what the task says."""
        if asked >= 0:
            return asked
        if self.settings.keep_s is not None:
            return round(self.settings.keep_s * 1000)
        return 0 if result is None else round(KEEP_S * 1000)

    def with_context(self, named: dict[str, Any], context: Context) -> dict[str, Any]:
        """Return the arguments with the context where the function asks for it."""
        return named | dict.fromkeys(self.arguments.injected, context)

    def _call(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call the function directly; a context that the caller left out is a detached one."""
        injected = [name for name in self.arguments.injected if name not in kwargs]
        if not injected or any(isinstance(a, Context) for a in args):
            return self.function(*args, **kwargs)
        named = inspect.signature(self.function)
        own = [p for p in named.parameters.values() if p.name not in injected]
        bound = named.replace(parameters=own).bind(*args, **kwargs).arguments
        context = detached(self.name, self.settings.queue)
        return self.function(**self.with_context(bound, context))

    def _check_queue(self, queue: str) -> None:
        if queue not in self.app.queues:
            raise UnknownQueue(
                f"task {self.settings.name}: queue {queue!r} is not declared; the app has "
                f"{', '.join(self.app.queues)}: add it to App(queues=[...])"
            )

    def _ms(self, option: str, value: Seconds) -> int:
        value_s = seconds(f"task {self.name}: {option}", value, ArgumentError)
        if not 0 <= value_s < math.inf:
            raise ArgumentError(f"task {self.name}: {option} is {value}, allowed is 0 and more")
        return round(value_s * 1000)


class AsyncTask(Task[P, R]):
    """A task of an `async def` function."""

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R]:
        """Call the function itself, here and now; nothing is enqueued."""
        return cast(Coroutine[Any, Any, R], self._call(args, kwargs))


class SyncTask(Task[P, R]):
    """A task of a `def` function."""

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call the function itself, here and now; nothing is enqueued."""
        return cast(R, self._call(args, kwargs))


def _expires_ms(settings: Settings, options: Options) -> int:
    """Return in how many ms a job expires, -1 for never.

    Raises:
        ArgumentError: it becomes ready too late for that. The time until an `eta` is counted on
            this machine's clock.
    """
    expires_ms = settings.expires_ms if options.expires_ms < 0 else options.expires_ms
    if expires_ms < 0:
        return -1
    wait_ms = options.delay_ms or 0
    if options.eta_ms is not None:
        wait_ms = options.eta_ms - time.time_ns() // 1_000_000
    if expires_ms <= wait_ms:
        raise ArgumentError(
            f"task {settings.name}: the job would be ready {wait_ms / 1000:g} s after its enqueue "
            f"and expire after {expires_ms / 1000:g} s, so it could never start: give it a longer "
            "expires, or less delay"
        )
    return expires_ms
