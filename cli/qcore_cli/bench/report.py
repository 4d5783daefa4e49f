"""What `qcore bench` found; these names are the keys of `--json`."""

from collections.abc import Sequence
from statistics import quantiles
from typing import Self

import msgspec

from qcore_cli.bench.verdict import Advice, Bottleneck, Load


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What is measured."""

    payload_bytes: int
    concurrency: int
    processes: int
    queues: int
    task_ms: int
    #: Of one measurement.
    seconds: float
    #: That this machine lets us use.
    cores: int


class Millis(msgspec.Struct, frozen=True, kw_only=True):
    """How long something took, in milliseconds."""

    p50: float
    p99: float
    samples: int

    @classmethod
    def of(cls, spans_s: Sequence[float]) -> Self:
        """Return it from samples in seconds, at least one."""
        cuts = quantiles([*spans_s, spans_s[-1]], n=100, method="inclusive")
        return cls(
            p50=round(cuts[49] * 1000, 3), p99=round(cuts[98] * 1000, 3), samples=len(spans_s)
        )


class Alone(msgspec.Struct, frozen=True, kw_only=True):
    """Enqueues that were awaited one after the other."""

    per_s: float
    ms: Millis

    @classmethod
    def of(cls, spans_s: Sequence[float]) -> Self:
        """Return it from how many seconds each took."""
        return cls(per_s=round(len(spans_s) / sum(spans_s), 1), ms=Millis.of(spans_s))


class Enqueue(msgspec.Struct, frozen=True, kw_only=True):
    """What one producer enqueues."""

    one_by_one: Alone
    #: By 100 tasks at the same time.
    concurrent_per_s: float
    many_per_s: float


class Drain(msgspec.Struct, frozen=True, kw_only=True):
    """What the workers drain, and how busy everything was meanwhile: shares of 1, null unknown."""

    per_s: float
    python_us_per_job: float | None
    redis_us_per_job: float | None
    worker_cpu: float | None
    redis_cpu: float | None
    machine: float | None
    throttled: float | None
    round_trips: float
    slots: float
    queue_empty: float

    @classmethod
    def of(cls, load: Load) -> Self:
        """Return what is worth to be kept of it."""
        return cls(
            per_s=round(load.per_s, 1),
            python_us_per_job=load.us_per_job(load.python, of=load.processes),
            redis_us_per_job=load.us_per_job(load.redis),
            worker_cpu=load.python,
            redis_cpu=load.redis,
            machine=load.machine,
            throttled=load.throttled,
            round_trips=load.round_trips,
            slots=load.slots,
            queue_empty=round(load.starved, 3),
        )


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """One call of the command."""

    url: str
    server: str
    namespace: str
    settings: Settings
    round_trip_ms: Millis
    enqueue: Enqueue
    drain: Drain
    #: From the call of `enqueue` to the first line of the task.
    pickup_ms: Millis
    bottleneck: Bottleneck
    because: str
    advice: tuple[Advice, ...]
