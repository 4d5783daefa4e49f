"""The names of all log events, with the fields that each carries, and the log that takes them.

The library never configures logging; the command does. Events are `noun.past_tense`.
"""

import inspect
import logging
import traceback
from contextvars import ContextVar
from typing import Any, Protocol

from qcore.model.job import JobState, Reclaimed
from qcore.per_process import imported_late

#: Of a trace in a log line: its end, which names the error.
_TRACE_CHARS = 4000
#: Event -> its fields. `tests/unit/test_telemetry.py` holds the code to this table.
EVENTS: dict[str, tuple[str, ...]] = {
    # jobs, by the worker; debug unless something is wrong
    "job.enqueued": (
        "job",
        "task",
        "queue",
        "key",
        "answer",
        "count",
        "same_arguments",
    ),
    "job.acked": ("job", "task", "queue", "attempt", "duration_ms"),
    "job.retried": ("job", "task", "queue", "attempt", "error", "delay_ms", "exception"),
    "job.parked": ("job", "task", "queue", "attempt", "error", "delay_ms"),
    "job.buried": ("job", "task", "queue", "attempt", "error", "exception"),
    "job.unclassified": ("job", "queue"),
    "job.unsettled": ("job", "task", "queue", "exception"),
    "job.condemned": ("job", "queue", "worker", "how"),
    "job.acquitted": ("job", "queue", "culprit"),
    "job.cancelled": ("job", "task", "queue", "attempt", "reason"),
    "job.released": ("job", "task", "queue", "attempt"),
    "job.abandoned": ("job", "task", "queue", "attempt"),
    "job.reclaimed": ("job", "queue", "owner", "to"),
    "job.recovered": ("job", "queue"),
    "record.refused": ("jobs", "queue", "error"),
    "lease.lost": ("job", "queue"),
    "job.overdue": ("job", "task", "queue", "attempt", "kill_timeout_s"),
    "loop.blocked": ("job", "task", "queue", "blocked_s", "stack"),
    "thread.hung": ("job", "task", "queue", "stack"),
    "watchdog.failed": (),
    "settle.unconfirmed": ("jobs",),
    # the way to Redis
    "broker.emptied": ("url", "queues"),
    "broker.lost": ("url", "error"),
    "wakeup.lost": ("error",),
    "broker.regained": ("url", "away_s"),
    "queue.unreadable": ("queue", "error"),
    "queue.lost": ("queue", "error"),
    "queue.regained": ("queue", "away_s"),
    "embedded.started": ("folder", "server", "pid"),
    "embedded.stopped": ("folder", "pid"),
    "embedded.died": ("folder", "pid", "last_words"),
    "embedded.failed": ("folder", "error"),
    # one worker process
    "worker.started": ("owner", "queues", "concurrency"),
    "worker.refused": ("error", "exception"),
    "worker.crashed": (),
    "orders.lost": (),
    "order.unknown": ("order",),
    "service.failed": ("service",),
    "worker.draining": ("running", "timeout_s"),
    "worker.dumped": ("running", "tasks", "threads"),
    "job.dumped": ("job", "task", "queue", "age_s", "stack"),
    "task.dumped": ("name", "stack"),
    "thread.dumped": ("name", "stack"),
    "worker.stopped": ("done", "unsettled"),
    # the supervisor
    "server.unchecked": ("url", "error"),
    "server.doubted": ("url", "why", "remedy"),
    "server.evicts": ("url", "why", "remedy"),
    "server.keeps": ("url",),
    "server.refused": ("url", "why", "remedy"),
    "tasks.none": ("app", "why", "remedy"),
    "clocks.doubted": ("what", "why", "remedy"),
    "supervisor.started": ("pid", "processes", "max_processes", "url"),
    "supervisor.draining": ("workers", "running", "oldest", "timeout_s"),
    "terminal.lost": (),
    "supervisor.hurried": ("workers",),
    "supervisor.quieted": ("workers",),
    "supervisor.resumed": ("workers",),
    "workers.scaled": ("was", "wanted", "why"),
    "roll.started": ("why", "workers"),
    "roll.finished": ("why", "workers"),
    "roll.failed": ("why", "left"),
    "exit.ordered": ("generation",),
    "registry.lost": ("error",),
    "registry.regained": ("away_s",),
    "supervisor.lost": ("name", "pid", "workers"),
    "manager.lost": ("socket", "error"),
    "supervisor.gave_up": ("failures",),
    "supervisor.stopped": ("exit_code",),
    "worker.spawned": ("worker", "pid", "owner"),
    "worker.ready": ("worker", "pid", "after_s"),
    "worker.exited": ("worker", "pid", "exit_code", "signal", "rss_bytes", "running"),
    "worker.failed": ("worker", "error"),
    "beat.unreadable": ("worker", "error"),
    "worker.killed": ("worker", "pid", "why", "jobs"),
    "worker.replaced": ("worker", "pid", "by", "why"),
    "replacement.failed": ("worker", "pid", "why"),
    "process.recycled": ("pid", "task", "left"),
    "threads.abandoned": ("count",),
    # the log itself, by the command
    "log.regained": ("dropped",),
}


class Sink(Protocol):
    """Takes the lines of qcore, instead of the program's own structlog."""

    def shows(self, level: str, event: str) -> bool:
        """Return whether a line of this event would be shown."""
        ...

    def emit(self, level: str, event: str, fields: dict[str, Any]) -> None:
        """Take one line; a field `exception` is a trace."""
        ...


class EventLog:
    """Where qcore logs, in whatever program it runs.

    Lines go to structlog as the program has configured it, or to `sink`. A configuration that
    cannot take them, or a line that cannot be written, never stops what is logged about: such
    lines go to the logger `qcore` of the standard library.
    """

    sink: Sink | None = None

    def get_ready(self) -> None:
        """Import what lines go to: the first one may be said where nothing can wait for it."""
        if self.sink is None:
            _structlog_logger()

    def debug(self, event: str, /, **fields: Any) -> None:
        """Log what only helps to find faults."""
        self._emit("debug", event, fields)

    def info(self, event: str, /, **fields: Any) -> None:
        """Log what happens in good order."""
        self._emit("info", event, fields)

    def warning(self, event: str, /, **fields: Any) -> None:
        """Log what somebody should look at."""
        self._emit("warning", event, fields)

    def error(self, event: str, /, **fields: Any) -> None:
        """Log what somebody must look at."""
        self._emit("error", event, fields)

    def exception(self, event: str, /, **fields: Any) -> None:
        """Log an error with the trace of the exception that is handled now."""
        # made here: renderers print local variables too, which may be secrets
        self._emit("error", event, {**fields, "exception": trace_of(None)})

    def shows(self, level: str, event: str) -> bool:
        """Return whether a line would be shown, for those whose fields cost something."""
        try:
            if self.sink is not None:
                return self.sink.shows(level, event)
            return bool(_structlog_logger().is_enabled_for(_LEVELS[level]))
        except Exception:  # noqa: BLE001 - a logger of another kind, which does not tell
            return level != "debug"

    def _emit(self, level: str, event: str, fields: dict[str, Any]) -> None:
        try:
            if self.sink is not None:
                self.sink.emit(level, event, fields)
            else:
                _to_structlog(level, event, fields)
        except Exception:  # noqa: BLE001 - whatever a program's processors raise
            _to_stdlib(level, event, fields)


_LEVELS = logging.getLevelNamesMapping() | {
    name.lower(): number for name, number in logging.getLevelNamesMapping().items()
}


@imported_late
def _structlog() -> Any:
    # with rich, which it imports, it takes 5 MB: a process with a sink never needs it
    import structlog

    return structlog


def _structlog_logger() -> Any:
    return _structlog().get_logger()


def _to_structlog(level: str, event: str, fields: dict[str, Any]) -> None:
    logged = getattr(_structlog_logger(), level)(event, **fields)
    if inspect.iscoroutine(logged):  # a logger for coroutines: nobody would await it
        logged.close()
        raise TypeError("the logger is asynchronous")


def _to_stdlib(level: str, event: str, fields: dict[str, Any]) -> None:
    try:
        said = " ".join((event, *(f"{name}={value}" for name, value in fields.items())))
        logging.getLogger("qcore").log(_LEVELS[level], "%s", said)
    except Exception:  # noqa: BLE001 - nobody is left to be told
        pass


log = EventLog()


class Job(Protocol):
    """A job that runs, as far as log lines know of it."""

    def log_fields(self) -> dict[str, Any]:
        """Return `job`, `task`, `queue` and `attempt`."""
        ...


#: On which job the code of this context works, with its threads. Each job pays for being set here:
#: nothing is made of it before a line is logged.
current_job: ContextVar[Job | None] = ContextVar("qcore_job", default=None)


def job_fields() -> dict[str, Any]:
    """Return the `job`, `task`, `queue` and `attempt` that the calling code works on.

    For the loggers of an app; empty outside of tasks. Costs nothing until it is called.
    """
    job = current_job.get()
    return {} if job is None else job.log_fields()


def trace_of(error: BaseException | None) -> str:
    """Return the trace of an exception, else of the one that is handled now, without variables.

    Of a long one the end is kept, which names the error.
    """
    try:
        lines = (
            traceback.format_exc() if error is None else "".join(traceback.format_exception(error))
        )
    except BaseException as e:  # noqa: BLE001 - a __str__ of the user's that raises
        return f"the trace cannot be made ({type(e).__name__})"
    text = lines.rstrip()
    return text if len(text) <= _TRACE_CHARS else f"[...] {text[-_TRACE_CHARS:]}"


def log_reclaimed(queue: str, reclaimed: list[Reclaimed]) -> None:
    """Log each job that was taken from its owner."""
    for item in reclaimed:
        log.warning("job.reclaimed", job=item.id, queue=queue, owner=item.owner, to=item.to)


def trace_in(state: JobState) -> dict[str, str]:
    """Return the last error of a record for a log line, where it is more than a line of words."""
    text = state.errors[-1].text.rstrip() if state.errors else ""
    return {"exception": text} if "\n" in text else {}
