"""Many jobs at a pace: each is due a little after the one before."""

import math
import time
from collections.abc import Callable
from typing import Any

import msgspec

from qcore.durations import Seconds, seconds
from qcore.errors import ArgumentError
from qcore.model.job import Job

#: Jobs a second; or a number of jobs and the time that they are for.
Rate = float | tuple[float, Seconds]


class Pacing:
    """Spreads jobs from when it is made; workers start them as they become due.

    Args:
        task: What errors name.
        rate: See `Rate`.

    Raises:
        ArgumentError: it is no rate.
    """

    def __init__(self, task: str, rate: Rate) -> None:
        self._step_ms = _step_ms(f"task {task}: rate", rate)
        self._began = time.monotonic()

    def paced(self, make: Callable[[int, Any], Job]) -> Callable[[int, Any], Job]:
        """Return what makes the jobs of numbered items, as `make` does, with due times."""
        return lambda number, item: self._later(number, make(number, item))

    def _later(self, number: int, job: Job) -> Job:
        # on top of its own delay or eta
        later_ms = number * self._step_ms
        if job.eta_ms is not None:
            return msgspec.structs.replace(job, eta_ms=round(job.eta_ms + later_ms))
        # what is sent later has waited here already
        waited_ms = (time.monotonic() - self._began) * 1000
        delay_ms = round((job.delay_ms or 0) + later_ms - waited_ms)
        return msgspec.structs.replace(job, delay_ms=delay_ms if delay_ms > 0 else None)


def _step_ms(what: str, rate: Rate) -> float:
    match rate:
        case (jobs, per):
            per_s = seconds(what, per, ArgumentError)
        case jobs:
            per_s = 1.0
    # whatever its type says
    number = float(jobs) if type(jobs) in (int, float) else 0.0
    if not 0 < number < math.inf or not 0 < per_s < math.inf:
        raise ArgumentError(
            f"{what} is {rate!r}: give jobs a second, or jobs and a time: 100, or (1000, '1m')"
        )
    return per_s * 1000 / number
