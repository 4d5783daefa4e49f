"""The course of `qcore bench`: round trips, enqueues, a drain, pickups; then nothing is left.

Nothing but keys of its own queues, in a namespace that was never used, is written or removed.
"""

import asyncio
import itertools
import signal
import tempfile
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from qcore import QcoreError
from qcore.broker.redis.broker import Broker
from qcore.broker.redis.inspector import Inspector
from qcore.broker.redis.namespace import drop_ready
from qcore.broker.redis.server_checks import check_version
from qcore.broker.redis.server_usage import cpu_s, ping
from qcore.model.fleet import WorkerState
from qcore.runtime.supervisor.supervisor import Supervisor
from qcore.settings import BrokerConfig, SupervisorConfig, WorkerConfig
from qcore_cli.bench.producer import TASKS, Producer
from qcore_cli.bench.report import Drain, Enqueue, Millis, Report, Settings
from qcore_cli.bench.server import admit, check_unused, clean, max_jobs
from qcore_cli.bench.tasks import app, begun
from qcore_cli.bench.usage import Usage
from qcore_cli.bench.verdict import Load, judge
from qcore_cli.bench.view import Screen
from qcore_cli.child import run_loop, worker_command
from qcore_cli.logs import LogStyle, last_words, logs_to
from qcore_cli.terminal import echo

INTERRUPTED = 130
_LOOK_EVERY_S = 0.05
#: After so long all workers are at work.
_WARM_S = 0.2
#: Pause between two pickups, in which a worker has come to rest.
_REST_S = 0.01
#: An idle worker that has not begun a job by then never will.
_PICKUP_S = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What the command was asked for."""

    broker: BrokerConfig
    worker: WorkerConfig
    settings: Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class _Left:
    """Jobs in all queues."""

    ready: int
    active: int
    others: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Look:
    """The state of the drain at one moment."""

    done: int
    usage: Usage
    server_cpu_s: dict[str, float]


def run(plan: Plan, view: Screen) -> int:
    """Measure and show; return the exit code.

    Raises:
        QcoreError: it cannot be measured as asked.
    """
    with tempfile.NamedTemporaryFile(prefix="qcore-bench-", suffix=".log") as file:
        log = Path(file.name)
        try:
            with logs_to(log):
                report = run_loop(_measure(plan, view, log))
        except asyncio.CancelledError:
            echo("qcore: interrupted; nothing is left in Redis", err=True)
            return INTERRUPTED
    view.end(report)
    return 0


async def _measure(plan: Plan, view: Screen, log: Path) -> Report:
    """Measure, and leave nothing behind."""
    task = asyncio.current_task()
    assert task is not None

    def interrupt() -> None:
        _on_signals(_ignore)  # a second one must not stop the cleaning up
        task.cancel()

    _on_signals(interrupt)
    broker, queues = Broker(plan.broker), plan.worker.queues
    try:
        await broker.open()
        info = await admit(broker)
        most = max_jobs(plan.settings.payload_bytes, info)
        await check_unused(broker, queues)
        server = check_version(info).said if info else "unknown server"
        view.begin(broker.shown_url, server, plan.broker.namespace, plan.settings)
        try:
            producer = Producer(broker, queues, plan.settings, most=most)
            return await _Bench(plan, view, broker, producer, log).run(server)
        finally:
            _on_signals(_ignore)
            await clean(broker, queues)
    finally:
        await broker.close()


def _on_signals(call: Callable[[], None]) -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, call)


def _ignore() -> None: ...


class _Bench:
    """One call of the command, on a namespace that holds nothing."""

    def __init__(
        self, plan: Plan, view: Screen, broker: Broker, producer: Producer, log: Path
    ) -> None:
        self._plan = plan
        self._view = view
        self._broker = broker
        self._producer = producer
        self._log = log
        self._queues = plan.worker.queues
        self._supervising: asyncio.Task[int] | None = None

    async def run(self, server: str) -> Report:
        """Take one measurement after the other."""
        plan, view, producer = self._plan, self._view, self._producer
        app.configure(url=plan.broker.url, namespace=plan.broker.namespace)
        async with app:
            round_trip_ms = await view.step("round trip to Redis", self._round_trips())
            enqueue = Enqueue(
                one_by_one=await view.step("enqueue, one by one", producer.alone()),
                concurrent_per_s=await view.step(
                    f"enqueue, {TASKS} tasks", producer.concurrent_per_s()
                ),
                many_per_s=await view.step("enqueue_many", producer.many_per_s()),
            )
            async with self._workers() as supervisor:
                draining = self._drain(supervisor, round_trip_ms.p50, enqueue.one_by_one.ms.p50)
                load = await view.step("drain", draining)
                pickup_ms = await view.step("pickup by an idle worker", self._pickups())
        verdict = judge(load)
        return Report(
            url=self._broker.shown_url,
            server=server,
            namespace=plan.broker.namespace,
            settings=plan.settings,
            round_trip_ms=round_trip_ms,
            enqueue=enqueue,
            drain=Drain.of(load),
            pickup_ms=pickup_ms,
            bottleneck=verdict.bottleneck,
            because=verdict.because,
            advice=verdict.advice,
        )

    async def _round_trips(self) -> Millis:
        return Millis.of(await self._producer.spans(0, lambda _: ping(self._broker)))

    @asynccontextmanager
    async def _workers(self) -> AsyncGenerator[Supervisor]:
        """Run worker processes as `qcore worker` does."""
        supervisor = Supervisor(
            SupervisorConfig(processes=self._plan.settings.processes, name="bench"),
            self._plan.worker,
            command=worker_command("qcore_cli.bench.tasks:app", LogStyle()),
            broker=self._broker,
        )
        self._supervising = asyncio.create_task(supervisor.run())
        try:
            yield supervisor
        finally:
            supervisor.stop_now()
            await self._supervising

    # -- the drain ------------------------------------------------------------------------------

    async def _drain(self, supervisor: Supervisor, ping_ms: float, write_ms: float) -> Load:
        """Let the workers drain, and keep jobs ready for them."""
        settings = self._plan.settings
        while not self._are_running(supervisor):
            await self._tend()
        # with jobs that wait, until the ends of the first ones have drifted apart
        await self._keep_fed(max(_WARM_S, settings.task_ms * 1.5 / 1000))
        before = await self._look(supervisor)
        starved = await self._keep_fed(max(settings.seconds, settings.task_ms * 4 / 1000))
        after = await self._look(supervisor)
        seconds, jobs = after.usage.at - before.usage.at, after.done - before.done
        if jobs <= 0:
            raise QcoreError(f"the workers ended no job in {seconds:.0f} s: {self._words()}")
        shares = after.usage.since(before.usage)
        # without /proc: what the processes said of their last second
        said = [worker.cpu for worker in supervisor.workers()]
        python = shares.process
        if python is None and said:
            python = round(fmean(said), 3)
        return Load(
            processes=settings.processes,
            concurrency=settings.concurrency,
            payload_bytes=settings.payload_bytes,
            task_ms=settings.task_ms,
            cores=settings.cores,
            per_s=jobs / seconds,
            ping_ms=ping_ms,
            write_ms=write_ms,
            python=python,
            redis=_share_of_server(before, after),
            machine=shares.machine,
            throttled=shares.throttled,
            starved=starved,
        )

    def _are_running(self, supervisor: Supervisor) -> bool:
        workers = supervisor.workers()
        running = sum(worker.state is WorkerState.RUNNING for worker in workers)
        return running == self._plan.settings.processes

    async def _keep_fed(self, seconds: float) -> float:
        """Keep jobs ready for so long; return the share of the time with none."""
        began = seen_at = time.monotonic()
        empty_s = 0.0
        while seen_at < began + seconds:
            has_ready = await self._tend()
            now = time.monotonic()
            empty_s += 0.0 if has_ready else now - seen_at
            seen_at = now
        return empty_s / (seen_at - began)

    async def _tend(self) -> bool:
        """Enqueue more when it is time, else wait a moment; return whether jobs were ready."""
        self._check_supervisor()
        left = await self._left()
        if not await self._producer.refill(left.ready):
            await asyncio.sleep(_LOOK_EVERY_S)
        return left.ready > 0

    async def _look(self, supervisor: Supervisor) -> _Look:
        left = await self._left()
        return _Look(
            done=self._producer.enqueued - left.ready - left.active - left.others,
            usage=Usage.now(worker.pid for worker in supervisor.workers()),
            server_cpu_s=await cpu_s(self._broker, self._queues),
        )

    async def _left(self) -> _Left:
        stats = await Inspector(self._broker).queues(self._queues)
        return _Left(
            ready=sum(s.ready for s in stats),
            active=sum(s.active for s in stats),
            others=sum(s.scheduled + s.dead for s in stats),
        )

    # -- idle workers ---------------------------------------------------------------------------

    async def _pickups(self) -> Millis:
        """Measure from the call of `enqueue` to the first line of the task, with nothing to do."""
        await drop_ready(self._broker, self._queues)
        while (await self._left()).active:
            self._check_supervisor()
            await asyncio.sleep(_LOOK_EVERY_S)
        spans: list[float] = []
        end = time.monotonic() + self._plan.settings.seconds
        for queue in itertools.cycle(self._queues):
            self._check_supervisor()
            asked_at = time.monotonic()
            job = await begun.options(queue=queue).enqueue()
            try:
                spans.append(await job.result(timeout=_PICKUP_S) - asked_at)
            except TimeoutError as e:
                raise QcoreError(f"{e}, and the workers are idle: {self._words()}") from None
            await asyncio.sleep(_REST_S)
            if time.monotonic() >= end:
                break
        return Millis.of(spans)

    def _check_supervisor(self) -> None:
        if self._supervising is not None and self._supervising.done():
            code = self._supervising.result()
            raise QcoreError(f"the workers ended with exit code {code}: {self._words()}")

    def _words(self) -> str:
        return last_words(self._log) or "they logged nothing"


def _share_of_server(before: _Look, after: _Look) -> float | None:
    """Return how busy Redis was; of several nodes, the busiest."""
    nodes = before.server_cpu_s.keys() & after.server_cpu_s.keys()
    spent_s = [after.server_cpu_s[node] - before.server_cpu_s[node] for node in nodes]
    seconds = after.usage.at - before.usage.at
    return round(max(spent_s) / seconds, 3) if spent_s else None
