"""What reaches a terminal: text of jobs, never as a command to it."""

import io
import unicodedata
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from qcore.model.fleet import RunningJob, SupervisorState, SupervisorView, WorkerState, WorkerView
from qcore.model.views import Member, Pause, QueueStats
from qcore_cli.fleet.rollout import Entry, Outcome, drawn_rollout
from qcore_cli.fleet.top_view import Sight, Snapshot, drawn
from qcore_cli.fleet.view import FleetState, status_lines
from qcore_cli.format import table
from qcore_cli.terminal import echo, printable, printable_lines

NASTY = (
    "\x1b[2J",
    "\x1b]0;title\x07",
    "\x9b31m",
    "a\rb",
    "a\nb",
    "\x00",
    "\u202egnp.exe",
    "zero\u200bwidth",
    "\u2028line",
    "\ud800",
    "\U000e0041tag",
    "[bold]x[/bold]",
    "[/]",
    "[link=http://x]y",
    "tasks.a[/b].c[red]",
)
#: Every kind of character, and whole words that something on the way might obey.
texts = st.lists(
    st.one_of(st.text(alphabet=st.characters(), max_size=8), st.sampled_from(NASTY))
).map("".join)


def assert_harmless(text: str) -> None:
    """Nothing in it moves a cursor, turns text around, hides, or cannot be written."""
    for line in text.split("\n"):
        assert {unicodedata.category(c) for c in line} & {"Cc", "Cf", "Cs", "Zl", "Zp"} == set()
    text.encode()


@given(texts)
def test_printable_is_one_harmless_line(text: str):
    shown = printable(text)
    assert "\n" not in shown
    assert_harmless(shown)
    assert_harmless(printable_lines(text))
    if text.isprintable():
        assert shown == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31m", "\\x1b[31m"),
        ("a\nb", "a\\nb"),
        ("\u202e", "\\u202e"),
        ("\ud800", "\\ud800"),
        ("été 語", "été 語"),
        ('it\'s "so"\\', 'it\'s "so"\\'),
    ],
)
def test_printable_shows_the_escape_of_what_a_terminal_obeys(text: str, shown: str):
    assert printable(text) == shown


def views(text: str) -> list[Member]:
    job = RunningJob(id=text, task=text, age_s=1.0, queue=text)
    worker = WorkerView(
        name=text, pid=1, state=WorkerState.RUNNING, oldest=(job,), code=text, leaves_for=text
    )
    view = SupervisorView(
        host=text,
        name=text,
        pid=1,
        state=SupervisorState.RUNNING,
        queues=(text,),
        age_s=1.0,
        workers=(worker,),
    )
    return [Member(text, 0.0, 0, view)]


def stats(text: str) -> QueueStats:
    known: dict[str, Any] = dict.fromkeys(
        ("ready", "quarantined", "scheduled", "active", "dead"), 1
    )
    pause = Pause(since_ms=0, until_ms=None, reason=text)
    return QueueStats(name=text, oldest_ready_s=1.0, paused=pause, **known)


def written(console_of: Any) -> str:
    out = io.StringIO()
    console = Console(file=out, width=80, force_terminal=False)
    console.print(console_of)
    return out.getvalue()


@given(texts)
def test_top_draws_whatever_jobs_and_workers_are_called(text: str):
    sight = Sight(text)
    sight.see(Snapshot(views(text), [stats(text)]))
    assert_harmless(written(drawn(sight, 24, 80)))
    sight.trouble = text
    assert_harmless(written(drawn(sight, None, 200)))


@given(texts)
def test_rollout_draws_whatever_supervisors_are_called(text: str):
    entry = Entry(
        id=text,
        host=text,
        name=text,
        pid=1,
        outcome=Outcome.WAITING,
        replaced=0,
        workers=1,
        silent_s=0.0,
    )
    assert_harmless(written(drawn_rollout([entry])))


@given(text=texts)
def test_tables_and_lines_are_harmless(text: str):
    out = io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.stdout", out)
        echo("\n".join(table((text, "B"), [(text, 1)])))
        for line in status_lines(FleetState.RUNNING, views(text), [stats(text)]):
            echo(printable(line))
        echo(text)
    assert_harmless(out.getvalue())


def test_names_in_brackets_are_shown_as_they_are():
    sight = Sight("redis://localhost")
    sight.see(Snapshot(views("a[/b]c[red]"), [stats("q[/x]")]))
    assert "a[/b]c[red]" in written(drawn(sight, 24, 200))
