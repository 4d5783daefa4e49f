"""Task: a registered function, and how its jobs are enqueued."""

import inspect
import math
import time
from collections.abc import AsyncIterable, Callable, Coroutine, Iterable, Mapping
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, Protocol, TypeVar, cast

from qcore.broker.contract import CALL_JOBS
from qcore.context import Context, detached
from qcore.durations import Seconds
from qcore.errors import AlreadyEnqueued, ArgumentError, UnknownQueue
from qcore.handle import Accepted, JobHandle, call_blocking
from qcore.job_maker import JobMaker
from qcore.job_options import Options, Settings, options_of
from qcore.model.admission import Admission, Answer, Enqueued, Terms, parts_of_key
from qcore.model.callee import returns_a_value, source_of
from qcore.model.codec import Arguments
from qcore.model.job import Job
from qcore.model.reference import reference
from qcore.pacing import Pacing, Rate
from qcore.per_process import imported_late
from qcore.queue import Queue
from qcore.settings import KEEP_S, BrokerConfig, DepthLimit, check_type
from qcore.telemetry import log
from qcore.uniqueness import KeyMaker

if TYPE_CHECKING:
    from uuid import UUID

    from qcore.broker.redis.blocking_producers import BlockingProducers
    from qcore.broker.redis.broker import Broker
    from qcore.broker.redis.inspector import Inspector

P = ParamSpec("P")
R = TypeVar("R")


class Home(Protocol):
    """What a task needs of its app."""

    queues: tuple[str, ...]
    depth_limits: dict[str, DepthLimit]

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


class Dispatch(Generic[P, R]):
    """A task together with the options of the jobs it enqueues."""

    def __init__(self, task: "Task[P, R]", options: Options) -> None:
        self._task = task
        self._options = options
        self._maker = JobMaker(
            task.settings,
            task.arguments,
            task.keys,
            options,
            returns_a_value=task.returns_a_value,
        )

    async def enqueue(self, *args: P.args, **kwargs: P.kwargs) -> JobHandle[R]:
        """Enqueue one call of the task, and return its handle once Redis has accepted it.

        Calls that are made at the same time travel together. Cancelling leaves open whether the
        job was enqueued.

        Raises:
            ArgumentError: the arguments do not fit the annotations, or make no key; nothing was
                enqueued.
            AlreadyEnqueued: another job has its unique key, and the task asks to be told.
            PayloadTooLarge, QueueClosed, QueueFull: nothing was enqueued.
            BrokerUnavailable: no answer within the enqueue timeout; `sent` says whether the job
                may have been enqueued all the same.
            NotConfirmed: with `options(confirm=n)`: it is enqueued, but fewer replicas had it.

        Redis: one script, shared with all callers of the moment.
        """
        # awaited here and nowhere deeper: each step on the way back to a caller costs
        job = self._maker.job(args, kwargs)
        answered = await self._task.app.broker.enqueue([job], confirm=self._options.confirm)
        return self._handle(job, answered)

    def enqueue_sync(self, *args: P.args, **kwargs: P.kwargs) -> JobHandle[R]:
        """Do the same as `enqueue`, for a caller that blocks: a script, a view, a shell.

        The app need not be open. Each call has a connection for itself; there are as many as
        threads that have called at the same time. With `confirm`, and at a URL of TLS, Sentinels,
        a Cluster or the embedded server, all threads share one, and its round trips.

        Raises:
            ConfigError: an event loop runs here: use `await enqueue(...)`; or there is no URL.
            ArgumentError, AlreadyEnqueued, PayloadTooLarge, QueueClosed, QueueFull,
                BrokerUnavailable: as `enqueue`.
        """
        job = self._maker.job(args, kwargs)
        if not self._options.confirm:
            answered = self._task.app.producers.enqueue([job])
            if answered is not None:
                return self._handle(job, answered)
        return call_blocking(self._accept, job, instead="await enqueue(...)")

    async def _accept(self, job: Job) -> JobHandle[R]:
        answered = await self._task.app.broker.enqueue([job], confirm=self._options.confirm)
        return self._handle(job, answered)

    def _handle(self, job: Job, answered: list[Admission]) -> JobHandle[R]:
        if job.terms is not None and (answered or self._options.idempotency_key is not None):
            return self._handle_on_terms(job, job.terms, answered)
        accepted = partial(self._maker.accepted, job.delay_ms, job.eta_ms, time.monotonic())
        return self._task.handle(job.queue, job.id, accepted=accepted, answer="created")

    def _handle_on_terms(self, job: Job, terms: Terms, answered: list[Admission]) -> JobHandle[R]:
        """Return a handle of the job that stands for the request: the one asked for, or another."""
        self._check_conflicts([job], answered)
        found = answered[0] if answered else Admission(job.id, "known", job.id, times=1)
        answer = _answer_of(found)
        if terms.key is not None and terms.key.conflict == "repeat":
            is_same = answer == "created" or found.digest == terms.key.digest
            say = log.debug if answer == "created" else log.info if is_same else log.warning
            say(
                "job.enqueued",
                job=found.job,
                task=self._task.name,
                queue=job.queue,
                key=parts_of_key(terms.key.name).value,
                answer=answer,
                count=found.times,
                same_arguments=is_same,
            )
        since = time.monotonic()
        accepted = partial(self._maker.accepted, job.delay_ms, job.eta_ms, since)
        if answer in ("joined", "throttled"):
            # how long its outcome is kept was said by whoever enqueued it
            accepted = partial(Accepted, KEEP_S, math.inf, since)
            if terms.key is not None and terms.key.until not in ("done", "started"):
                accepted = None  # it may have ended long ago, so no trace proves nothing
        return self._task.handle(job.queue, found.job, accepted=accepted, answer=answer)

    def _check_conflicts(self, jobs: list[Job], answered: list[Admission]) -> None:
        unique = self._task.settings.unique
        if unique is None or unique.on_conflict != "raise":
            return
        there = [found for found in answered if _answer_of(found) != "created"]
        if there:
            ref = reference(jobs[0].queue, there[0].job)
            left = len(jobs) - len(there)
            rest = f"; the rest of its chunk, {left} of {len(jobs)}, is enqueued" if left else ""
            why = f"task {self._task.name}: job {ref} has its unique key{rest}"
            raise AlreadyEnqueued(why, ref=ref, enqueued=left)

    async def enqueue_many(
        self,
        calls: Iterable[tuple[Any, ...] | Mapping[str, Any]]
        | AsyncIterable[tuple[Any, ...] | Mapping[str, Any]],
        *,
        chunk: int = CALL_JOBS,
        rate: Rate | None = None,
        ids: bool = False,
    ) -> Enqueued:
        """Enqueue one job per item, in order, with memory for two chunks only.

        Args:
            calls: Each item is a tuple of positional arguments or a mapping of named ones.
            chunk: Jobs per call on Redis, 1 to 500, and at most a tenth of the queue's `max_jobs`;
                a chunk is accepted as a whole or not at all.
            rate: Jobs a second, or jobs and the time that they are for, `(1000, "1m")`: they are
                enqueued at once, and become due one after another at that pace.
            ids: Return the ids of the jobs, too; they take memory.

        Returns:
            How many items were enqueued, a number; and how many of them were `created`, `joined`,
            `replaced` and `throttled`.

        Raises:
            AlreadyEnqueued: jobs have the unique keys of some items, and the task asks to be told;
                the rest of their chunk is enqueued.
            ArgumentError: an item does not fit; its message names the item's number. Like every
                other exception, of the items too, and a cancellation, it carries a note saying
                how many jobs were enqueued before.
        """
        check_type(f"task {self._task.name}: chunk", chunk, int, "a whole number", ArgumentError)
        if not 1 <= chunk <= CALL_JOBS:
            raise ArgumentError(f"chunk is {chunk}, allowed is 1 to {CALL_JOBS}")
        for option in ("id", "idempotency_key"):
            if getattr(self._options, option) is not None:
                raise ArgumentError(
                    f"task {self._task.name}: {option} names one job, and enqueue_many makes many"
                )
        queue = self._options.queue or self._task.settings.queue
        limit = self._task.app.depth_limits.get(queue)
        if limit is not None:
            # a chunk that needs nearly all of the room would wait until there are no jobs left
            chunk = max(1, min(chunk, limit.max_jobs // 10))
        make = self._maker.job_of_item
        if rate is not None:
            make = Pacing(self._task.name, rate).paced(make)
        return await _enqueue_in_chunks()(calls, make, self._enqueue, chunk, with_ids=ids)

    async def _enqueue(self, jobs: list[Job]) -> list[Admission]:
        answered = await self._task.app.broker.enqueue(jobs, confirm=self._options.confirm)
        self._check_conflicts(jobs, answered)
        return answered


@imported_late
def _enqueue_in_chunks() -> Callable[..., Coroutine[Any, Any, Enqueued]]:
    from qcore.bulk import enqueue  # with asyncio, which runs it

    return enqueue


class Task(Dispatch[P, R]):
    """A registered function. It stays callable as it was; jobs are made by `enqueue`."""

    def __init__(self, function: Callable[..., Any], settings: Settings, *, app: Home) -> None:
        self.function = function
        self.settings = settings
        self.app = app
        self.arguments = Arguments(settings.name, function, Context)
        #: Makes the unique keys of its jobs.
        self.keys = KeyMaker(settings.unique, self.arguments) if settings.unique else None
        #: Its result is never None, so that something of each job that completes is kept.
        self.returns_a_value = returns_a_value(self.arguments.returns)
        super().__init__(self, Options())
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

    def options(  # noqa: PLR0913 - each is an option of a dispatch
        self,
        *,
        delay: Seconds | None = None,
        eta: datetime | None = None,
        queue: str | Queue | None = None,
        keep: Seconds | None = None,
        expires: Seconds | None = None,
        confirm: int = 0,
        id: str | None = None,
        idempotency_key: "str | int | UUID | None" = None,
        idempotency_ttl: Seconds = "1d",
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
            id: An id of your own, 1 to 128 of letters, digits, `_`, `.`, `:`, `-`: while a job with
                it is there, or something of its outcome, an enqueue brings that one.
            idempotency_key: What names this request: text, a number or a UUID, 512 bytes at most.
                Within the ttl each repeat brings the job of the first one, and its outcome.
            idempotency_ttl: For so long after the first enqueue, 1 ms to 366 days; the outcome is
                kept at least as long.

        Raises:
            UnknownQueue: the app does not declare `queue`.
            ArgumentError: another type, a negative number, a naive `eta`, both `delay` and `eta`,
                or a job that would expire before it is ready; with an `eta` only `enqueue` can
                tell. An id or a key that is none, or a key for a task that is unique by its own.
        """
        if isinstance(queue, Queue):
            queue = queue.name
        if queue is not None:
            check_type(f"task {self.name}: queue", queue, str, "a name", ArgumentError)
            self._check_queue(queue)
        options = options_of(
            self.settings,
            delay=delay,
            eta=eta,
            queue=None if queue is None else str.__str__(queue),
            keep=keep,
            expires=expires,
            confirm=confirm,
            id=id,
            idempotency_key=idempotency_key,
            idempotency_ttl=idempotency_ttl,
        )
        return Dispatch(self, options)

    def handle(
        self,
        queue: str,
        id: str,
        *,
        accepted: Callable[[], Accepted] | None = None,
        answer: Answer | None = None,
    ) -> JobHandle[R]:
        """Return a handle of a job of this task."""
        decode, inspector = self.arguments.decode_result, lambda: self.app.inspector
        return JobHandle(inspector, queue, id, decode=decode, accepted=accepted, answer=answer)

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


def _answer_of(found: Admission) -> Answer:
    match found.how:
        case "joined" | "replaced" | "throttled":
            return found.how
        case _:  # known: by the same call
            return "created"
