"""Since when Redis holds a queue: whether what was accepted earlier can be there at all.

The first enqueue to a queue writes `epoch` into its `meta`. A Redis that came back without its
data, or was emptied by FLUSHALL, has none, or a later one.
"""

import time
from collections.abc import Sequence

from qcore.broker.broker import Broker
from qcore.broker.examination import Finding, fault, span
from qcore.broker.reading import natural

#: Two clocks that measure the same span may differ by so much, and by so many parts of it.
_SLACK_S, _SLACK_PART = 0.1, 0.001
#: Operators are told of a loss for so long.
_TOLD_MS = 24 * 3600 * 1000


async def is_emptied(broker: Broker, queue: str, since: float) -> bool:
    """Say whether Redis has lost the whole queue since a moment of `time.monotonic`.

    At that moment a job was enqueued, or was there. Only spans are compared, no two clocks.

    Redis: two reads, one round trip.
    """
    meta = broker.keys(queue).names["meta"]
    epoch, (whole, micro) = await broker.ask([(b"HGET", meta, b"epoch"), (b"TIME",)])
    began_ms = natural(epoch)
    if began_ms is None:
        return True
    age_s, span_s = int(whole) + int(micro) / 1e6 - began_ms / 1000, time.monotonic() - since
    return age_s + _SLACK_S + span_s * _SLACK_PART < span_s


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
        metas = [self._broker.keys(queue).names["meta"] for queue in self._queues]
        *epochs, (whole, _) = await self._broker.ask(
            [*((b"HGET", meta, b"epoch") for meta in metas), (b"TIME",)]
        )
        found = {q: natural(raw) for q, raw in zip(self._queues, epochs, strict=True)}
        lost = [queue for queue, epoch in self._known.items() if found[queue] != epoch]
        self._known = {queue: epoch for queue, epoch in found.items() if epoch is not None}
        if lost:
            now_ms = int(whole) * 1000
            await self._broker.ask(
                [(b"HSET", self._broker.keys(q).names["meta"], b"emptied", now_ms) for q in lost]
            )
        return lost


async def check_losses(broker: Broker, queues: Sequence[str]) -> list[Finding]:
    """Return a finding for each queue that Redis lost in the last 24 h, as a worker noticed.

    Redis: one read per queue, one round trip.
    """
    metas = [broker.keys(queue).names["meta"] for queue in queues]
    *losses, (whole, _) = await broker.ask(
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
