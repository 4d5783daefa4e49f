"""When Redis began to hold a queue: tells a job that Redis lost from one that has ended.

The first enqueue to a queue writes `epoch` into its `meta`: 0 where an older version had filled the
queue before, which wrote none. A Redis that came back without its data, or was emptied by FLUSHALL,
has none, or a later one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from qcore.broker.identity import made_ms
from qcore.broker.redis.broker import Broker
from qcore.broker.redis.server_checks import span
from qcore.errors import JobNotFound
from qcore.model.findings import Finding, fault
from qcore.model.reading import FAR_MS, natural
from qcore.model.reference import reference

#: Two clocks that measure the same span may differ by so much, and by so many parts of it.
_SLACK_S, _SLACK_PART = 0.1, 0.001
#: Redis counts milliseconds: between two of its times may lie so much more than they say.
_TICK_S = 0.001
#: Operators are told of a loss for so long.
_TOLD_MS = 24 * 3600 * 1000


@dataclass(slots=True, frozen=True)
class NoTrace:
    """What Redis says of the queue of a job that it has no trace of.

    Times since then are spans of `time.monotonic`, so that no two clocks are compared.
    """

    queue: str
    id: str
    #: What find.lua says: `now_ms`, `cleared`, `purged`, `epoch`, `fence`.
    said: Sequence[bytes | None]
    #: When it was asked, by `time.monotonic`: not when it had answered, which may be much later.
    asked_at: float

    def check(self, since: float | None) -> None:
        """Raise JobNotFound if that is why, as far as Redis and who had it accepted know."""
        if since is not None:
            self._check_not_emptied(since)
        _, cleared, *_ = self.said
        if self._is_before(cleared, since):
            raise self._gone(cleared, "its queue was cleared", "was cancelled then")
        self._check_not_purged(since)

    def check_seen(self, first_at: float, last_at: float) -> None:
        """Do the same for who has waited, and saw it alive at these times.

        Of its cancelling there would be a trace, since it was awaited.
        """
        self._check_not_emptied(first_at)
        self._check_not_purged(last_at)

    def _check_not_emptied(self, since: float) -> None:
        """Raise JobNotFound if Redis has lost the whole queue since a job was accepted or seen."""
        span_s, (*_, epoch, fence) = self.asked_at - since, self.said
        age_s = self._age_s(epoch)
        if age_s is None:
            # with a fence it was made by an older version, which wrote no epoch
            is_emptied = fence is None
        else:
            is_emptied = age_s + _SLACK_S + span_s * _SLACK_PART < span_s
        if is_emptied:
            raise JobNotFound(
                f"there is no job {reference(self.queue, self.id)}: since it was enqueued Redis "
                f"has lost all that it held of queue {self.queue}; nobody knows whether it ran"
            )

    def _check_not_purged(self, since: float | None) -> None:
        _, _, purged, *_ = self.said
        if self._is_before(purged, since):
            raise self._gone(purged, "dead jobs of its queue were purged", "was one of them")

    def _is_before(self, stamp: bytes | None, since: float | None) -> bool:
        """Say whether the job was there already at a time that stands in `meta`.

        Spans tell it, which know no other clock; that of its maker counts where there are none, or
        where they are too close.
        """
        at_ms, made, age_s = natural(stamp), made_ms(self.id), self._age_s(stamp)
        if at_ms is None or age_s is None or at_ms >= FAR_MS:
            return False
        if since is not None and age_s + _TICK_S <= self.asked_at - since:
            return True
        if since is not None and age_s > self.asked_at - since + _SLACK_S:
            return False
        return made is None or made <= at_ms

    def _gone(self, stamp: bytes | None, event: str, fate: str) -> JobNotFound:
        at = datetime.fromtimestamp((natural(stamp) or 0) / 1000, UTC)
        return JobNotFound(
            f"there is no trace of job {reference(self.queue, self.id)}: {event} at "
            f"{at:%Y-%m-%d %H:%M:%SZ}; it {fate}, or ended before and kept nothing"
        )

    def _age_s(self, stamp: bytes | None) -> float | None:
        at_ms = natural(stamp)
        return None if at_ms is None else ((natural(self.said[0]) or 0) - at_ms) / 1000


class Epochs:
    """Remembers the epochs of some queues, and notices when one is gone."""

    def __init__(self, broker: Broker, queues: tuple[str, ...]) -> None:
        self._broker = broker
        self._queues = queues
        self._known: dict[str, int] = {}

    async def look(self) -> list[str]:
        """Return the queues that Redis has lost since the last look; leave word of it for doctor.

        Redis: one read per queue, one round trip; one more for what was lost.
        """
        metas = [self._broker._keys_of(queue).names["meta"] for queue in self._queues]
        *epochs, (whole, _) = await self._broker._ask(
            [*((b"HGET", meta, b"epoch") for meta in metas), (b"TIME",)]
        )
        found = {q: natural(raw) for q, raw in zip(self._queues, epochs, strict=True)}
        lost = [queue for queue, epoch in self._known.items() if found[queue] != epoch]
        self._known = {queue: epoch for queue, epoch in found.items() if epoch is not None}
        if lost:
            now_ms = int(whole) * 1000
            await self._broker._ask(
                [
                    (b"HSET", self._broker._keys_of(q).names["meta"], b"emptied", now_ms)
                    for q in lost
                ]
            )
        return lost


async def check_losses(broker: Broker, queues: Sequence[str]) -> list[Finding]:
    """Return a finding for each queue that Redis lost in the last 24 h, as a worker noticed.

    Redis: one read per queue, one round trip.
    """
    metas = [broker._keys_of(queue).names["meta"] for queue in queues]
    *losses, (whole, _) = await broker._ask(
        [*((b"HGET", meta, b"emptied") for meta in metas), (b"TIME",)]
    )
    now_ms, findings = int(whole) * 1000, list[Finding]()
    for queue, raw in zip(queues, losses, strict=True):
        at = natural(raw)
        if at is not None and now_ms - at <= _TOLD_MS:
            age = span(max(0, now_ms - at) / 1000)
            findings.append(
                fault(
                    f"queue {queue}",
                    "Redis lost all that it held of this queue (FLUSHALL, or a restart without its "
                    f"data), as a worker noticed {age} ago: jobs accepted before are gone",
                    "Enqueue again what your records say is missing; see the check persistence.",
                )
            )
    return findings
