"""The course of `qcore demo`: books, dispatch, workers, and the check of what came out.

Imported once the example is on the path. The workers start before the first job is enqueued, and
the end is not believed but read: every document is hashed again.
"""

import asyncio
import fcntl
import json
import os
import shlex
import signal
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import cast

import anyio

from qcore import BrokerUnavailable, ConfigError, QcoreError
from qcore.model.views import QueueStats
from qcore.runtime.supervisor.supervisor import Supervisor
from qcore.settings import SupervisorConfig, WorkerConfig
from qcore_cli.child import worker_command
from qcore_cli.demo.view import (
    Report,
    Snapshot,
    choose_view,
    mib,
    print_report,
    print_sum,
    say,
)
from qcore_cli.logs import LogStyle, last_words, logs_to
from school_audit import books, folder, results
from school_audit.app import app, audit_student

QUEUE = "audits"
CHUNK = 500
APP_PATH = "school_audit.app:app"
INTERRUPTED = 130
_LOOK_EVERY_S = 0.25
_AGAIN_S = 1.0
#: After so many jobs a worker has imported what it needs.
_WARM_JOBS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What the command was asked for."""

    students: int | None
    seed: int | None
    csv: tuple[Path, Path] | None
    folder: Path
    processes: int
    url: str | None
    verify: bool
    fresh: bool
    as_json: bool


@dataclass(slots=True, kw_only=True)
class Course:
    """What is known of a run while it goes on."""

    total: int
    since_batch: int
    dispatched: bool = False
    interrupted: bool = False
    seconds: float = 0.0
    rss_max: int = 0
    #: Memory of each worker, by pid, when a fifth was done and when last seen.
    rss_early: dict[int, int] = field(default_factory=dict[int, int])
    rss_last: dict[int, int] = field(default_factory=dict[int, int])
    #: Student id, as far as the job can be read, and why.
    dead: list[tuple[int | None, str]] = field(default_factory=list[tuple[int | None, str]])


def run(plan: Plan) -> int:
    """Run the demo; return the exit code: 0 when every document is there or its job says why not.

    Raises:
        QcoreError: the demo cannot be run as asked.
    """
    try:
        plan.folder.mkdir(parents=True, exist_ok=True)
        with _alone(plan.folder), logs_to(plan.folder / "demo.log"):
            facts = _prepare(plan)
            with results.opened(plan.folder, create=True) as ledger:
                return asyncio.run(_Demo(plan, facts, ledger).run())
    except books.BooksError as error:
        raise ConfigError(str(error)) from error
    except OSError as error:
        raise ConfigError(f"cannot work in {plan.folder}: {error}") from error


class _Demo:
    """One call of the command."""

    def __init__(self, plan: Plan, facts: books.Facts, ledger: results.Results) -> None:
        self._plan = plan
        self._facts = facts
        self._ledger = ledger
        app.configure(url=plan.url or f"embedded://{plan.folder / 'queue'}")
        self._shown_url = ""

    async def run(self) -> int:
        """Run from the first look to the last; return the exit code."""
        if self._plan.verify:
            self._name_faults()
        course = Course(
            total=sum(1 for _ in self._ledger.unmade()), since_batch=self._ledger.batch() + 1
        )
        if course.total:
            async with app:
                await app.inspector.queues([QUEUE])  # a Redis that is not there is told at once
                try:
                    await self._work(course)
                except BaseExceptionGroup as errors:
                    raise _first(errors) from errors
                course.dead = await self._dead(course.since_batch)
        else:
            say("nothing to do: every document is there")
        return self._conclude(course)

    def _name_faults(self) -> None:
        """Name what is missing or corrupt, and strike it off the ledger so that it is made."""
        struck: list[int] = []
        for fault in self._ledger.faults():
            say(f"{fault.kind}: student {fault.student_id}: {fault.path}: {fault.why}")
            struck.append(fault.student_id)
        for student_id in self._ledger.unmade():
            path = results.path_of(student_id, self._facts.month)
            say(f"missing: student {student_id}: {path}: no record of it")
        self._ledger.forget(struck)

    # -- the run --------------------------------------------------------------------------------

    async def _work(self, course: Course) -> None:
        """Start workers, enqueue, watch until the queue is empty, drain."""
        self._shown_url = app.broker.shown_url
        say(f"{course.total:,} audits of {self._facts.month} to make; log in {self._log_path}")
        supervisor = Supervisor(
            SupervisorConfig(processes=self._plan.processes, name="demo"),
            # one job more than it runs: the next one is there when a document is done
            WorkerConfig(queues=(QUEUE,), concurrency=2),
            command=worker_command(APP_PATH, LogStyle()),
            broker=app.broker,
        )
        began = time.monotonic()
        ended = _Ended()
        async with anyio.create_task_group() as group:
            with _stopping_on_signals(supervisor, course):
                group.start_soon(ended.wait_for, supervisor)
                group.start_soon(self._dispatch, course)
                await self._watch(course, supervisor, ended)
                course.seconds = time.monotonic() - began
                supervisor.drain()
                await ended.event.wait()
            group.cancel_scope.cancel()
        if ended.code:
            words = last_words(self._log_path) or f"see {self._log_path}"
            raise QcoreError(f"the workers ended with exit code {ended.code}: {words}")

    async def _dispatch(self, course: Course) -> None:
        """Enqueue a job for everyone without a document; after a failure, for what is left then.

        Each try is a new batch, which supersedes the jobs of the last one: whatever a failed call
        left behind in the queue does nothing when it runs.
        """
        inspector, where = app.inspector, self._plan.folder
        while not course.interrupted:
            # its own connection: reading on holds a snapshot, which the progress must not see
            with results.opened(where) as ledger:
                batch = ledger.begin_batch()
                calls = (
                    (student_id, self._facts.month, str(where), batch)
                    for student_id in ledger.unmade()
                )
                try:
                    await inspector.clear(QUEUE)
                    await inspector.purge(QUEUE, older_than_s=0)
                    await audit_student.enqueue_many(calls, chunk=CHUNK)
                except BrokerUnavailable as error:
                    say(f"the dispatch failed and begins again: {error}")
                else:
                    course.dispatched = True
                    return
            await anyio.sleep(_AGAIN_S)

    async def _watch(self, course: Course, supervisor: Supervisor, ended: "_Ended") -> None:
        """Show the run until the queue is empty, the workers have ended, or a signal came."""
        with choose_view() as view:
            while not (ended.event.is_set() or course.interrupted):
                dispatched, queue = course.dispatched, await _depth()
                done = self._ledger.made(course.since_batch)
                self._measure(course, supervisor, done)
                if queue is not None:
                    view.show(
                        Snapshot(
                            total=course.total,
                            done=done,
                            dead=queue.dead,
                            ready=queue.ready,
                            active=queue.active,
                            wait_p50_ms=self._ledger.wait_ms(course.since_batch, 0.5),
                            workers=supervisor.workers(),
                        )
                    )
                    if dispatched and not (queue.ready or queue.scheduled or queue.active):
                        return
                await anyio.sleep(_LOOK_EVERY_S)

    def _measure(self, course: Course, supervisor: Supervisor, done: int) -> None:
        """Note the memory of each worker; one that has just started has not loaded all it needs."""
        views = supervisor.workers()
        course.rss_max = max([course.rss_max, *(view.rss_bytes for view in views)])
        now = {view.pid: view.rss_bytes for view in views if view.done >= _WARM_JOBS}
        course.rss_last.update(now)
        if done >= course.total * 0.2 and not course.rss_early:
            course.rss_early = now

    async def _dead(self, since_batch: int) -> list[tuple[int | None, str]]:
        """Return the dead jobs of this run: student and reason."""
        found: list[tuple[int | None, str]] = []
        seen = 0
        while records := await app.inspector.dead(QUEUE, limit=500, skip=seen):
            seen += len(records)
            for record in records:
                named = audit_student.arguments.decode(record.payload) if record.payload else {}
                if named.get("batch", since_batch) >= since_batch:
                    found.append((named.get("student_id"), record.reason or "unknown"))
        return found

    # -- the end --------------------------------------------------------------------------------

    def _conclude(self, course: Course) -> int:
        """Check every document, print what came out, return the exit code."""
        faults = list(self._ledger.faults())
        for fault in faults:
            say(f"{fault.kind}: student {fault.student_id}: {fault.path}: {fault.why}")
        for _, reason in sorted(course.dead, key=lambda dead: dead[0] or 0):
            say(f"dead: {reason}")
        totals, since = self._ledger.totals(), course.since_batch
        dead_ids = {student_id for student_id, _ in course.dead}
        missing = sum(1 for student_id in self._ledger.unmade() if student_id not in dead_ids)
        missing += sum(1 for fault in faults if fault.kind == "missing")
        report = Report(
            students=self._facts.students,
            ok=totals.documents - len(faults),
            dead=len(course.dead),
            missing=missing,
            corrupt=sum(1 for fault in faults if fault.kind == "corrupt"),
            duplicates=totals.duplicates,
            seconds=round(course.seconds, 2),
            per_minute=round(60 * self._ledger.made(since) / (course.seconds or 1), 1),
            wait_p50_ms=self._ledger.wait_ms(since, 0.50),
            wait_p99_ms=self._ledger.wait_ms(since, 0.99),
            rss_max_mb=round(course.rss_max / 2**20, 1),
        )
        self._tell(report, course, totals)
        if self._plan.as_json:
            say(json.dumps(asdict(report)))
        if course.interrupted:
            return INTERRUPTED
        wrong = report.missing or report.corrupt or (self._plan.verify and report.dead)
        return 1 if wrong else 0

    def _tell(self, report: Report, course: Course, totals: results.Totals) -> None:
        if course.total:
            print_report(report, self._plan.processes)
        print_sum(report)
        for pid, early in course.rss_early.items():
            if late := course.rss_last.get(pid):
                say(
                    f"worker {pid} with its pool: {mib(early)} at 20 %, "
                    f"{mib(late)} at the end (x {late / early:.2f})"
                )
        if totals.unbalanced:
            say(f"{totals.unbalanced:,} documents say that the double entry does not balance")
        where = shlex.quote(str(self._plan.folder))
        if course.interrupted:
            say(f"interrupted; to go on where it stopped: qcore demo --folder {where}")
        elif report.missing or report.corrupt:
            say(f"to name and mend them: qcore demo --verify --folder {where}")
        if course.dead:
            say(
                f"the dead jobs: qcore dead list {QUEUE} --namespace school_audit"
                f" --url {shlex.quote(self._shown_url)}"
            )

    @property
    def _log_path(self) -> Path:
        return self._plan.folder / "demo.log"


class _Ended:
    """The end of the supervisor."""

    def __init__(self) -> None:
        self.event = anyio.Event()
        self.code = 0

    async def wait_for(self, supervisor: Supervisor) -> None:
        self.code = await supervisor.run()
        self.event.set()


async def _depth() -> QueueStats | None:
    """Return the depth of the queue; None while Redis is away, which the workers outlast."""
    try:
        return (await app.inspector.queues([QUEUE]))[0]
    except BrokerUnavailable:
        return None


def _first(error: BaseException) -> BaseException:
    """Return the one error to show: a task group wraps even a single one."""
    while isinstance(error, BaseExceptionGroup):
        error = cast("BaseExceptionGroup[BaseException]", error).exceptions[0]
    return error


@contextmanager
def _stopping_on_signals(supervisor: Supervisor, course: Course) -> Generator[None]:
    """Drain at the first SIGINT or SIGTERM, stop at once at the second."""
    loop = asyncio.get_running_loop()

    def on_signal() -> None:
        if course.interrupted:
            supervisor.stop_now()
        else:
            say("stopping: the workers finish what they run; once more stops at once")
            course.interrupted = True
            supervisor.drain()

    numbers = (signal.SIGINT, signal.SIGTERM)
    for number in numbers:
        loop.add_signal_handler(number, on_signal)
    try:
        yield
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)


# -- the folder ---------------------------------------------------------------------------------


def _prepare(plan: Plan) -> books.Facts:
    """Return the books of the folder, made or imported if they are not there."""
    if plan.fresh:
        folder.clean(plan.folder)
    if plan.verify and not (plan.folder / results.BOOKS).exists():
        raise ConfigError(f"{plan.folder} holds no demo to verify: run qcore demo first")
    wanted = folder.Wanted(csv=plan.csv, students=plan.students, seed=plan.seed)
    found = folder.open_books(plan.folder, wanted)
    results.sweep(plan.folder)
    say(f"{found.students:,} students, {found.lines:,} ledger lines; {found.source}")
    return found


@contextmanager
def _alone(folder: Path) -> Generator[None]:
    """Keep a second demo out of the folder; the lock goes with this process, however it ends."""
    fd = os.open(folder / "demo.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(f"another qcore demo is running in {folder}") from None
        yield
    finally:
        os.close(fd)
