"""Retry policies as values: how often, and how long to wait in between."""

import math
from collections.abc import Sequence
from typing import Any

import msgspec

from qcore.durations import Seconds, seconds
from qcore.errors import ConfigError
from qcore.settings import check_type


class GiveUp(Exception):
    """Raised by a task: this job is dead now, for the reason given; no retry."""


class RetryLater(Exception):
    """Raised by a task: run this job again after `delay`.

    Args:
        delay: Seconds, a timedelta, or text as "10m".
        charge: Whether this run counts as a failed attempt. An uncharged job may come back
            for ever.
    """

    def __init__(self, delay: Seconds, *, charge: bool = True) -> None:
        delay_s = seconds("RetryLater: delay", delay, ValueError)
        if not math.isfinite(delay_s):
            raise ValueError(f"RetryLater: delay is {delay}, give seconds or a timedelta")
        super().__init__(f"retry in {delay_s:g} s")
        self.delay_s = max(0.0, delay_s)
        self.charge = charge


class Exponential(msgspec.Struct, frozen=True):
    """Backoff that grows: `first * factor ** (failures - 1)`, at most `max`."""

    first: Seconds = 5.0
    factor: float = 3.0
    max: Seconds = 3600.0


def _backoff_s(delay: Any) -> float:
    return seconds("Retry: backoff", delay)


class Retry(msgspec.Struct, frozen=True, kw_only=True):
    """When a failed job runs again.

    Args:
        max_attempts: Runs that may fail before the job is dead; 1 means never again.
        backoff: The wait before each retry: a list (its last value repeats), one duration, or
            `Exponential`. Durations are seconds, a timedelta, or text as "10m".
        jitter: Share of the delay, 0 to 1, by which it is drawn up or down, so that jobs that
            failed together do not return together.
    """

    max_attempts: int = 5
    backoff: Sequence[Seconds] | Seconds | Exponential = Exponential()
    jitter: float = 0.2

    def __post_init__(self) -> None:
        """Check types and ranges."""
        check_type("Retry: max_attempts", self.max_attempts, int, "a whole number")
        check_type("Retry: jitter", self.jitter, int | float, "a share of the delay, 0 to 1")
        if self.max_attempts < 1:
            raise ConfigError(f"Retry: max_attempts is {self.max_attempts}, allowed is 1 and more")
        if not 0 <= self.jitter <= 1:
            raise ConfigError(f"Retry: jitter is {self.jitter:g}, allowed is 0 to 1")
        match self.backoff:
            case Exponential(first=first, factor=factor, max=most):
                check_type("Retry: factor", factor, int | float, "a number")
                numbers = [_backoff_s(first), factor, _backoff_s(most)]
            case Sequence() as listed if not isinstance(listed, str):
                numbers = [_backoff_s(delay) for delay in listed]
            case fixed:
                numbers = [_backoff_s(fixed)]
        if not numbers or not all(0 <= number < math.inf for number in numbers):
            raise ConfigError(f"Retry: backoff {self.backoff!r} needs delays of 0 s and more")

    def base_delay_s(self, failures: int) -> float:
        """Return the delay after the `failures`-th charged failure (from 1), before jitter."""
        match self.backoff:
            case Exponential(first=first, factor=factor, max=most):
                try:
                    return min(_backoff_s(most), _backoff_s(first) * factor ** (failures - 1))
                except OverflowError:
                    return _backoff_s(most)
            case Sequence() as listed if not isinstance(listed, str):
                return _backoff_s(listed[min(failures, len(listed)) - 1])
            case fixed:
                return _backoff_s(fixed)

    def delay_s(self, failures: int, draw: float) -> float | None:
        """Return seconds until the next run, or None when the job is dead.

        Args:
            failures: Charged failures so far, this one included.
            draw: A random number in [0, 1), which spreads the delay over
                `base * (1 - jitter)` to `base * (1 + jitter)`.
        """
        if failures >= self.max_attempts:
            return None
        return self.base_delay_s(failures) * (1 + self.jitter * (2 * draw - 1))
