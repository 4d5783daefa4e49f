"""How long to wait between two tries."""

import random

#: Of the kernel: all processes that were forked from one would draw the same jitter.
_random = random.SystemRandom()


class Backoff:
    """Delays between tries: full jitter under a bound that doubles from `least_s` to `most_s`."""

    def __init__(self, least_s: float, most_s: float) -> None:
        self._least_s = least_s
        self._most_s = most_s
        self._bound_s = least_s

    def next_s(self) -> float:
        """Return the next delay in seconds."""
        bound_s, self._bound_s = self._bound_s, min(self._bound_s * 2, self._most_s)
        return _random.uniform(0, bound_s)

    def reset(self) -> None:
        """Start again from `least_s`: something worked."""
        self._bound_s = self._least_s
