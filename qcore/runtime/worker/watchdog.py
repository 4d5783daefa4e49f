"""A thread that sees what the event loop of its process cannot tell: which job holds it up."""

import asyncio
import threading
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from qcore.model.reading import text_of
from qcore.runtime.ipc.messages import Alarm
from qcore.runtime.worker.awaiters import awaiting
from qcore.runtime.worker.running_job import Running
from qcore.runtime.worker.stacks import dump, stack_of_thread
from qcore.runtime.worker.threads import Thread
from qcore.runtime.worker.worker import Worker
from qcore.task import Task
from qcore.telemetry import log

_LOOK_S = 0.25
#: Looks for which a late one counts at most: a process that was stopped and goes on has not
#: been blocked meanwhile, and its jobs have had no time to end.
_COUNTED_LOOKS = 3


class Watchdog:
    """Watches the event loop that runs in the thread that makes it.

    Of two misdeeds it tells the supervisor, who alone judges: a job that holds the loop, and one
    that still runs at its kill timeout. A thread that does is only logged: beats tell of it. No
    job pays for this: between looks, a few times a second, nothing is written down.

    Args:
        worker: Whose jobs may be to blame.
        tasks: The app's tasks by name.
        limit_s: A loop that stands still for longer is logged, with who holds it.
        tell: Sends an alarm; returns False when it could not be taken.
    """

    def __init__(
        self,
        worker: Worker,
        tasks: Mapping[str, Task[Any, Any]],
        limit_s: float,
        *,
        tell: Callable[[Alarm], bool],
    ) -> None:
        self._worker = worker
        self._tasks = tasks
        self._limit_s = limit_s
        self._tell = tell
        self._loop = asyncio.get_running_loop()
        self._loop_thread = threading.get_ident()
        self._over = threading.Event()
        self._lag_s = 0.0
        #: The loop has answered the last call; it is called again then.
        self._has_answered = True
        self._called_at = 0.0
        #: How long it has not, and when that is logged next.
        self._still_s, self._log_at_s = 0.0, limit_s
        #: The asyncio task that has held the loop at each look since then, and for how long.
        self._holder: asyncio.Task[Any] | None = None
        self._held_s = 0.0
        self._accused: str | None = None
        #: Jobs that run on after their timeout, and for how long that has been seen.
        self._late_s: dict[bytes, float] = {}
        self._told: set[bytes] = set()
        self._has_dumped = False
        self._seen: set[Thread] = set()

    @contextmanager
    def watching(self) -> Generator[None]:
        """Watch until the block ends."""
        thread = threading.Thread(target=self._run, name="qcore-watchdog", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._over.set()
            # it may hang in a log line that nobody takes
            thread.join(1.0)

    def take_lag_s(self) -> float:
        """Return the longest time that the loop took to answer since the last call of this."""
        lag_s, self._lag_s = self._lag_s, 0.0
        return lag_s

    def _run(self) -> None:
        step_s = min(_LOOK_S, self._limit_s / 4)
        last = time.monotonic()
        while not self._over.wait(step_s):
            now = time.monotonic()
            passed_s, last = min(now - last, _COUNTED_LOOKS * step_s), now
            try:
                self._look_at_loop(passed_s)
                self._look_at_jobs(passed_s)
                self._look_at_threads()
            except Exception:
                if self._loop.is_closed():
                    return
                log.exception("watchdog.failed")

    # -- the loop -------------------------------------------------------------------------------

    def _look_at_loop(self, passed_s: float) -> None:
        if not self._has_answered:
            self._still_s += passed_s
            self._see_holder(passed_s)
            return
        self._still_s, self._log_at_s = 0.0, self._limit_s
        self._holder = self._accused = None
        self._has_answered, self._called_at = False, time.monotonic()
        self._loop.call_soon_threadsafe(self._answer)

    def _answer(self) -> None:
        self._lag_s = max(self._lag_s, time.monotonic() - self._called_at)
        self._has_answered = True

    def _see_holder(self, passed_s: float) -> None:
        holder = asyncio.current_task(self._loop)
        self._held_s = passed_s + (self._held_s if holder is self._holder else 0.0)
        self._holder = holder
        if self._still_s < self._limit_s:
            return
        job = self._job_of(holder)
        # many that hold it for a moment each, one after the other: none of them is the one
        token = text_of(job.lease.token) if job and self._held_s >= self._limit_s else ""
        if token != self._accused and self._tell(Alarm(token)):
            self._accused = token
        if self._still_s >= self._log_at_s:
            self._log_at_s = 2 * self._still_s
            name = job.task_name if job else holder.get_name() if holder else ""
            log.warning(
                "loop.blocked",
                job=job.lease.id if job else None,
                task=name,
                queue=job.lease.queue if job else None,
                blocked_s=round(self._still_s, 3),
                stack=stack_of_thread(self._loop_thread),
            )

    def _job_of(self, task: asyncio.Task[Any] | None) -> Running | None:
        """Return the job whose task this is; else the only one that waits for it."""
        if task is None:
            return None
        jobs = {running.task: running for running in self._worker.jobs.all()}
        if task in jobs:
            return jobs[task]
        found = [jobs[waiter] for waiter in awaiting(task) if waiter in jobs]
        return found[0] if len(found) == 1 else None

    # -- jobs -----------------------------------------------------------------------------------

    def _look_at_jobs(self, passed_s: float) -> None:
        now, late_s = time.monotonic(), dict[bytes, float]()
        overdue: list[tuple[Running, float]] = []
        for running in self._worker.jobs.all():
            if running.deadline is None or running.deadline > now:
                continue
            token = running.lease.token
            late_s[token] = self._late_s.get(token, 0.0)
            # while another one holds the loop it is not told, and cannot end
            if not self._still_s or self._job_of(self._holder) is running:
                late_s[token] += passed_s
            settings = self._tasks[running.task_name].settings
            if late_s[token] >= settings.grace_s and token not in self._told:
                overdue.append((running, settings.kill_timeout_s or 0.0))
        self._late_s = late_s
        if overdue:
            self._report(overdue)

    def _report(self, overdue: Sequence[tuple[Running, float]]) -> None:
        """Log what goes on, and who is to blame; the supervisor kills when it hears of it."""
        if not self._has_dumped:
            self._has_dumped = True
            dump(self._worker.jobs.all(), self._loop)
        for running, limit_s in overdue:
            log.error("job.overdue", **running.log_fields(), kill_timeout_s=limit_s)
            token = running.lease.token
            if self._tell(Alarm(text_of(token), limit_s)):
                self._told.add(token)

    def _look_at_threads(self) -> None:
        for thread in self._worker.hung_threads():
            if thread not in self._seen:
                self._seen.add(thread)
                stack = stack_of_thread(thread.ident)
                log.error(
                    "thread.hung",
                    job=thread.job,
                    task=thread.task,
                    queue=thread.queue,
                    stack=stack,
                )
