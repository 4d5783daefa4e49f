"""Turns an exception into a reason of one line, and finds a GiveUp or RetryLater in a group."""

from collections.abc import Sequence
from typing import cast

from qcore.model.job import AttemptError
from qcore.model.retry import GiveUp, RetryLater

#: Of the text of one exception, and of the line that is made of it.
_TEXT_CHARS, _REASON_CHARS = 2000, 300
#: Of a line that is too long; what happened often stands last.
_END_CHARS = 80
#: The last line of pydantic, which leads to a page about the kind of error.
_NO_REASON = "For further information visit "


def control_in(error: BaseException) -> BaseException:
    """Return the GiveUp in a group of exceptions, else the RetryLater; else the error itself."""
    leaves = _leaves(error)
    for kind in (GiveUp, RetryLater):
        for leaf in leaves:
            if isinstance(leaf, kind):
                return leaf
    return error


def reason_of(error: BaseException) -> str:
    """Return why something failed, in one line: the first exception of a group, and its cause."""
    first, *others = _leaves(error)
    said = _said(first)
    cause = _root(first)
    if cause is not first:
        said = f"{said}; caused by {_said(cause)}"
    if others:
        said = f"{said} (and {len(others)} more in an {type(error).__name__})"
    return shortened(said)


def shortened(said: str) -> str:
    """Return a reason as it can be written down, without the middle of one too long to be read."""
    # half a character, as in a file name that is no text, cannot be written down
    said = said.encode("utf-8", "replace").decode()
    if len(said) <= _REASON_CHARS:
        return said
    return f"{said[: -_END_CHARS + _REASON_CHARS - 7]} [...] {said[-_END_CHARS:]}"


def _leaves(error: BaseException) -> list[BaseException]:
    """Return what a group is made of, in order; an error that is none is its own only leaf."""
    leaves, waiting = list[BaseException](), [error]
    while waiting:
        found = waiting.pop()
        if isinstance(found, BaseExceptionGroup):
            waiting += reversed(cast("BaseExceptionGroup[BaseException]", found).exceptions)
        else:
            leaves.append(found)
    return leaves


def _root(error: BaseException) -> BaseException:
    """Return the exception that an error began with, as a traceback shows it first."""
    seen = {id(error)}
    while True:
        before = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
        if before is None or id(before) in seen:
            return error
        seen.add(id(before))
        error = _leaves(before)[0]


def _said(error: BaseException) -> str:
    kind = type(error).__name__
    try:
        text = str(error)
        if len(text) > _TEXT_CHARS:  # which may have any length
            text = f"{text[: _TEXT_CHARS // 2]} [...] {text[-_TEXT_CHARS // 2 :]}"
    except BaseException as e:  # noqa: BLE001 - a __str__ of the user's that raises
        return f"{kind}, whose text cannot be made ({type(e).__name__})"
    lines = (" ".join(line.split()) for line in text.splitlines())
    line = ": ".join(line.rstrip(":") for line in lines if line and _NO_REASON not in line)
    if isinstance(error, GiveUp):
        return line or kind
    return f"{kind}: {line}" if line else kind


def last_reason(errors: Sequence[AttemptError]) -> str:
    """Return how the last run failed, in one line."""
    if not errors:
        return "unknown"
    last = errors[-1]
    if last.reason:
        return last.reason
    text = last.text.rstrip().rpartition("\n")[2]
    return text if last.kind in text or last.kind == "GiveUp" else f"{last.kind}: {text}"
