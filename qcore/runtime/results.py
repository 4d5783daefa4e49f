"""What a task returned, as the bytes that are kept; made where the task ran."""

from qcore.errors import ResultError
from qcore.model.callee import is_unfinished
from qcore.model.codec import encode

#: None as msgpack has it.
NIL = b"\xc0"


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
