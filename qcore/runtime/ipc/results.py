"""What a task returned or raised, as bytes and text that are kept; made where the task ran."""

import os
import traceback
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType

from qcore.errors import QcoreError, ResultError
from qcore.model.callee import is_unfinished
from qcore.model.codec import encode
from qcore.model.job import shorten
from qcore.model.reasons import reason_of
from qcore.model.retry import GiveUp, RetryLater
from qcore.runtime.ipc.pool import RemoteError

#: None as msgpack has it.
NIL = b"\xc0"


def _folder(name: str) -> str:
    """Return where a package lies, which is not imported for that: a pool process has no anyio."""
    spec = find_spec(name)
    return str(Path((spec and spec.origin) or name).parent) + os.sep


#: Folders whose frames stand between a worker and the code of a task.
_ON_THE_WAY = (_folder("qcore"), _folder("anyio"))


def encode_result(result: object, limit_bytes: int) -> bytes:
    """Return a result as bytes; NIL with a limit below 0, when it is not kept.

    Raises:
        ResultError: it cannot be kept, or it is work that nobody has done.
    """
    if limit_bytes < 0:
        _check_finished(result)
        return NIL
    try:
        raw = encode(result)
    except Exception as e:  # a model may raise anything
        _check_finished(result)
        raise ResultError(
            f"the result cannot be kept: {e}: return plain data, or give the task keep=0"
        ) from e
    if len(raw) > limit_bytes:
        raise ResultError(
            f"the result takes {len(raw)} bytes, the limit is {limit_bytes}: store it elsewhere "
            "and return its name"
        )
    return raw


def _check_finished(result: object) -> None:
    if is_unfinished(result):
        raise ResultError(
            f"the task returned a {type(result).__name__}, which is yet to be run: do the work in "
            "the task, with await or a loop, and return what is to be kept"
        )


def error_text(error: BaseException) -> str:
    """Return what is kept of an error: its trace, or for words to an operator just these."""
    if isinstance(error, RemoteError):
        return shorten(error.trace)
    if isinstance(error, QcoreError | GiveUp | RetryLater):
        return shorten(str(error) or type(error).__name__)
    try:
        return shorten("".join(traceback.format_exception(None, error, _own_frames(error))))
    except BaseException as e:  # noqa: BLE001 - a __str__ of the user's that raises
        return f"{type(error).__name__}, whose text cannot be made ({type(e).__name__})"


def _own_frames(error: BaseException) -> TracebackType | None:
    """Return the trace from the task's own code on, without the way there."""
    frame = error.__traceback__
    while frame is not None and frame.tb_frame.f_code.co_filename.startswith(_ON_THE_WAY):
        frame = frame.tb_next
    return frame or error.__traceback__


def error_line(error: BaseException) -> str:
    """Return an error in one line, also one of another process."""
    return error.reason if isinstance(error, RemoteError) else reason_of(error)
