"""What log lines look like."""

import json
import logging
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qcore_cli.log_lines import json_line, terminal_line, text_line
from qcore_cli.log_writer import LogWriter
from qcore_cli.logs import LogFormat, LogStyle, _Lines

ACK = {
    "event": "job.acked",
    "level": "debug",
    "timestamp": "2026-11-30T15:42:48.123456Z",
    "worker": "worker.1",
    "pid": 7,
    "job": "01a22d1f-5e02-75a1-a2ba-542d48bf4571",
    "task": "shop.mail.greet",
    "queue": "default",
    "attempt": 1,
    "duration_ms": 12,
}


def test_job_that_ended_well_is_one_line_of_80_columns():
    line = terminal_line(ACK, 80, color=False)
    assert line == ("15:42:48 done    greet  12 ms  default/01a22d1f-5e02-75a1-a2ba-542d48bf4571")
    long = terminal_line(
        ACK | {"task": "shop." + "x" * 200, "duration_ms": 61_000}, 80, color=False
    )
    assert len(long) <= 80
    assert "\n" not in long


def test_line_with_many_fields_is_broken_between_them():
    event = ACK | {"event": "job.retried", "error": "ValueError: no such mail"}
    lines = terminal_line(event, 80, color=False).splitlines()
    assert len(lines) > 1
    assert max(map(len, lines)) <= 80
    assert "job=default/01a22d1f-5e02-75a1-a2ba-542d48bf4571" in lines[0]
    assert all(line.startswith(" " * 9) for line in lines[1:])


def test_first_order_to_stop_says_what_is_waited_for_and_how_to_hurry():
    event = {
        "event": "supervisor.draining",
        "level": "info",
        "timestamp": ACK["timestamp"],
        "workers": 2,
        "running": 5,
        "oldest": ["tasks.slow default/1", "tasks.slow default/2", "tasks.slow default/3"],
        "timeout_s": 24.0,
    }
    lines = terminal_line(event, 80, color=False).splitlines()
    assert max(map(len, lines)) <= 80
    said = " ".join(" ".join(lines).split())
    assert "waits for 5 jobs, at most 24 s: tasks.slow default/1, " in said
    assert said.endswith("Ctrl-C again cancels what runs and gives it back")
    assert "no job runs" in terminal_line(event | {"running": 0}, 80, color=False)


def test_level_other_than_info_is_said_without_color():
    assert " warning lease.lost" in terminal_line(
        ACK | {"event": "lease.lost", "level": "warning"}, 80, color=False
    )


@given(st.text(), st.text(), st.text())
def test_nothing_that_a_job_carries_is_obeyed_by_a_terminal(event: str, value: str, trace: str):
    fields = ACK | {"event": event, "error": value, "task": value, "exception": trace}
    for line in (terminal_line(fields, 80, color=False), text_line(fields)):
        assert all(char.isprintable() or char == "\n" for char in line)
    acked = terminal_line(fields | {"event": "job.acked"}, 80, color=False)
    assert acked.partition("\n")[0].isprintable()


class Mute:
    def __repr__(self) -> str:
        raise RuntimeError("no words")


CIRCLE: list[Any] = []
CIRCLE.append(CIRCLE)


@pytest.mark.parametrize(
    "value", [{(1, 2): 3}, CIRCLE, b"\xff", "\ud800", object(), float("nan"), {1: {2: 3}}]
)
def test_any_value_makes_one_json_document(value: object):
    line = json_line(ACK | {"value": value})
    assert "\n" not in line
    assert json.loads(line)["job"] == ACK["job"]


def test_value_that_cannot_be_shown_costs_its_text_only():
    assert "cannot be shown" in text_line(ACK | {"value": Mute()})


@pytest.mark.parametrize(("text", "value"), [("%s of a shop", Mute()), ("%d of them", "many")])
def test_record_whose_arguments_cannot_be_shown_is_a_line_without_them(text: str, value: object):
    written: list[bytes] = []
    lines = _Lines(LogStyle(LogFormat.JSON), {})
    lines.writer = cast("LogWriter", SimpleNamespace(write=written.append))
    lines.take_record(logging.LogRecord("shop", logging.INFO, "", 1, text, (value,), None))
    assert json.loads(written[0])["event"].startswith(f"{text} (its arguments cannot be shown")
