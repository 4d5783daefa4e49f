"""How the command logs: to standard error, for people or as JSON lines.

Three sources come together in one writer: qcore's own lines, those that an app logs through
structlog, and those of the standard library.
"""

import logging
import os
import stat
import sys
from collections.abc import Callable, Generator, Mapping, MutableMapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Any, cast

import msgspec

from qcore.environment import wants_color
from qcore.telemetry import job_fields, log, trace_of
from qcore_cli.late_import import when_imported
from qcore_cli.log_lines import json_line, terminal_line, text_line
from qcore_cli.log_writer import LogWriter


class LogFormat(StrEnum):
    """What a log line looks like."""

    CONSOLE = "console"
    JSON = "json"


class LogLevel(StrEnum):
    """The least that is logged."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class LogStyle(msgspec.Struct, frozen=True):
    """How a supervisor and all its processes log."""

    form: LogFormat = LogFormat.CONSOLE
    level: LogLevel = LogLevel.INFO
    #: The width of the terminal at which somebody watches; 0: nobody does.
    columns: int = 0

    def word(self) -> str:
        """Return it as one word of a command line."""
        return msgspec.json.encode(self).decode()

    @staticmethod
    def read(word: str) -> "LogStyle":
        """Return what `word` said."""
        return msgspec.json.decode(word, type=LogStyle)


_LEVELS = {str(level): logging.getLevelNamesMapping()[level.upper()] for level in LogLevel}
#: What a record of the standard library has besides `extra`.
_RECORD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_writer: LogWriter | None = None


def configure_logging(
    form: LogFormat, level: int = logging.INFO, *, everywhere: Mapping[str, object] | None = None
) -> None:
    """Send what is logged at `level` and above to standard error.

    Args:
        form: What a line looks like.
        level: The least one that is shown.
        everywhere: Fields of every line that does not say otherwise. They are no context
            variables, which a thread does not inherit.
    """
    names = {number: name for name, number in _LEVELS.items()}
    style = LogStyle(form, LogLevel(names[level]), columns_of_terminal())
    set_up_logging(style, everywhere=everywhere)


def set_up_logging(style: LogStyle, *, everywhere: Mapping[str, object] | None = None) -> None:
    """Send what is logged to standard error, in a style; see `configure_logging`."""
    global _writer
    if _writer is not None:
        _writer.close()
    lines = _Lines(style, everywhere or {})
    _writer = lines.writer
    log.sink = lines
    # with rich, which it imports, it takes 5 MB: only an app that logs through it pays for it
    when_imported("structlog", partial(_configure_structlog, lines, _LEVELS[style.level]))
    root = logging.getLogger()
    for handler in [*root.handlers]:
        if isinstance(handler, _Handler):
            root.removeHandler(handler)
    root.addHandler(_Handler(lines))
    root.setLevel(_LEVELS[style.level])
    logging.captureWarnings(True)


def _configure_structlog(lines: "_Lines", level: int) -> None:
    import structlog

    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.StackInfoRenderer(),
            lines.take_structlog,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.ReturnLoggerFactory(),
        cache_logger_on_first_use=True,
    )


class _Lines:
    """Makes a line of whatever is logged, and writes it; no method raises."""

    def __init__(self, style: LogStyle, everywhere: Mapping[str, object]) -> None:
        self._everywhere = dict(everywhere)
        self._min = _LEVELS[style.level]
        self._acks = bool(style.columns) and self._min <= logging.INFO
        self._render = self._renderer(style)
        self.writer = LogWriter(2, self._regained)

    @staticmethod
    def _renderer(style: LogStyle) -> Callable[[Mapping[str, Any]], str]:
        if style.form is LogFormat.JSON:
            return json_line
        if not style.columns:
            return text_line
        color = wants_color(sys.stderr)
        return lambda event: terminal_line(event, style.columns, color=color)

    def shows(self, level: str, event: str) -> bool:
        """Return whether a line would be shown: of jobs that ended well to who watches."""
        return _LEVELS[level] >= self._min or (self._acks and event == "job.acked")

    def emit(self, level: str, event: str, fields: Mapping[str, Any]) -> None:
        """Write a line of qcore, which names the job that it is about."""
        if self.shows(level, event):
            self._write(level, event, {**self._everywhere, **fields})

    def take_structlog(self, _: object, name: str, fields: MutableMapping[str, Any]) -> str:
        """Write a line of the app: the last of its processors."""
        event = fields.pop("event", "")
        level = {"exception": "error", "warn": "warning"}.get(name, name)
        self._write_app(level, event, fields, fields.pop("exc_info", None))
        return ""

    def take_record(self, record: logging.LogRecord) -> None:
        """Write a line of the standard library."""
        try:
            event = record.getMessage()
        except Exception as e:  # noqa: BLE001 - arguments that do not fit, or cannot be shown
            event = f"{record.msg!s:.500} (its arguments cannot be shown: {type(e).__name__})"
        extra = {name: value for name, value in vars(record).items() if name not in _RECORD}
        if record.stack_info:
            extra["stack"] = record.stack_info
        fields = {"logger": record.name, **extra}
        self._write_app(record.levelname.lower(), event, fields, record.exc_info)

    def _write_app(
        self, level: str, event: object, fields: Mapping[str, Any], exc_info: Any
    ) -> None:
        line = {**self._everywhere, **job_fields(), **fields}
        if isinstance(exc_info, tuple):  # as sys.exc_info() gives it
            exc_info = cast("tuple[object, object, object]", exc_info)[1]
        if exc_info:
            line["exception"] = trace_of(exc_info if isinstance(exc_info, BaseException) else None)
        self._write(level, event, line)

    def _write(self, level: str, event: object, fields: Mapping[str, Any]) -> None:
        self.writer.write(self._line(level, event, fields))

    def _line(self, level: str, event: object, fields: Mapping[str, Any]) -> bytes:
        at = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
        try:
            text = self._render({**fields, "event": event, "level": level, "timestamp": at})
        except Exception as e:  # noqa: BLE001 - a value of the user's that cannot be shown
            lost = f"a line that cannot be shown ({type(e).__name__})"
            text = self._render({"event": lost, "level": "warning", "timestamp": at})
        return (text + "\n").encode("utf-8", "backslashreplace")

    def _regained(self, dropped: int) -> bytes:
        return self._line("warning", "log.regained", {**self._everywhere, "dropped": dropped})


class _Handler(logging.Handler):
    def __init__(self, lines: _Lines) -> None:
        super().__init__()
        self._lines = lines

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._lines.take_record(record)
        except Exception:  # noqa: BLE001 - a line never ends the work that wrote it
            self.handleError(record)


def columns_of_terminal() -> int:
    """Return the width of the terminal at which somebody reads standard error; 0: nobody does.

    Also through a pipe, as in `2>&1 | tee FILE`: then a terminal is what this process reads from,
    and it is in its foreground.
    """
    with suppress(OSError):
        if os.isatty(2):
            return os.get_terminal_size(2).columns or 80
        is_piped = stat.S_ISFIFO(os.fstat(2).st_mode)
        if is_piped and os.isatty(0) and os.tcgetpgrp(0) == os.getpgrp():
            return os.get_terminal_size(0).columns or 80
    return 0


@contextmanager
def logs_to(path: Path) -> Generator[None]:
    """Send standard error, with that of every child, to a file: the screen is for the view."""
    sys.stderr.flush()
    before = os.dup(2)
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(file, 2)
    os.close(file)
    configure_logging(LogFormat.CONSOLE)
    try:
        yield
    finally:
        sys.stderr.flush()
        os.dup2(before, 2)
        os.close(before)
        configure_logging(LogFormat.CONSOLE)


def last_words(path: Path) -> str:
    """Return the last line that was logged there; empty without one."""
    sys.stderr.flush()
    lines = path.read_text(errors="replace").strip().splitlines()
    return lines[-1].strip() if lines else ""
