"""How the command logs: structlog to standard error, for people or as JSON lines."""

import logging
import sys
from enum import StrEnum
from typing import Any

import structlog

from qcore.config import wants_color


class LogFormat(StrEnum):
    """What a log line looks like."""

    CONSOLE = "console"
    JSON = "json"


def configure_logging(form: LogFormat, level: int = logging.INFO) -> None:
    """Send events of `level` and above to standard error."""
    rendering: list[Any] = [structlog.dev.ConsoleRenderer(colors=wants_color(sys.stderr))]
    if form is LogFormat.JSON:
        rendering = [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *rendering,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        # text and newline in one write: the processes of a supervisor share the terminal
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
