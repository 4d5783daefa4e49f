"""The table of events is the code's: every event that is logged, with its fields, and no other."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import qcore
from qcore.telemetry import EVENTS

ROOT = Path(qcore.__file__).parent.parent
LEVELS = {"debug", "info", "warning", "error", "critical", "exception"}


def logged() -> Iterator[tuple[str, ast.Call]]:
    """Yield where and how each event is logged, in the library and the command."""
    for folder in ("qcore", "cli"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            tree = ast.parse(path.read_text())
            aliases = {
                target.id
                for node in ast.walk(tree)
                if isinstance(node, ast.Assign) and re.search(r"\blog\.\w+\b", ast.unparse(node))
                for target in node.targets
                if isinstance(target, ast.Name)
            }
            for node in ast.walk(tree):
                if isinstance(node, ast.Call) and _is_logging(node.func, aliases):
                    yield f"{path.relative_to(ROOT)}:{node.lineno}", node


def _is_logging(function: ast.expr, aliases: set[str]) -> bool:
    if isinstance(function, ast.Attribute):
        return ast.unparse(function.value) == "log" and function.attr in LEVELS
    return isinstance(function, ast.Name) and function.id in aliases


CALLS = list(logged())


def event_of(call: ast.Call) -> str:
    assert len(call.args) == 1
    assert isinstance(call.args[0], ast.Constant), "an event is a constant: it can be searched for"
    return str(call.args[0].value)


def test_events_logged_are_those_of_the_table():
    assert len(CALLS) > 20
    of_the_writer = {"log.regained"}
    assert {event_of(call) for _, call in CALLS} | of_the_writer == set(EVENTS)


@pytest.mark.parametrize(("where", "call"), CALLS, ids=[where for where, _ in CALLS])
def test_event_carries_the_fields_of_the_table(where, call):
    names = [keyword.arg for keyword in call.keywords]
    fields = set(EVENTS[event_of(call)])
    given = {name for name in names if name is not None}
    if None in names:  # some come from a shared mapping
        assert given < fields
    else:
        assert given == fields


@pytest.mark.parametrize("event", EVENTS)
def test_event_is_a_noun_and_what_happened_to_it(event):
    assert re.fullmatch(r"[a-z]+\.[a-z_]+", event)
    assert len(set(EVENTS[event])) == len(EVENTS[event])


def test_library_never_configures_logging():
    for path in (ROOT / "qcore").rglob("*.py"):
        text = path.read_text()
        assert "structlog.configure" not in text
        assert "basicConfig" not in text
