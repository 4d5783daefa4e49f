"""Durations as users give them, in seconds."""

import re
from datetime import timedelta

from qcore.errors import ConfigError

#: A duration: a timedelta, seconds, or text such as "90", "90s", "10m", "2h", "1d".
Seconds = timedelta | float | str
_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?)([smhd]?)")
_UNITS_S = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}


def seconds(option: str, value: Seconds, error: type[Exception] = ConfigError) -> float:
    """Return a duration in seconds; the one place where durations are converted.

    Args:
        option: What the error names.
        value: What was given for it; anything, whatever its type says.
        error: Raised for what is no duration.
    """
    match value:
        case timedelta():
            return value.total_seconds()
        case float() | int() if not isinstance(value, bool):
            return float(value)
        case str() if found := _DURATION.fullmatch(value):
            return float(found[1]) * _UNITS_S[found[2]]
        case _:
            raise error(
                f"{option} is {value!r}, which is no duration: give seconds, a timedelta, or text "
                "such as '90s', '10m', '2h' or '1d'"
            )
