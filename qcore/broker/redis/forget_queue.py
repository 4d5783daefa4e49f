"""Removes the keys of an unused queue, or says what still holds it."""

import msgspec

from qcore.broker.redis import scripts
from qcore.broker.redis.broker import Broker
from qcore.broker.redis.fleet import Fleet
from qcore.broker.redis.keys import queues_key

#: Nobody serves a queue that was not swept for so long; its keys would come back.
_AWAY_MS = 60_000


class Holders(msgspec.Struct, frozen=True, kw_only=True):
    """What is in a queue, and who uses it."""

    ready: int
    scheduled: int
    active: int
    dead: int
    #: Payloads, of these jobs and of lost ones.
    payloads: int
    #: Results, reasons and traces that are kept of jobs that have ended. They hold nothing.
    outcomes: int
    #: Processes that have enqueued within an hour: what one repeats must be known.
    producers: int
    #: Windows of unique keys that last: who asks again within one must be told.
    windows: int
    #: Seconds since a worker swept it; None for never.
    swept_s: float | None
    #: Supervisors that serve it, as `NAME on HOST`.
    supervisors: tuple[str, ...]

    @property
    def reasons(self) -> list[str]:
        """Why it cannot be forgotten, each in some words with a remedy; empty when it can."""
        counts = [("ready", self.ready), ("scheduled", self.scheduled), ("active", self.active)]
        waiting = ", ".join(f"{count} {name}" for name, count in counts if count)
        others = self.payloads - self.ready - self.scheduled - self.active - self.dead
        found = [
            (waiting, f"it holds {waiting} (let workers drain it, or `qcore clear`)"),
            (self.dead, f"it holds {self.dead} dead (`qcore dead purge --all-of`, or revive them)"),
            (others > 0, f"it holds {others} lost (`qcore doctor`)"),
            (self.supervisors, f"it is served by {', '.join(self.supervisors)}"),
            (
                not self.supervisors and self._is_swept,
                f"a worker swept it {self.swept_s or 0:.0f} s ago",
            ),
            (
                self.producers,
                f"{self.producers} producers called within the last hour, and may repeat that",
            ),
            (
                self.windows,
                f"{self.windows} windows of unique keys last (`qcore unique list`, `free`)",
            ),
        ]
        return [reason for holds, reason in found if holds]

    @property
    def _is_swept(self) -> bool:
        return self.swept_s is not None and self.swept_s * 1000 < _AWAY_MS


async def holders(broker: Broker, queue: str) -> Holders:
    """Return what holds a queue; producers that were silent for an hour are forgotten before.

    Redis: prune.lua once per 500 producers, then forget.lua and HGETALL of the fleet.
    """
    cursor, more = 0, True
    while more or cursor:
        _, cursor, more = await broker.prune(queue, cursor=cursor)
    (reply,) = await broker._ask([_call(broker, queue, act=False)])
    members = await Fleet(broker).members()
    serving = [m.view for m in members if queue in m.view.queues]
    _, ready, scheduled, active, dead, payloads, outcomes, producers, swept_ms, windows = reply
    return Holders(
        ready=ready,
        scheduled=scheduled,
        active=active,
        dead=dead,
        payloads=payloads,
        outcomes=outcomes,
        producers=producers,
        windows=windows,
        swept_s=None if swept_ms is None else swept_ms / 1000,
        supervisors=tuple(f"{view.name} on {view.host}" for view in serving),
    )


async def forget_queue(broker: Broker, queue: str) -> bool:
    """Remove every key of a queue and its name, unless it holds a job or is used.

    Who uses it later makes it anew; a pause or closing of it is forgotten, too.

    Returns:
        Whether it was forgotten; else `holders` says why not.

    Redis: forget.lua; where it comes to life in the same moment, its name stays.
    """
    ((forgotten, *_),) = await broker._ask([_call(broker, queue, act=True)])
    if not forgotten:
        return False
    names, keys = queues_key(broker.config.namespace), broker._keys_of(queue).names
    await broker._ask([(b"SREM", names, queue)])
    found = await broker._ask([(b"EXISTS", key) for key in keys.values()])
    if any(found):  # somebody enqueued in between, who had told its name before
        await broker._ask([(b"SADD", names, queue)])
    return True


def _call(broker: Broker, queue: str, *, act: bool) -> scripts.Call:
    return scripts.FORGET.call(broker._keys_of(queue), b"", _AWAY_MS, int(act))
