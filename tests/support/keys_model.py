"""The unique keys of a queue of the model: who holds them, and who is admitted."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import msgspec

from tests.support.held_model import WAKEUP, Held


class Asked(NamedTuple):
    """A job that is asked for, with its due time; `until` is "done", "started" or milliseconds."""

    id: str
    due: int
    body: str
    is_own: bool = False
    key: str = ""
    until: str = ""
    conflict: str = "keep"
    digest: str = "-"
    expires: int = 0

    def when(self, now: int) -> str:
        """Return the word between id and envelope."""
        due = f"@{self.due}" if self.due > now else ""
        if not (self.is_own or self.key):
            return due
        key = f"{self.until} {self.conflict} {self.digest} {self.expires} {self.key}"
        key = key if self.key else "- - - 0 "
        return f"{due} {self.is_own:d} {key}"


@dataclass
class Entry:
    till: int
    first: int
    times: int
    digest: str
    expires: int
    id: str


class Keys(Held):
    """The part of a queue that says which job stands for a key."""

    def __init__(self) -> None:
        super().__init__()
        self.jobs: dict[str, tuple[int, str]] = {}
        self.running: dict[str, str] = {}
        self.state: dict[str, str] = {}
        self.crashes: dict[str, tuple[int, int]] = {}
        self.cancels: dict[str, tuple[int, str]] = {}
        self.dead: dict[str, int] = {}
        self.done: dict[str, str] = {}
        self.producers: dict[str, tuple[int, int]] = {}
        #: Of the last call that has some.
        self.answers: dict[str, tuple[int, list[list[str]]]] = {}
        self.unique: dict[str, Entry] = {}
        self.unique_of: dict[str, str] = {}
        self.unique_until: dict[str, int] = {}
        #: What the call that is made now is about to write: due time, envelope, whether it is new.
        self.plan: dict[str, tuple[int, str, bool]] = {}
        #: And of windows that it makes shorter, unless another job gets the key.
        self.cuts: dict[str, int] = {}

    def shown_keys(self) -> dict[str, object]:
        """Return what Redis must hold of keys and of answers."""
        entries = self.unique.items()
        return {
            "unique": {
                key: f"{e.till} {e.first} {e.times} {e.digest} {e.expires} {e.id}"
                for key, e in entries
            },
            "producers": {nonce: f"{n} {at}" for nonce, (n, at) in self.producers.items()},
            "answers": {
                nonce: f"{n} ".encode() + msgspec.msgpack.encode(said)
                for nonce, (n, said) in self.answers.items()
            },
        }

    def free(self, ids: Iterable[str], letters: str, *, is_over: bool) -> None:
        for id in ids:
            held = self.unique_of.get(id, " ")
            if held[0] in letters:
                entry = self.unique.get(held[1:])
                if entry is not None and entry.id == id:
                    del self.unique[held[1:]]
                if is_over:
                    del self.unique_of[id]

    def disown(self, id: str, key: str) -> None:
        if self.unique_of.get(id, " ")[1:] == key:
            del self.unique_of[id]

    def holder_against(self, now: int, id: str) -> str | None:
        """Return who keeps a dead job from its key; else it has it again."""
        held = self.unique_of.get(id, " ")
        if held[0] == "d":
            entry, key = self.unique.get(held[1:]), held[1:]
            if entry and entry.id != id:
                is_own = self.unique_of.get(entry.id, " ")[1:] == key
                if is_own and entry.id in self.jobs and entry.id not in self.dead:
                    return entry.id
                if entry.till > now:
                    return entry.id
                self.disown(entry.id, key)
            self.unique_until.pop(key, None)
            self.unique[key] = Entry(0, self.jobs[id][0], 1, "-", 0, id)
        return None

    def end_windows(self, now: int, limit: int) -> int:
        over = sorted((at, key) for key, at in self.unique_until.items() if at <= now)[:limit]
        for _, key in over:
            entry = self.unique.get(key)
            if entry is not None and 0 < entry.till <= now:
                del self.unique[key]
                self.disown(entry.id, key)
            del self.unique_until[key]
        return len(over)

    # -- admission --------------------------------------------------------------------------------

    def admission(
        self, now: int, nonce: str, call: int, most: int, parcels: Sequence[Sequence[Asked]]
    ) -> list[list[str]] | None:
        """Return what is answered; None: it is closed."""
        seen, _ = self.producers.get(nonce, (-1, 0))
        if call <= seen:
            self.producers[nonce] = (seen, now)
            of, before = self.answers.get(nonce, (-1, []))
            return before if of == call else []
        if "closed" in self.meta:
            return None
        answers, self.plan, self.cuts = list[list[str]](), {}, {}
        waiting = len(self.ready) + len(self.quarantine) + len(self.scheduled)
        is_full = False
        for parcel in parcels:
            new = self._count_new(now, parcel) if most else 0
            if new and (is_full or waiting + new > most):
                is_full = True
                answers.append([parcel[0].id, "full", str(waiting)])
                continue
            waiting += new
            for item in parcel:
                self._admit(now, item, answers)
        self._write(now)
        self.producers[nonce] = (call, now)
        if answers:
            self.answers[nonce] = (call, answers)
        self.meta.setdefault("epoch", 0 if "fence" in self.meta else now)
        if most:
            self.meta["max_jobs"] = most
        return answers

    def _place(self, now: int, key: str, entry: Entry) -> str:
        id = entry.id
        if self.unique_of.get(id, " ")[1:] != key:
            return "over"
        if id in self.plan:
            return "waiting"
        if id not in self.jobs or id in self.dead:
            return "over"
        if id in self.running:
            return "running"
        is_late = 0 < entry.expires <= now
        return "over" if is_late or id in self.cancels else "waiting"

    def _body(self, id: str) -> str | None:
        if id in self.plan:
            return self.plan[id][1]
        return self.jobs[id][1] if id in self.jobs else None

    def _fate(self, now: int, item: Asked) -> tuple[str, Entry | None]:
        body = self._body(item.id)
        if item.is_own and (body is not None or item.id in self.done):
            return "joined", None
        if body is not None:
            return ("known" if body == item.body else "taken"), None
        entry = self.unique.get(item.key)
        if entry is None:
            return "created", None
        place = self._place(now, item.key, entry)
        is_window = item.until.isdigit()
        if is_window and entry.till > 0:
            is_free = entry.till <= now
        else:
            is_free = place == "over" or (place == "running" and item.until == "started")
        if is_free:
            return "created", entry
        if item.conflict == "replace" and place == "waiting":
            return "replaced", entry
        is_held = entry.till == 0 or not is_window or item.conflict == "repeat"
        return "joined" if is_held else "throttled", entry

    def _count_new(self, now: int, parcel: Sequence[Asked]) -> int:
        new, keys = set[str](), set[str]()
        for item in parcel:
            is_met = item.id in new or (item.key and item.key in keys)
            if self._fate(now, item)[0] == "created" and not is_met:
                new.add(item.id)
                keys.add(item.key)
        return len(new)

    def _admit(self, now: int, item: Asked, answers: list[list[str]]) -> None:
        how, entry = self._fate(now, item)
        if how == "created":
            self.plan[item.id] = (item.due, item.body, True)
            if entry is not None and (entry.till > 0 or entry.id not in self.dead):
                self.disown(entry.id, item.key)
            if item.is_own:
                self.unique_of.pop(item.id, None)
            if item.key:
                self._give(now, item)
        elif entry is None:
            answers.append([item.id, how, item.id])
        else:
            entry.times += 1
            may_cut = entry.first > now or item.conflict != "repeat"
            if may_cut and item.until.isdigit() and entry.till > now + int(item.until):
                self.cuts[item.key] = entry.till = now + int(item.until)
            answers.append(
                [item.id, how, entry.id, str(entry.first), str(entry.times), entry.digest]
            )
            if how == "replaced":
                entry.digest = item.digest
                entry.expires = now + item.expires if item.expires else 0
                *_, is_new = self.plan.get(entry.id, (0, "", False))
                self.plan[entry.id] = (item.due, item.body, is_new)

    def _write(self, now: int) -> None:
        self.unique_until |= self.cuts
        for id, (due, body, is_new) in self.plan.items():
            self.jobs[id] = (now, body)
            if not is_new:
                self.state.pop(id, None)
                self.crashes.pop(id, None)
                if self.scheduled.pop(id, None) is None:
                    continue  # it keeps its place in its list
            self.wakeup = dict(WAKEUP) if due <= now else self.wakeup
            if due > now:
                self.scheduled[id] = due
                if min((at, other) for other, at in self.scheduled.items())[1] == id:
                    self.wakeup = dict(WAKEUP)
            else:
                self.ready.append(id)

    def _give(self, now: int, item: Asked) -> None:
        letter = item.until[0] if item.until in ("done", "started") else "w"
        till = now + int(item.until) if letter == "w" else 0
        self.unique[item.key] = Entry(
            till, now, 1, item.digest, now + item.expires if item.expires else 0, item.id
        )
        self.unique_of[item.id] = letter + item.key
        self.cuts.pop(item.key, None)
        if letter == "w":
            self.unique_until[item.key] = till
