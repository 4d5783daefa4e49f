"""Parses what is read from Redis without trusting it: malformed values count as absent."""

import math
import re
from collections.abc import Iterable
from datetime import UTC, datetime

#: The first moment after the year 9999, unix ms: no later one can be shown.
FAR_MS = 253_402_300_800_000
_EXACT = 2**53
_number = int.from_bytes
_ESCAPED = re.compile(rb"\\x([0-9a-f]{2})")


def natural(raw: bytes | None) -> int | None:
    """Return a number of digits; None for anything else, as `natural` of lib/clock.lua."""
    if raw is None or len(raw) > 16 or not raw.isdigit():
        return None
    number = int(raw)
    return number if number <= _EXACT else None


def moment_ms(score: bytes | None) -> int | None:
    """Return a score that is a time, unix ms; None for one that no calendar has."""
    number = math.nan if score is None else float(score)
    return int(number) if 0 <= number < FAR_MS else None


def stamp_ms(payload: bytes | None) -> int | None:
    """Return the time in front of a payload, unix ms; None without one that a calendar has."""
    at = FAR_MS if payload is None or len(payload) < 8 else int.from_bytes(payload[:8])
    return at if at < FAR_MS else None


def shown_time(ms: int) -> str:
    """Return a time on the Redis clock, unix ms, as operators read it."""
    try:
        return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
    except (ValueError, OverflowError, OSError):  # a year that no calendar has
        return f"{ms} ms"


def texts_of(column: Iterable[bytes]) -> list[str]:
    """Return what `text_of` says of each: a call for each would cost more than the rest."""
    return [raw.decode(errors="backslashreplace") for raw in column]


def stamps_of(payloads: Iterable[bytes | None], otherwise: int) -> list[int]:
    """Return what `stamp_ms` says of each, and `otherwise` where it is None."""
    return [
        at
        if payload is not None and len(payload) >= 8 and (at := _number(payload[:8])) < FAR_MS
        else otherwise
        for payload in payloads
    ]


def losses_of(raw: bytes | None) -> tuple[int, int]:
    """Return how many leases a job has lost, and when the last one, unix ms; (0, 0) for none."""
    count, _, at = (raw or b"").partition(b" ")
    numbers = natural(count), natural(at)
    return (0, 0) if None in numbers else (numbers[0] or 0, numbers[1] or 0)


def text_of(raw: bytes) -> str:
    r"""Return bytes as text to show; `raw_of` undoes it. What is no UTF-8 stands as `\xff`."""
    return raw.decode(errors="backslashreplace")


def raw_of(text: str) -> bytes:
    """Return the bytes that `text_of` has shown."""
    return _ESCAPED.sub(lambda found: bytes.fromhex(found[1].decode()), text.encode())
