"""What the scripts do to one queue, said once more in Python: the transition table as code.

A queue is its keys, by their short names; a token is `owner:seq:id`. What a script publishes is not
in it. No code of the library is used.
"""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from tests.support.held_model import WAKEUP
from tests.support.keys_model import Keys

QUARANTINED, ALONE = 2, 3
HOUR_MS = 3600 * 1000
FORGET_CRASHES_MS = 72 * HOUR_MS


def id_of(token: str) -> str:
    return token.split(":", 2)[2]


def by_score(scores: Mapping[str, int], low: float, high: float, limit: int | None) -> list[str]:
    found = sorted((score, name) for name, score in scores.items() if low <= score <= high)
    return [name for _, name in found[:limit]]


class Model(Keys):
    """One queue. Each method is one script, with its arguments, and returns its reply."""

    def __init__(self) -> None:
        super().__init__()
        self.active: dict[str, int] = {}
        self.waiters: dict[str, list[str]] = {}
        self.expiry: dict[str, int] = {}

    def content(self) -> dict[str, Any]:
        """Return what Redis must hold, as `keys_of` shows it."""
        shown: dict[str, Any] = {
            **vars(self),
            "jobs": {id: at.to_bytes(8) + body.encode() for id, (at, body) in self.jobs.items()},
            "crashes": {id: f"{n} {at}" for id, (n, at) in self.crashes.items()},
            "cancels": {id: f"{keep} {outcome}" for id, (keep, outcome) in self.cancels.items()},
            "waiters": {id: " ".join(channels) for id, channels in self.waiters.items()},
            **self.shown_keys(),
            "meta": {name: str(value) for name, value in self.meta.items()},
        }
        of_a_call = ("plan", "cuts")
        return {name: value for name, value in shown.items() if value and name not in of_a_call}

    # -- what several transitions share -----------------------------------------------------------

    def _line(self, id: str, now: int) -> list[str]:
        return self.quarantine if self.lost(id, now) >= QUARANTINED else self.ready

    def lost(self, id: str, now: int) -> int:
        count, at = self.crashes.get(id, (0, now))
        return count if now - at < FORGET_CRASHES_MS else 0

    def _to_head(self, ids: Sequence[str], now: int) -> None:
        for id in reversed(ids):
            self._line(id, now).insert(0, id)

    def _forget(self, ids: Iterable[str]) -> None:
        for id in ids:
            for table in (self.jobs, self.state, self.crashes, self.cancels):
                table.pop(id, None)
            self.free([id], "ds", is_over=True)

    def _tell(self, ids: Iterable[str]) -> None:
        for id in ids:
            self.waiters.pop(id, None)

    def _cancelled(self, id: str, keep_ms: int, outcome: str, now: int) -> str:
        self.done[id], self.expiry[id] = f"{keep_ms} {outcome}", now + keep_ms
        self._forget([id])
        self._tell([id])
        return "cancelled"

    def _promote_due(self, now: int, limit: int) -> int:
        due = by_score(self.scheduled, -math.inf, now, limit)
        for id in due:
            del self.scheduled[id]
            self._line(id, now).append(id)
        return len(due)

    def _give_back(self, token: str, charge: bool, now: int, crash_limit: int) -> str:
        id = id_of(token)
        del self.active[token], self.running[id]
        if id in self.cancels:
            return self._cancelled(id, *self.cancels[id], now)
        count = self.lost(id, now)
        if charge:
            count += 1
            self.crashes[id] = (count, now)
            if count >= crash_limit:
                self.dead[id] = now
                self.free([id], "ds", is_over=False)
                self._tell([id])
                return "dead"
        self.wakeup = dict(WAKEUP)
        if charge and count >= QUARANTINED:
            self.scheduled[id] = now + min(60_000, 1000 * 2 ** (count - QUARANTINED))
            return "scheduled"
        self._to_head([id], now)
        return "ready"

    # -- producers --------------------------------------------------------------------------------

    def enqueue(
        self, now: int, nonce: str, call: int, items: Sequence[tuple[str, int, str]]
    ) -> list[str] | None:
        """Each item is id, due time (at most `now`: at once), envelope; None: it is closed."""
        seen, _ = self.producers.get(nonce, (-1, 0))
        if call <= seen:
            self.producers[nonce] = (seen, now)
            return []
        if "closed" in self.meta:
            return None
        self.producers[nonce] = (call, now)
        self.meta.setdefault("epoch", 0 if "fence" in self.meta else now)
        known: list[str] = []
        for id, due, body in items:
            if id in self.jobs:
                known.append(id)
                continue
            self.jobs[id] = (now, body)
            if due > now:
                self.scheduled[id] = due
                if by_score(self.scheduled, -math.inf, math.inf, 1) == [id]:
                    self.wakeup = dict(WAKEUP)
            else:
                self.ready.append(id)
                self.wakeup = dict(WAKEUP)
        return known

    # -- workers ----------------------------------------------------------------------------------

    def claim(
        self,
        now: int,
        deadline: int,
        prefix: str,
        limit: int,
        left: int,
        room: int,
        promote: int,
        line: str,
        is_idle: bool,
    ) -> tuple[list[str], int, int, int]:
        """One queue's part of a claim; return ids, how many more, the bytes left, the fence."""
        promoted, is_paused = self._promote_due(now, promote), self.paused_until(now) is not None
        if promoted and line == "quarantine" and not is_paused:
            self.wakeup = dict(WAKEUP)
        waiting, ids = [] if is_paused else getattr(self, line), []
        limit = min(limit, left)
        alone = [self.lost(id, now) >= ALONE for id in waiting[:limit]]
        if line == "quarantine" and True in alone:
            limit = left = alone.index(True) or int(is_idle)
        for id in waiting[:limit]:
            size = 8 + len(self.jobs[id][1])
            room -= size
            if room < 0 and ids:
                break
            ids.append(id)
        del waiting[: len(ids)]
        for id in ids:
            self.active[prefix + id], self.running[id] = deadline, prefix + id
        self.free(ids, "s", is_over=True)
        return ids, left - len(ids), room, self._rise(now) if ids else 0

    def acquit(self, now: int, ids: Sequence[str]) -> list[str]:
        found = [id for id in dict.fromkeys(ids) if self.lost(id, now) == ALONE]
        self.crashes |= {id: (QUARANTINED, self.crashes[id][1]) for id in found}
        return found

    def _rise(self, now: int) -> int:
        fence = self.meta["fence"] = max(int(self.meta.get("fence", 0)) + 1, now * 1000)
        return fence

    def waiting_in_quarantine(self, now: int) -> int:
        """Return how many wait for a process of their own, which a paused queue gives to none."""
        return len(self.quarantine) if self.paused_until(now) is None else 0

    def again(self, line: str, now: int, *, took: bool) -> float:
        """Return when a claim can bring more; 0 for now. Called once all queues had their turn."""
        if not (self.ready or self.quarantine or self.scheduled):
            return math.inf  # also of a paused queue: when its pause ends there is nothing to claim
        if (until := self.paused_until(now)) is not None:
            return until
        if getattr(self, line):
            if took and line == "ready":
                self.wakeup = dict(WAKEUP)
            return 0
        return min(self.scheduled.values(), default=math.inf)

    def recover(self, now: int, deadline: int, prefix: str) -> tuple[list[str], int]:
        tokens = sorted(token for token in self.active if token.startswith(prefix))
        self.active.update(dict.fromkeys(tokens, deadline))
        return tokens, self._rise(now) if tokens else 0

    def extend(self, deadline: int, tokens: Sequence[str]) -> list[str]:
        self.active.update({token: deadline for token in tokens if token in self.active})
        return [token for token in tokens if token not in self.active]

    def note(self, token: str, record: str) -> list[str]:
        if token not in self.active:
            return [token]
        self.state[id_of(token)] = record
        return []

    def settle(self, now: int, ended: Sequence[tuple[str, tuple[Any, ...]]]) -> list[str]:
        """Each is a token and ("ack",), ("keep", outcome, ms), ("retry", record, ms), ..."""
        released: list[str] = []
        lost = [token for token, _ in ended if token not in self.active]
        for token, (kind, *what) in ended:
            if token in lost:
                continue
            id = id_of(token)
            del self.active[token], self.running[id]
            match kind:
                case "ack" | "keep":
                    if what:
                        self.done[id], self.expiry[id] = f"{what[1]} {what[0]}", now + what[1]
                    self._forget([id])
                    self._tell([id])
                case "bury":
                    self.state[id], self.dead[id] = what[0], now
                    self.cancels.pop(id, None)
                    self.free([id], "ds", is_over=False)
                    self._tell([id])
                case _ if id in self.cancels:
                    self._cancelled(id, *self.cancels[id], now)
                case "retry":
                    self.state[id], self.scheduled[id] = what[0], now + what[1]
                case _:
                    released.append(id)
        self._to_head(released, now)
        if released:
            self.wakeup = dict(WAKEUP)
        return lost

    # -- upkeep -----------------------------------------------------------------------------------

    def promote(self, now: int, limit: int) -> tuple[int, int]:
        count = self._promote_due(now, limit)
        if count:
            self.wakeup = dict(WAKEUP)
        return count, self.waiting_in_quarantine(now)

    def reclaim(
        self,
        now: int,
        lease_ms: int,
        stale_ms: int,
        guard_ms: int,
        crash_limit: int,
        limit: int,
        heard_ms: int,
    ) -> list[tuple[str, str]]:
        last, guard = int(self.meta.get("last_sweep", 0)), int(self.meta.get("guard_until", 0))
        last = max(last, heard_ms)
        self.meta["last_sweep"] = now
        if now - last > stale_ms or last > now:
            guard = now + guard_ms
            self.meta["guard_until"] = guard
        if last > now or "clock_back" in self.meta:
            far = by_score(self.active, now + 2 * lease_ms, math.inf, limit)
            self.active.update(dict.fromkeys(far, now + lease_ms))
            self.meta.pop("clock_back", None)
            if len(far) == limit:
                self.meta["clock_back"] = 1
        if now < guard <= now + guard_ms:
            return []
        expired = by_score(self.active, -math.inf, now, limit)
        return [(t, self._give_back(t, True, now, crash_limit)) for t in reversed(expired)]

    def reclaim_owner(
        self,
        now: int,
        owner: str,
        charge: bool,
        crash_limit: int,
        culprits: Collection[str] = (),
    ) -> list[tuple[str, str]]:
        tokens = [token for token in self.active if token.startswith(f"{owner}:")]
        tokens.sort(key=id_of, reverse=True)
        charged = {t for t in tokens if charge and (not culprits or t in culprits)}
        return [(t, self._give_back(t, t in charged, now, crash_limit)) for t in tokens]

    def prune(
        self, now: int, limit: int, trace_ms: int, size: int, silent_ms: int
    ) -> tuple[int, bool]:
        over = by_score(self.expiry, -math.inf, now, limit)
        for id in over:
            keep_ms, space, outcome = self.done[id].partition(" ")
            if space:
                self.done[id] = outcome[:size]
                self.expiry[id] = now + min(trace_ms, int(keep_ms))
            else:
                del self.done[id], self.expiry[id]
        for nonce, (_, at) in list(self.producers.items()):
            if now - at > silent_ms:
                del self.producers[nonce]
                self.answers.pop(nonce, None)
        return len(over), limit in (len(over), self.end_windows(now, limit))

    # -- users and operators ----------------------------------------------------------------------

    def find(self, id: str, channel: str) -> str:
        if id in self.done:
            return "done"
        if id in self.dead:
            return "dead"
        where = "active" if id in self.running else "scheduled" if id in self.scheduled else "ready"
        if id not in self.jobs:
            return ""
        if where == "ready" and id in self.cancels:
            return "done"
        channels = self.waiters.setdefault(id, [])
        if channel not in channels:
            channels.append(channel)
        return where

    def cancel(self, now: int, keep_ms: int, outcome: str, ids: Sequence[str]) -> list[str]:
        return [self._cancel(now, keep_ms, outcome, id) for id in ids]

    def _cancel(self, now: int, keep_ms: int, outcome: str, id: str) -> str:
        if id not in self.jobs:
            return "ended" if id in self.done else ""
        if id in self.dead:
            return "ended"
        if self.scheduled.pop(id, None) is not None:
            self._cancelled(id, keep_ms, outcome, now)
            return "scheduled"
        self.cancels[id] = (keep_ms, outcome)
        if id in self.running:
            return "active"
        self.free([id], "ds", is_over=True)
        self._tell([id])
        return "ready"

    def clear(self, now: int, limit: int, outcome: str, keep_ms: int) -> int:
        line = self.ready or self.quarantine
        ids = line[:limit] or by_score(self.scheduled, -math.inf, math.inf, limit)
        del line[:limit]
        for id in ids:
            self.scheduled.pop(id, None)
            if id in self.waiters or id in self.cancels:
                self._cancelled(id, keep_ms, outcome, now)
            self._forget([id])
            self.meta["cleared"] = now
        return len(ids)

    def revive(self, now: int, items: Sequence[tuple[str, str]]) -> list[str | list[str]]:
        revived = list[str | list[str]]()
        for id, record in items:
            if id in self.dead and (holder := self.holder_against(now, id)):
                revived.append([id, holder])
            elif self.dead.pop(id, None) is not None:
                self.crashes.pop(id, None)
                self.state[id] = record
                self.ready.append(id)
                self.wakeup = dict(WAKEUP)
                revived.append(id)
        return revived

    def purge(self, now: int, ids: Sequence[str]) -> int:
        gone = [id for id in dict.fromkeys(ids) if self.dead.pop(id, None) is not None]
        self._forget(gone)
        if gone:
            self.meta["purged"] = now
        return len(gone)

    def purge_older(self, now: int, age: int, limit: int) -> int:
        return self.purge(now, by_score(self.dead, -math.inf, now - age, limit))
