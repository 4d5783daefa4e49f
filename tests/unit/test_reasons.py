"""What an exception says to an operator in one line, and the cancel request in a group."""

import pytest
from pydantic import BaseModel, ValidationError

from qcore import GiveUp, RetryLater
from qcore.model.reasons import control_in, reason_of


class Order(BaseModel):
    id: int


class Mute(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


def handled(error: Exception, context: Exception) -> Exception:
    error.__context__ = context
    return error


def caused(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


def noted(error: Exception, *notes: str) -> Exception:
    for note in notes:
        error.add_note(note)
    return error


def unfit() -> Exception:
    with pytest.raises(ValidationError) as told:
        Order.model_validate({"id": "seven"})
    return told.value


REFUSED = ConnectionError("refused")


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ValueError("bad"), "ValueError: bad"),
        (ValueError(), "ValueError"),
        (GiveUp("no such customer"), "no such customer"),
        (ValueError("line 1:\n\n  line 2"), "ValueError: line 1: line 2"),
        (noted(ValueError("bad"), "a note", "another"), "ValueError: bad"),
        (caused(RuntimeError("no payment"), REFUSED), "RuntimeError: no payment; caused by Conn"),
        (handled(KeyError("x"), ValueError("bad")), "KeyError: 'x'; caused by ValueError: bad"),
        (ExceptionGroup("g", [ValueError("bad")]), "ValueError: bad"),
        (
            ExceptionGroup("g", [ExceptionGroup("h", [REFUSED]), ValueError("bad")]),
            "ConnectionError: refused (and 1 more in an ExceptionGroup)",
        ),
        (unfit(), "ValidationError: 1 validation error for Order: id: Input should be a valid int"),
        (Mute(), "Mute, whose text cannot be made (RuntimeError)"),
    ],
)
def test_reason_is_one_line_that_names_the_root(error: BaseException, reason: str):
    said = reason_of(error)
    assert reason in said
    assert "\n" not in said
    assert "further information" not in said


def test_cause_that_was_suppressed_is_not_named():
    error = KeyError("x")
    error.__context__, error.__suppress_context__ = ValueError("bad"), True
    assert reason_of(error) == "KeyError: 'x'"


def test_errors_that_cause_each_other_end():
    first, second = ValueError("1"), ValueError("2")
    first.__cause__, second.__cause__ = second, first
    assert reason_of(first) == "ValueError: 1; caused by ValueError: 2"


def test_reason_is_bounded():
    assert len(reason_of(ValueError("x" * 10**7))) == 300


def test_reason_can_be_written_down():
    assert reason_of(ValueError("no file a\udcff")) == "ValueError: no file a?"


def test_cancel_request_in_a_group_counts():
    later, never = RetryLater(5), GiveUp("no")
    bad = ValueError("bad")
    assert control_in(ExceptionGroup("g", [bad, ExceptionGroup("h", [never])])) is never
    assert control_in(ExceptionGroup("g", [later, bad])) is later
    assert control_in(ExceptionGroup("g", [later, never])) is never
    group = ExceptionGroup("g", [bad])
    assert control_in(group) is group
    assert control_in(bad) is bad
