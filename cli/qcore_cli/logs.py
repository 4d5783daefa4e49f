"""How the command logs: structlog to standard error, for people or as JSON lines."""

import logging
import os
import sys
from collections.abc import Generator, Mapping, MutableMapping
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Any

import structlog

from qcore.config import wants_color


class LogFormat(StrEnum):
    """What a log line looks like."""

    CONSOLE = "console"
    JSON = "json"


def configure_logging(
    form: LogFormat, level: int = logging.INFO, *, everywhere: Mapping[str, object] | None = None
) -> None:
    """Send events of `level` and above to standard error.

    Args:
        form: What a line looks like.
        level: The least one that is shown.
        everywhere: Fields of every line that does not say otherwise. They are no context
            variables, which a thread does not inherit.
    """

    def name_process(_: object, __: str, event: MutableMapping[str, Any]) -> Mapping[str, Any]:
        return {**(everywhere or {}), **event}

    rendering: list[Any] = [structlog.dev.ConsoleRenderer(colors=wants_color(sys.stderr))]
    if form is LogFormat.JSON:
        rendering = [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            name_process,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *rendering,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        # text and newline in one write: the processes of a supervisor share the terminal
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )


@contextmanager
def logs_to(path: Path) -> Generator[None]:
    """Send standard error, with that of every child, to a file: the screen is for the view."""
    sys.stderr.flush()
    before = os.dup(2)
    log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(log, 2)
    os.close(log)
    configure_logging(LogFormat.CONSOLE)
    try:
        yield
    finally:
        sys.stderr.flush()
        os.dup2(before, 2)
        os.close(before)


def last_words(path: Path) -> str:
    """Return the last line that was logged there; empty without one."""
    sys.stderr.flush()
    lines = path.read_text(errors="replace").strip().splitlines()
    return lines[-1] if lines else ""
