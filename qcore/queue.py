"""A queue as an app declares it."""

from collections.abc import Iterable, Sequence
from typing import Literal

import msgspec

from qcore.errors import ConfigError
from qcore.settings import MAX_DEPTH, MAX_WEIGHT, DepthLimit, check_name, check_type


class Queue(msgspec.Struct, frozen=True):
    """A named line of jobs, for `App(queues=[...])`; its name alone does as well.

    Args:
        name: 1 to 64 of letters, digits, `_`, `.`, `-`.
        weight: 1 to 1,000: its share of the jobs that a worker starts while several queues have
            some. Either all queues of an app have one, or none has: then they are served in strict
            order.
        max_jobs: At most so many jobs wait in it, ready and scheduled; 1 to 100,000,000. Retries
            and jobs that come back are always taken. By default as many as Redis holds.
        when_full: What an enqueue does that would exceed `max_jobs`: "refuse" raises QueueFull at
            once, "wait" waits for room within the enqueue timeout, and then raises it.

    Raises:
        ConfigError: a name that cannot be part of a key, or another value out of range.
    """

    name: str
    weight: int | None = None
    max_jobs: int | None = None
    when_full: Literal["refuse", "wait"] = "refuse"

    def __post_init__(self) -> None:
        """Check the values."""
        check_name("queue", self.name)
        if self.weight is not None:
            check_weight(self.name, self.weight)
        if self.max_jobs is not None:
            check_type(f"queue {self.name}: max_jobs", self.max_jobs, int, "a whole number")
            if not 1 <= self.max_jobs <= MAX_DEPTH:
                raise ConfigError(
                    f"queue {self.name}: max_jobs is {self.max_jobs:.15g}, allowed is 1 to "
                    f"{MAX_DEPTH}"
                )
        if self.when_full not in ("refuse", "wait"):
            raise ConfigError(
                f"queue {self.name}: when_full is {self.when_full!r}, give 'refuse' or 'wait'"
            )
        if self.when_full == "wait" and self.max_jobs is None:
            raise ConfigError(f"queue {self.name}: when_full needs max_jobs=, how many may wait")

    @property
    def depth_limit(self) -> DepthLimit | None:
        """How many jobs may wait in it; None: as many as come."""
        if self.max_jobs is None:
            return None
        return DepthLimit(self.max_jobs, self.when_full == "wait")


def check_weight(queue: str, weight: int) -> int:
    """Return a weight that is in its range, else raise ConfigError."""
    check_type(f"queue {queue}: weight", weight, int, "a whole number")
    if not 1 <= weight <= MAX_WEIGHT:
        raise ConfigError(f"queue {queue}: weight is {weight}, allowed is 1 to {MAX_WEIGHT}")
    return weight


def weights_of(queues: Sequence[tuple[str, int | None]]) -> tuple[int, ...]:
    """Return the weights of queues in their order; () where none has one.

    Raises:
        ConfigError: some have one, and others do not.
    """
    weights = tuple(weight for _, weight in queues if weight is not None)
    if weights and len(weights) < len(queues):
        without = ", ".join(name for name, weight in queues if weight is None)
        raise ConfigError(
            f"these queues have no weight while others have one: {without}; give each a weight, or "
            "none, for strict order"
        )
    return weights


def depth_limits_of(queues: Iterable[Queue]) -> dict[str, DepthLimit]:
    """Return the limits of those queues that have one, by name."""
    limits = ((str.__str__(queue.name), queue.depth_limit) for queue in queues)
    return {name: limit for name, limit in limits if limit is not None}
