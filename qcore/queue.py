"""A queue as an app declares it."""

import msgspec

from qcore.settings import check_name


class Queue(msgspec.Struct, frozen=True):
    """A named line of jobs, for `App(queues=[...])`; its name alone does as well.

    Raises:
        ConfigError: a name that cannot be part of a key.
    """

    name: str

    def __post_init__(self) -> None:
        """Check the name."""
        check_name("queue", self.name)
