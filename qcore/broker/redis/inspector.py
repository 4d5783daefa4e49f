"""What users and operators do: read depths and records, cancel, clear, revive, purge, pause."""

import asyncio
import time
from collections.abc import Sequence
from typing import Any

from qcore.broker.contract import CALL_JOBS, CHORE_LIMIT, Revived
from qcore.broker.redis import scripts
from qcore.broker.redis.broker import Broker
from qcore.broker.redis.epoch import NoTrace
from qcore.broker.redis.job_records import record_of
from qcore.broker.redis.keys import queues_key
from qcore.broker.redis.script_codec import earliest_ms
from qcore.broker.redis.scripts import Call
from qcore.broker.redis.urls import where_is
from qcore.durations import Seconds, seconds
from qcore.errors import ArgumentError
from qcore.model.codec import decode_state, encode
from qcore.model.job import JobOutcome, JobState, JobStatus
from qcore.model.reading import natural, raw_of, text_of
from qcore.model.views import JobRecord, Pause, QueueStats
from qcore.settings import KEEP_S, NAME

#: A reason is one line for operators; a longer pause is a slip of the finger.
_REASON_CHARS = 200
_PAUSE_MAX_S = 10 * 365 * 24 * 3600
#: So many payloads are read at once: they may be 6 MB.
_PAYLOADS = 50
#: Between two of many calls; on a slow link there are pauses enough.
_MAX_PAUSE_S = 0.1


class Inspector:
    """Reads and repairs the queues of one namespace, in calls of bounded work."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        #: Which namespace of which Redis is looked at.
        self.where = where_is(broker.config)

    async def names(self) -> list[str]:
        """Return the names of all queues ever used, sorted."""
        key, names, cursor = queues_key(self._broker.config.namespace), set[bytes](), b"0"
        while True:
            ((cursor, page),) = await self._broker._ask([(b"SSCAN", key, cursor, b"COUNT", 500)])
            names.update(page)
            if cursor == b"0":
                return sorted(name for raw in names if NAME.fullmatch(name := text_of(raw)))

    async def queues(self, names: Sequence[str] | None = None) -> list[QueueStats]:
        """Return the depths of the named queues, by default of all.

        Redis: depth.lua once per queue, 200 in one round trip.
        """
        names = await self.names() if names is None else names
        found: list[QueueStats] = []
        for i in range(0, len(names), CHORE_LIMIT):
            part = names[i : i + CHORE_LIMIT]
            calls = [scripts.DEPTH.call(self._broker._keys_of(name), b"") for name in part]
            found += map(_stats, part, await self._broker._ask(calls))
        return found

    async def job(self, queue: str, id: str, *, since: float | None = None) -> JobRecord | None:
        """Return what is known about one job, or None when there is no trace of it.

        Raises:
            JobNotFound: there is none, and it may have been cleared or purged; or Redis has lost
                its queue since its producer saw it accepted, `since` by `time.monotonic`.
        """
        keys, words = self._broker._keys_of(queue), dict.fromkeys((id.encode(), raw_of(id)))
        asked_at = time.monotonic()
        replies = await self._broker._ask([scripts.FIND.call(keys, word, b"") for word in words])
        reply = next((reply for reply in replies if reply[0]), replies[0])
        return _found(queue, id, reply, asked_at, since)

    async def ended(self, queue: str, id: str, *, since: float | None = None) -> JobRecord | None:
        """Wait until a job has ended; return the same as `job` does then.

        A job that was seen alive and has left no trace is completed.

        Raises:
            BrokerUnavailable: it could not be looked at, for as long as an enqueue is tried.
            JobNotFound: as `job`; or Redis has lost the queue since it was seen, or dead jobs were
                purged since it was last seen.
        """
        reply, seen_at, last_seen_at, asked_at = await self._broker.ended(queue, id)
        if reply[0] == b"" and seen_at is not None:
            NoTrace(queue, id, reply[4], asked_at).check_seen(seen_at, last_seen_at)
            return JobRecord(id=id, queue=queue, status=JobStatus.COMPLETED)
        return _found(queue, id, reply, asked_at, since)

    async def dead(self, queue: str, *, limit: int = 100, skip: int = 0) -> list[JobRecord]:
        """Return dead jobs of one queue, the latest death first.

        Args:
            queue: Its name.
            limit: At most so many, 1 to 500.
            skip: Pass over so many first.
        """
        keys = self._broker._keys_of(queue)
        (found,) = await self._broker._ask(
            [(b"ZREVRANGE", keys.names["dead"], skip, skip + limit - 1, b"WITHSCORES")]
        )
        records: list[JobRecord | None] = []
        for i in range(0, len(found), 2 * _PAYLOADS):
            ids, deaths = found[i : i + 2 * _PAYLOADS : 2], found[i + 1 : i + 2 * _PAYLOADS : 2]
            columns = await self._broker._ask(
                [(b"HMGET", keys.names[name], *ids) for name in ("jobs", "state", "crashes")]
            )
            records += (
                record_of(
                    queue, text_of(id), [b"dead", payload, state, crashes, at, None, None, None]
                )
                for id, payload, state, crashes, at in zip(ids, *columns, deaths, strict=True)
            )
        return [record for record in records if record is not None]

    async def cancel(self, queue: str, ids: Sequence[str]) -> list[str]:
        """Scheduled -> cancelled at once; ready, active: a request, which the next step obeys.

        A ready job ends when its turn comes, without running; an active one is told within a
        heartbeat of its worker (1 s).

        Returns:
            Where each job was: "scheduled", "ready", "active", "ended", or "" for no trace.

        Redis: cancel.lua, once per 500 ids.
        """
        outcome = encode(JobOutcome(JobStatus.CANCELLED, reason="on request"))
        keys, places = self._broker._keys_of(queue), list[str]()
        for i in range(0, len(ids), CALL_JOBS):
            chunk = ids[i : i + CALL_JOBS]
            call = scripts.CANCEL.call(keys, b"", round(KEEP_S * 1000), outcome, *chunk)
            (reply,) = await self._broker._ask([call])
            places += [place.decode() for place in reply]
        return places

    async def revive(self, queue: str, ids: Sequence[str]) -> Revived:
        """Dead -> ready: all attempts again, the error history kept, and no expiry.

        Returns:
            The ids that were revived, and in `held` those that stay dead since another job holds
            their unique key; the others were not dead or have no payload.
        """
        keys, revived = self._broker._keys_of(queue), Revived()
        for i in range(0, len(ids), CALL_JOBS):
            chunk = ids[i : i + CALL_JOBS]
            (states,) = await self._broker._ask([(b"HMGET", keys.names["state"], *chunk)])
            items: list[object] = []
            for id, raw in zip(chunk, states, strict=True):
                fresh = JobState(errors=decode_state(raw).errors, revived=True)
                items += (id, encode(fresh))
            (reply,) = await self._broker._ask([scripts.REVIVE.call(keys, b"", *items)])
            for said in reply:
                if isinstance(said, bytes):
                    revived.append(text_of(said))
                else:
                    id, holder = map(text_of, said)
                    revived.held[id] = holder
        return revived

    async def revive_all(self, queue: str) -> Revived:
        """Dead -> ready: every job that was dead when this began; return the same as `revive`.

        A job that dies again meanwhile is not revived a second time.

        Redis: two calls per 200 jobs, with pauses.
        """
        key, revived, skip = self._broker._keys_of(queue).names["dead"], Revived(), 0
        (left,) = await self._broker._ask(
            [(b"ZCARD", key)]
        )  # who dies meanwhile stands behind them
        while left > 0:
            began, last = time.monotonic(), skip + min(left, CHORE_LIMIT) - 1
            (page,) = await self._broker._ask([(b"ZRANGE", key, skip, last)])
            if not page:
                break
            done = await self.revive(queue, [text_of(id) for id in page])
            revived += done
            revived.held |= done.held
            left -= len(page)
            skip += len(page) - len(done)  # they have no payload or no key, and stay
            await _pause_since(began)
        return revived

    async def purge(
        self, queue: str, *, ids: Sequence[str] = (), older_than_s: float | None = None
    ) -> int:
        """Dead -> -: forget the jobs named, or all that have been dead for `older_than_s`.

        Handles of older jobs without a trace raise JobNotFound from then on.

        Returns:
            How many were purged.
        """
        keys, purged = self._broker._keys_of(queue), 0
        if older_than_s is None:
            for i in range(0, len(ids), CALL_JOBS):
                chunk = ids[i : i + CALL_JOBS]
                words = dict.fromkeys([*chunk, *map(raw_of, chunk)])
                call = scripts.PURGE.call(keys, b"", b"", CALL_JOBS, *words)
                purged += int((await self._broker._ask([call]))[0])
            return purged
        while True:
            call = scripts.PURGE.call(keys, b"", round(older_than_s * 1000), CALL_JOBS)
            count = int((await self._broker._ask([call]))[0])
            purged += count
            if count < CALL_JOBS:
                return purged

    async def clear(self, queue: str) -> int:
        """Ready, scheduled -> cancelled: all of them; what is running goes on.

        Those that somebody awaits leave word for 24 h that they were cancelled, the others leave
        nothing, so that memory is freed also where Redis is full. Their handles raise JobNotFound.

        Returns:
            How many were cleared.

        Redis: clear.lua, one call per 200 jobs, with pauses; jobs enqueued meanwhile may be
        cleared too.
        """
        cancelled = encode(JobOutcome(JobStatus.CANCELLED, reason="its queue was cleared"))
        call = scripts.CLEAR.call(
            self._broker._keys_of(queue), b"", CHORE_LIMIT, cancelled, round(KEEP_S * 1000)
        )
        cleared = 0
        while count := int(await self._ask_gently(call)):
            cleared += count
        return cleared

    async def _ask_gently(self, call: Call) -> Any:
        """Make one of many calls, then leave Redis to others for as long as it took."""
        began = time.monotonic()
        (reply,) = await self._broker._ask([call])
        await _pause_since(began)
        return reply

    async def pause(self, queue: str, *, for_: Seconds | None = None, reason: str = "") -> Pause:
        """Let nothing of a queue be claimed: at once, by every worker. What runs goes on.

        A queue that is paused gets the new end and reason.

        Args:
            queue: Its name.
            for_: Seconds, timedelta, or text as "10m", at most 10 years; by default until `resume`.
            reason: What other operators are shown, at most 200 characters.

        Raises:
            ArgumentError: a duration that is none, or a reason that is too long.
        """
        for_ms = b"" if for_ is None else _pause_ms(queue, for_)
        # no control characters: it is printed on terminals
        line = "".join(filter(str.isprintable, " ".join(reason.split())))
        if len(line) > _REASON_CHARS:
            raise ArgumentError(
                f"queue {queue}: the reason has {len(line)} characters, allowed are {_REASON_CHARS}"
            )
        call = scripts.PAUSE.call(self._broker._keys_of(queue), b"", for_ms, line)
        return _pause((await self._broker._ask([call]))[0])

    async def close_queue(self, queue: str) -> bool:
        """Let a queue take no new jobs: an enqueue raises QueueClosed. What it holds is worked off.

        Retries are no new jobs.

        Returns:
            Whether this call closed it; else it was closed.
        """
        call = scripts.CLOSE.call(self._broker._keys_of(queue), b"")
        return bool((await self._broker._ask([call]))[0])

    async def open_queue(self, queue: str) -> None:
        """Let a queue take new jobs again; a pause goes on."""
        await self._broker._ask([(b"HDEL", self._broker._keys_of(queue).names["meta"], b"closed")])

    async def resume(self, queue: str) -> bool:
        """End the pause of a queue, and open it if it was closed; workers come at once.

        Returns:
            Whether it was paused or closed.
        """
        call = scripts.RESUME.call(self._broker._keys_of(queue), b"")
        return any((await self._broker._ask([call]))[0])


async def _pause_since(began: float) -> None:
    await asyncio.sleep(min(time.monotonic() - began, _MAX_PAUSE_S))


def _pause_ms(queue: str, for_: Seconds) -> int:
    for_s = seconds(f"queue {queue}: for_", for_, ArgumentError)
    if not 0.001 <= for_s <= _PAUSE_MAX_S:
        raise ArgumentError(f"queue {queue}: for_ is {for_}, allowed is 0.001 s to 10 years")
    return round(for_s * 1000)


def _pause(raw: bytes) -> Pause:
    until, since, reason = raw.split(b" ", 2)
    return Pause(
        since_ms=natural(since) or 0, until_ms=natural(until) or None, reason=text_of(reason)
    )


def _stats(name: str, reply: list[Any]) -> QueueStats:
    now, ready, quarantined, scheduled, active, dead, *stamps, paused, closed, limit = reply
    enqueued = earliest_ms(stamps)
    oldest_s = None if enqueued is None else max(0, int(now) - enqueued) / 1000
    return QueueStats(
        name=name,
        ready=ready + quarantined,
        quarantined=quarantined,
        scheduled=scheduled,
        active=active,
        dead=dead,
        oldest_ready_s=oldest_s,
        paused=None if paused is None else _pause(paused),
        closed_ms=None if closed is None else int(closed),
        max_jobs=natural(limit),
    )


def _found(
    queue: str, id: str, reply: list[Any], asked_at: float, since: float | None
) -> JobRecord | None:
    record = record_of(queue, id, reply)
    if record is None:
        NoTrace(queue, id, reply[4], asked_at).check(since)
    return record
