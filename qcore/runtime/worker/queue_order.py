"""In which order a worker claims from its queues: strictly, or by weights."""

from collections import Counter
from collections.abc import Iterable, Sequence


class QueueOrder:
    """The queues of a worker, the next one first.

    Without weights that is the order in which they are given. With weights it is the queue that has
    had least, as a multiple of its weight. One that was empty has no claim to what it missed: it
    is put level with those that had jobs.

    Args:
        queues: All of them.
        weights: One for each, or none.
    """

    def __init__(self, queues: Sequence[str], weights: Sequence[int]) -> None:
        self._weights = dict(zip(queues, weights, strict=True)) if weights else {}
        #: Jobs that a queue has given, divided by its weight.
        self._had = dict.fromkeys(self._weights, 0.0)

    def of(self, queues: Iterable[str]) -> list[str]:
        """Return these queues in the order of the next claim."""
        if not self._weights:
            return list(queues)
        return sorted(queues, key=self._had.__getitem__)

    def took(self, asked: Sequence[str], taken: Iterable[str], *, has_more: bool) -> None:
        """Hear what a claim has brought.

        Args:
            asked: Its queues, in its order.
            taken: The queue of each job that it brought.
            has_more: There were more jobs than it could take.
        """
        if not self._weights:
            return
        counts = Counter(taken)
        for queue, count in counts.items():
            self._had[queue] += count / self._weights[queue]
        # a claim goes on to the next queue when one has no more
        last = max((i for i, queue in enumerate(asked) if queue in counts), default=0)
        level = self._had[asked[last]] if has_more else max(self._had.values())
        for queue in asked[:last] if has_more else asked:
            self._had[queue] = max(self._had[queue], level)
