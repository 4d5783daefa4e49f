"""The unique keys of a queue, for operators: who holds them, and how they are freed."""

import re
from collections.abc import AsyncIterator, Collection

from qcore.broker.contract import CALL_JOBS
from qcore.broker.redis import scripts
from qcore.broker.redis.broker import Broker
from qcore.broker.redis.queue_checks import scan
from qcore.model.admission import key_name, parts_of_key
from qcore.model.reading import natural, raw_of, text_of
from qcore.model.views import UniqueKeyView

#: Keys of one page.
_PAGE = 500
#: What a pattern of Redis does not take as it stands.
_SPECIAL = re.compile(rb"([*?\[\]\\])")
#: A field of `unique` has so many words; the last, the id of a job, may have spaces.
_WORDS = 6
_UNTIL = {b"d": "done", b"s": "started"}


class UniqueKeys:
    """Reads and frees the keys of one namespace, in calls of bounded work."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker

    async def held(
        self, queue: str, *, task: str | None = None, limit: int = 100
    ) -> list[UniqueKeyView]:
        """Return at most `limit` keys that jobs of a queue hold, by default of all tasks."""
        found: dict[bytes, UniqueKeyView] = {}
        match = b"*" if task is None else b"[ui]%d %b*" % (len(task), _literal(task.encode()))
        async for page in self._pages(queue, match):
            found |= page  # one that moves while it is read comes twice
            if len(found) >= limit:
                break
        return list(found.values())[:limit]

    async def named(
        self, queue: str, value: str, *, task: str | None = None
    ) -> dict[bytes, UniqueKeyView]:
        """Return the keys with this value, as a view shows it, each by its name in Redis.

        Several tasks may have the same, and one task one of uniqueness and one of idempotency.
        Without a task all keys of the queue are looked at, in pages.
        """
        found: dict[bytes, UniqueKeyView] = {}
        for word in dict.fromkeys((value.encode(), raw_of(value))):
            if task is not None:
                found |= await self._of_task(queue, task, word)
                continue
            async for page in self._pages(queue, b"*" + _literal(word)):
                found |= {name: view for name, view in page.items() if view.value == value}
        return found

    async def free(self, queue: str, names: Collection[bytes]) -> int:
        """Free keys, whatever becomes of the jobs that hold them; return how many were held.

        Redis: free.lua, once per 500 keys.
        """
        keys, words, freed = self._broker._keys_of(queue), list(names), 0
        for i in range(0, len(words), CALL_JOBS):
            call = scripts.FREE.call(keys, *words[i : i + CALL_JOBS])
            freed += int((await self._broker._ask([call]))[0])
        return freed

    async def _of_task(self, queue: str, task: str, value: bytes) -> dict[bytes, UniqueKeyView]:
        marks = ("=", "") if value.startswith(b"#") else ("=",)
        names = [
            key_name(scope, task, mark).encode() + value for scope in ("u", "i") for mark in marks
        ]
        unique = self._broker._keys_of(queue).names["unique"]
        (entries,) = await self._broker._ask([(b"HMGET", unique, *names)])
        pairs = zip(names, entries, strict=True)
        return await self._views(queue, {name: entry for name, entry in pairs if entry is not None})

    async def _pages(self, queue: str, match: bytes) -> AsyncIterator[dict[bytes, UniqueKeyView]]:
        unique = self._broker._keys_of(queue).names["unique"]
        async for page in scan(self._broker, b"HSCAN", unique, _PAGE, match):
            yield await self._views(queue, dict(zip(page[::2], page[1::2], strict=True)))

    async def _views(self, queue: str, entries: dict[bytes, bytes]) -> dict[bytes, UniqueKeyView]:
        """Return what fields of `unique` say; not of windows that are over."""
        if not entries:
            return {}
        holders = [entry.split(b" ", _WORDS - 1)[-1] for entry in entries.values()]
        unique_of = self._broker._keys_of(queue).names["unique_of"]
        holds, (now, _) = await self._broker._ask([(b"HMGET", unique_of, *holders), (b"TIME",)])
        found: dict[bytes, UniqueKeyView] = {}
        for (name, entry), letter_and_name in zip(entries.items(), holds, strict=True):
            view = _view(name, entry, letter_and_name)
            if view and (view.until_ms is None or view.until_ms > int(now) * 1000):
                found[name] = view
        return found


def key_held(holds: bytes | None, entry: bytes | None) -> UniqueKeyView | None:
    """Return the key that a job holds, as find.lua tells it; None for none."""
    return None if holds is None or entry is None else _view(holds[1:], entry, holds)


def _view(name: bytes, entry: bytes, holds: bytes | None) -> UniqueKeyView | None:
    """Return what a field of `unique` says; None for what cannot be read: it holds nothing.

    Args:
        name: The field.
        entry: Its value.
        holds: What the job that it names has in `unique_of`.
    """
    words = entry.split(b" ", _WORDS - 1)
    if len(words) < _WORDS:
        return None
    until_ms, first_ms, times = map(natural, words[:3])
    if until_ms is None or first_ms is None or times is None:
        return None
    until = "window" if until_ms else "unknown"
    if not until_ms and holds is not None and holds[1:] == name:
        until = _UNTIL.get(holds[:1], until)
    kind, task, value = parts_of_key(text_of(name))
    return UniqueKeyView(
        kind=kind,
        task=task,
        value=value,
        until=until,
        until_ms=until_ms or None,
        job=text_of(words[-1]),
        first_ms=first_ms,
        times=times,
    )


def _literal(word: bytes) -> bytes:
    return _SPECIAL.sub(rb"\\\1", word)
