"""A queue as an app declares it."""

from collections.abc import Sequence

import msgspec

from qcore.errors import ConfigError
from qcore.settings import MAX_WEIGHT, check_name, check_type


class Queue(msgspec.Struct, frozen=True):
    """A named line of jobs, for `App(queues=[...])`; its name alone does as well.

    Args:
        name: 1 to 64 of letters, digits, `_`, `.`, `-`.
        weight: 1 to 1,000: its share of the jobs that a worker starts while several queues have
            some. Either all queues of an app have one, or none has: then they are served in strict
            order.

    Raises:
        ConfigError: a name that cannot be part of a key, or a weight out of range.
    """

    name: str
    weight: int | None = None

    def __post_init__(self) -> None:
        """Check the values."""
        check_name("queue", self.name)
        if self.weight is not None:
            check_weight(self.name, self.weight)


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
