"""qcore's own lines, in programs whose logging is set up in every possible way."""

import logging
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog

import qcore
from qcore.per_process import importing
from qcore.telemetry import log
from qcore.uniqueness import value_text

LEVELS = ("debug", "info", "warning", "error", "exception")


class Mute:
    """A wrapper class that has nothing of a logger."""

    def __init__(self, *_: Any, **__: Any) -> None: ...


def refuse(*_: Any) -> Any:
    raise RuntimeError("this processor takes nothing")


#: What programs give `structlog.configure`, by mistake or on purpose.
CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "the default": {},
    "the documented one for the standard library": {
        "wrapper_class": structlog.stdlib.BoundLogger,
        "logger_factory": structlog.stdlib.LoggerFactory(),
        "processors": [
            structlog.stdlib.filter_by_level,
            structlog.stdlib.add_logger_name,
            structlog.stdlib.PositionalArgumentsFormatter(),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
    },
    "a logger without levels": {"wrapper_class": structlog.BoundLogger},
    "the bare wrapper": {"wrapper_class": structlog.BoundLoggerBase},
    "a wrapper for coroutines": {
        "wrapper_class": structlog.stdlib.AsyncBoundLogger,
        "logger_factory": structlog.stdlib.LoggerFactory(),
    },
    "a wrapper that is no logger": {"wrapper_class": Mute},
    "a processor that raises": {"processors": [refuse]},
    "a renderer that is missing": {"processors": [structlog.stdlib.add_log_level]},
    "keyword arguments that print takes none of": {
        "processors": [structlog.stdlib.render_to_log_kwargs]
    },
    "no factory": {"logger_factory": refuse},
}


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    yield
    structlog.reset_defaults()


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_line_never_raises_however_the_program_has_configured_structlog(name: str):
    structlog.configure(**CONFIGURATIONS[name])
    for level in LEVELS:
        getattr(log, level)("job.acked", job="1", queue="default")
    assert log.shows("debug", "job.acked") in (True, False)


@pytest.mark.parametrize("name", ["a wrapper that is no logger", "a processor that raises"])
def test_line_that_structlog_does_not_take_goes_to_the_standard_library(
    name: str, caplog: pytest.LogCaptureFixture
):
    structlog.configure(**CONFIGURATIONS[name])
    log.warning("lease.lost", job="1", queue="default")
    (record,) = caplog.records
    assert (record.name, record.levelname) == ("qcore", "WARNING")
    assert record.getMessage() == "lease.lost job=1 queue=default"


def test_line_that_nobody_takes_is_no_error():
    class Refuses(logging.Filter):
        def filter(self, record: logging.LogRecord) -> bool:
            raise RuntimeError("this filter takes nothing")

    structlog.configure(processors=[refuse])
    refuses = Refuses()
    logging.getLogger("qcore").addFilter(refuses)
    try:
        log.warning("lease.lost", job="1", queue="default")
    finally:
        logging.getLogger("qcore").removeFilter(refuses)


def test_stream_that_is_gone_is_no_error(tmp_path: Path):
    stream = (tmp_path / "log").open("w")
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(stream))
    stream.close()
    log.warning("lease.lost", job="1", queue="default")


def test_trace_shows_no_variables(capsys: pytest.CaptureFixture[str]):
    """The renderer that structlog takes unconfigured prints them, where rich is installed."""
    password = "hunter2"
    try:
        raise ValueError(len(password))
    except ValueError:
        log.exception("watchdog.failed")
    said = capsys.readouterr().out
    assert "ValueError" in said
    assert "raise ValueError(len(password))" in said
    assert password not in said


def test_long_trace_is_cut_and_names_its_error():
    with structlog.testing.capture_logs() as lines:
        try:
            raise ValueError("so long " * 10_000 + "the end")
        except ValueError:
            log.exception("watchdog.failed")
    trace = lines[0]["exception"]
    assert len(trace) < 5000
    assert trace.endswith("the end")


def test_library_logs_in_one_way_only():
    for path in Path(qcore.__file__).parent.rglob("*.py"):
        if path.name != "telemetry.py":
            assert not re.search(r"\bstructlog\b", path.read_text()), path


def test_line_and_digest_wait_for_no_lock_of_imports_when_all_is_imported():
    """A fork holds it: who makes a thread finish before may have that thread log its last line."""
    said = list[str]()

    def work() -> None:
        log.info("worker.draining", running=0, timeout_s=1)
        said.append(value_text("a key", ("x" * 100, 1)))

    work()
    with importing:
        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        thread.join(10)
        assert not thread.is_alive()
    assert said[0] == said[1]
