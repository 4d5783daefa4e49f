"""How long to wait between two tries."""

import random

#: Of the kernel: all processes that were forked from one would draw the same jitter.
_random = random.SystemRandom()


class Backoff:
    """Delays between tries: full jitter under a bound that doubles from `min_s` to `max_s`."""

    def __init__(self, min_s: float, max_s: float) -> None:
        self._min_s = min_s
        self._max_s = max_s
        self._bound_s = min_s

    def next_s(self) -> float:
        """Return the next delay in seconds."""
        bound_s, self._bound_s = self._bound_s, min(self._bound_s * 2, self._max_s)
        return _random.uniform(0, bound_s)

    def reset(self) -> None:
        """Start again from `min_s`: something worked."""
        self._bound_s = self._min_s
