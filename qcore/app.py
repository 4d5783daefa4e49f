"""App: the registry of tasks, and the owner of the broker."""

import inspect
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Callable,
    Coroutine,
    Generator,
    Sequence,
)
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any, Concatenate, Literal, ParamSpec, TypeVar, cast, overload

import msgspec

from qcore.context import Context
from qcore.declaration import (
    Register,
    check_combination,
    check_payload_limit,
    check_types,
    checked_callee,
    declared_queues,
    expires_ms_of,
    is_list,
    is_module,
    kill_timeout_s_of,
    retry_of,
    seconds_or_none,
)
from qcore.durations import Seconds, seconds
from qcore.environment import broker_config
from qcore.errors import ArgumentError, ConfigError
from qcore.handle import JobHandle
from qcore.job_options import Settings
from qcore.model.callee import is_lazy, place_of
from qcore.model.codec import Arguments
from qcore.model.reference import parts_of
from qcore.model.retry import Retry
from qcore.per_process import importing
from qcore.queue import Queue, depth_limits_of, weights_of
from qcore.settings import BrokerConfig, check_name, check_type
from qcore.task import AsyncTask, SyncTask, Task
from qcore.uniqueness import Unique

if TYPE_CHECKING:
    from qcore.broker.per_loop import Brokers
    from qcore.broker.redis.blocking_producers import BlockingProducers
    from qcore.broker.redis.broker import Broker
    from qcore.broker.redis.inspector import Inspector

P = ParamSpec("P")
R = TypeVar("R")
Lifespan = Callable[[], AbstractAsyncContextManager[Any]]


class App:
    """Tasks, the queues they use, and the Redis where their jobs live.

    Args:
        url: Where Redis is; else `QCORE_URL`; else, on a terminal, the embedded server in
            `./.qcore`.
        queues: Every queue of the app, by name or as a `Queue`, most urgent first; workers drain
            them in this order.
        namespace: Prefix of all keys; else `QCORE_NAMESPACE`, else `qcore`. Apps with different
            namespaces share a Redis without seeing each other.
        include: Modules with tasks, as "proj.emails". Workers and the command import them when
            they have loaded the app, so that they may import the app themselves.
        payload_limit: Bytes of one job's arguments, and of one kept result, 1 KiB to 1 MiB; 128 KiB
            by default.
        enqueue_timeout: Until an enqueue gives up on Redis, 0.05 s to 1 h; 5 s by default.

    Raises:
        ConfigError: a name that cannot be part of a key, no queue at all, or a value out of range.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        queues: Sequence[str | Queue] = ("default",),
        namespace: str | None = None,
        include: Sequence[str] = (),
        payload_limit: int = 128 * 1024,
        enqueue_timeout: Seconds = 5.0,
    ) -> None:
        if url is not None:
            check_type("url", url, str, "text as redis://host:6379/0")
        declared = declared_queues(queues)
        self.queues = tuple(declared)
        #: One for each queue, or none: then they are served in strict order.
        self.weights = weights_of([(name, queue.weight) for name, queue in declared.items()])
        if namespace is not None:
            namespace = check_name("namespace", namespace)
        if not is_list(include) or not all(map(is_module, include)):
            raise ConfigError(f'include is {include!r}, give a list of modules: ["proj.emails"]')
        self.include = tuple(include)
        check_payload_limit(payload_limit)
        #: What is not known before it is opened is left out; a value out of range is refused here.
        self._limits = BrokerConfig(
            url="",
            payload_limit_bytes=payload_limit,
            enqueue_timeout_s=seconds("enqueue_timeout", enqueue_timeout),
            depth_limits=depth_limits_of(declared.values()),
        )
        self.depth_limits = self._limits.depth_limits
        self.tasks: dict[str, Task[Any, Any]] = {}
        self._url, self._namespace = url, namespace
        self._call_timeout_s: float | None = None
        self._lifespan: Lifespan | None = None
        self._made: Brokers | None = None

    # -- tasks ----------------------------------------------------------------------------------

    @overload
    def task(  # pyright: ignore[reportOverlappingOverload]
        self, function: Callable[Concatenate[Context, P], Coroutine[Any, Any, R]], /
    ) -> AsyncTask[P, R]: ...
    @overload
    def task(self, function: Callable[P, Coroutine[Any, Any, R]], /) -> AsyncTask[P, R]: ...
    @overload
    def task(self, function: Callable[Concatenate[Context, P], R], /) -> SyncTask[P, R]: ...
    @overload
    def task(self, function: Callable[P, R], /) -> SyncTask[P, R]: ...
    @overload
    def task(
        self,
        *,
        name: str | None = None,
        queue: str | Queue | None = None,
        timeout: Seconds | None = None,
        kill_timeout: Seconds | None = None,
        retry: Retry | int | None = None,
        keep: Seconds | None = None,
        run_in: Literal["thread", "process"] | None = None,
        expires: Seconds | None = None,
        exclusive: bool = False,
        at_most_once: bool = False,
        unique: Unique | None = None,
    ) -> Register: ...

    def task(  # noqa: PLR0913 - each is an option of the decorator
        self,
        function: Callable[..., Any] | None = None,
        *,
        name: str | None = None,
        queue: str | Queue | None = None,
        timeout: Seconds | None = None,
        kill_timeout: Seconds | None = None,
        retry: Retry | int | None = None,
        keep: Seconds | None = None,
        run_in: Literal["thread", "process"] | None = None,
        expires: Seconds | None = None,
        exclusive: bool = False,
        at_most_once: bool = False,
        unique: Unique | None = None,
    ) -> Any:
        """Register a function as a task; with or without options.

        Args:
            function: `async def` runs on the loop, `def` in a thread or a process.
            name: Under which jobs find the task again; `module.function` by default. Jobs that
                wait in Redis carry it, so keep it when the function moves.
            queue: Where its jobs go; by default "default" if declared, else the last queue.
            timeout: Until a run is cancelled and counts as failed. A thread cannot be stopped: its
                run is given up and goes on unseen. Durations are seconds, a timedelta, or text as
                "10m".
            kill_timeout: Until a run that does not stop at its `timeout` ends with the process
                that it runs in; by default 10 s after that. It counts as a crash, of this job
                alone. A process with a thread that still runs then is replaced.
            retry: When a failed job runs again; by default 5 attempts, 5 s to 135 s apart. A
                number stands for `Retry(max_attempts=...)`.
            keep: How long the outcome is kept; by default 24 h for results that are not None.
            run_in: For `def`: "thread" (default), or "process" for work that needs the CPU; the
                process is killed at the timeout.
            expires: After the enqueue, from when on no run may start: the job is cancelled
                instead. For jobs that are of no use later.
            exclusive: A job never overlaps with its own repetition: its run is cancelled, and
                given back uncharged, before its lease could end unrenewed. Not for threads, which
                nobody can stop.
            at_most_once: A run that was begun is never begun again: after a crash or a stop in the
                middle the job is dead. Costs a round trip before each run; no retries.
            unique: At most one job per key, by its arguments; see `Unique`.

        Raises:
            ConfigError: an option of another type, a name registered twice, an annotation that
                cannot be decoded, or a function that cannot run where it is asked to.
            UnknownQueue: the app does not declare `queue`.
        """

        def register(function: Callable[..., Any], /) -> Task[Any, Any]:
            function, own_name = checked_callee(function, name)
            queue_name = queue.name if isinstance(queue, Queue) else queue
            check_types(
                own_name,
                name=(name, str, "text"),
                queue=(queue_name, str, "a name"),
                exclusive=(exclusive, bool, "True or False"),
                at_most_once=(at_most_once, bool, "True or False"),
                unique=(unique, Unique, "Unique(...)"),
            )
            settings = Settings(
                name=own_name,
                queue=str.__str__(queue_name or self._default_queue),
                retry=retry_of(own_name, 1 if retry is None and at_most_once else retry),
                run_in=place_of(own_name, function, run_in),
                timeout_s=seconds_or_none(own_name, "timeout", timeout),
                kill_timeout_s=kill_timeout_s_of(own_name, timeout, kill_timeout),
                keep_s=seconds_or_none(own_name, "keep", keep),
                expires_ms=-1 if expires is None else expires_ms_of(own_name, expires),
                exclusive=exclusive,
                at_most_once=at_most_once,
                unique=unique,
            )
            return self._add(function, settings)

        return register if function is None else register(function)

    @property
    def _default_queue(self) -> str:
        return "default" if "default" in self.queues else self.queues[-1]

    def _add(self, function: Callable[..., Any], settings: Settings) -> Task[Any, Any]:
        if settings.name in self.tasks:
            raise ConfigError(
                f"task {settings.name} is registered twice: give one of them another name="
            )
        check_combination(settings)
        kind = cast(type[Task[Any, Any]], AsyncTask if settings.run_in == "loop" else SyncTask)
        task = kind(function, settings, app=self)
        self.tasks[settings.name] = task
        return task

    # -- life -----------------------------------------------------------------------------------

    def lifespan(
        self,
        function: Callable[[], AsyncIterator[Any]] | Lifespan,
    ) -> Callable[[], AsyncIterator[Any]] | Lifespan:
        """Register what each worker process enters before its first job and leaves at its end.

        An async generator function that yields once, or a function that returns an async context
        manager. What it yields is `ctx.state`.
        """
        if self._lifespan is not None:
            raise ConfigError("the app has a lifespan already: an app has one")
        is_generator = inspect.isasyncgenfunction(function)
        if not callable(function) or (is_lazy(function) and not is_generator):
            raise ConfigError(
                f"lifespan is {function!r}, give an async generator function that yields once, or "
                "one that returns an async context manager"
            )
        if is_generator:
            generator = cast(Callable[[], AsyncGenerator[Any, None]], function)
            self._lifespan = asynccontextmanager(generator)
        else:
            self._lifespan = cast(Lifespan, function)
        return function

    @asynccontextmanager
    async def lifespan_state(self) -> AsyncGenerator[Any, None]:
        """Enter the lifespan and yield its value; None without one. For workers."""
        if self._lifespan is None:
            yield None
        else:
            async with self._lifespan() as state:
                yield state

    def configure(self, *, url: str | None = None, namespace: str | None = None) -> None:
        """Override URL and namespace, as the command does for its flags; before `open`."""
        self._url = url or self._url
        self._namespace = namespace or self._namespace

    def work_at(self, broker: BrokerConfig) -> None:
        """Call on the Redis that a worker was told of, as it does; for workers and their pools."""
        self.configure(url=broker.url, namespace=broker.namespace)
        self._call_timeout_s = broker.call_timeout_s

    @contextmanager
    def override(
        self, *, url: str | None = None, namespace: str | None = None
    ) -> Generator[None, None, None]:
        """Use another Redis or namespace within a `with` block, as a test does.

        It holds for every thread and event loop of this process, `enqueue_sync` and its kin too.

        Raises:
            ConfigError: the app is open: it would go on with what it was opened with.
        """
        if self._brokers.is_open:
            raise ConfigError("the app is open: override its URL and namespace before it is opened")
        before = self._url, self._namespace
        self.configure(url=url, namespace=namespace)
        self._brokers.let_go()
        try:
            yield
        finally:
            self._url, self._namespace = before
            self._brokers.let_go()

    @property
    def config(self) -> BrokerConfig:
        """The broker settings: what was given, else the environment.

        Raises:
            ConfigError: no URL can be found.
        """
        found = broker_config(self._url, self._namespace)
        return msgspec.structs.replace(
            found,
            call_timeout_s=self._call_timeout_s or found.call_timeout_s,
            payload_limit_bytes=self._limits.payload_limit_bytes,
            enqueue_timeout_s=self._limits.enqueue_timeout_s,
            depth_limits=self.depth_limits,
        )

    @property
    def _brokers(self) -> "Brokers":
        if self._made is None:
            with importing:
                # with asyncio and redis it takes 17 MB: not for who only runs what others claim
                from qcore.broker.per_loop import Brokers

                self._made = self._made or Brokers(lambda: self.config)
        return self._made

    async def open(self) -> None:
        """Make the app ready to enqueue.

        May be called again, also by `async with` inside another one; the last `close` counts.

        Every event loop gets connections of its own, and so does a forked process. Loops that
        do not open an app that is open elsewhere may use it as well: their connections are
        closed when they end.

        Joins the embedded server where the URL names one, and connects to nothing otherwise.

        Raises:
            ConfigError: no URL, one that is none, or no embedded server to start.
            BrokerUnavailable: the embedded server did not come up in time.
        """
        await self._brokers.open()

    async def close(self) -> None:
        """Deliver what is on its way, and close every connection of this event loop.

        Nothing happens while this loop has opened the app more often than it has closed it.
        Cancelling drops what is on its way; it may have been enqueued.
        """
        await self._brokers.close()

    async def __aenter__(self) -> "App":
        await self.open()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    @property
    def broker(self) -> "Broker":
        """The broker of an open app, for the running event loop.

        Raises:
            ConfigError: the app is not open, or no event loop runs here.
        """
        return self._brokers.get()

    @property
    def producers(self) -> "BlockingProducers":
        """What enqueues for callers that block."""
        return self._brokers.producers

    @property
    def inspector(self) -> "Inspector":
        """What operators read and repair; of an open app."""
        return self._brokers.inspector()

    def job(self, ref: str) -> JobHandle[Any]:
        """Return a handle from its reference `QUEUE/ID`; nothing is looked up yet.

        Raises:
            ArgumentError: `ref` is no reference.
        """
        parts = parts_of(ref)
        if parts is None:
            raise ArgumentError(f"{ref!r} is no job reference: it reads QUEUE/ID")
        return JobHandle(lambda: self.inspector, *parts, decode=_untyped)


def _anything() -> Any: ...


_untyped = Arguments("job", _anything, Context).decode_result
