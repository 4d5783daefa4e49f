"""What a request for a job depends on, and what became of it."""

import re
from collections.abc import Sequence
from typing import Literal, NamedTuple, Self

import msgspec

#: What became of a request: a job was created for it; the one that was there stands for it, as it
#: was, or with the arguments of this request; or there was one already in the window that is open.
Answer = Literal["created", "joined", "replaced", "throttled"]

#: Of a key longer than this a digest is stored.
KEY_BYTES = 24
#: No key may be longer.
KEY_LIMIT = 512
#: How the name of a key begins: its scope, and the length of its task.
_HEAD = re.compile(r"([ui])([0-9]{1,4}) ")


class UniqueKey(msgspec.Struct, frozen=True):
    """A key that at most one job holds."""

    #: As Redis knows it; see `key_name`.
    name: str
    #: "done", "started", or for so many milliseconds, whatever becomes of the job.
    until: str
    #: What is done where a job holds it: "keep" that one, "replace" its arguments, or "repeat":
    #: this is the same request once more.
    conflict: Literal["keep", "replace", "repeat"]
    #: Of the arguments, where they are to be compared.
    digest: str = "-"
    #: After so many milliseconds the job starts no more, and its key is free; 0: never.
    expires_ms: int = 0


class Terms(msgspec.Struct, frozen=True):
    """What a job depends on, beside its queue."""

    #: Its id was given by a user, and may have been used before.
    own_id: bool = False
    key: UniqueKey | None = None


class Admission(NamedTuple):
    """What became of a job that was not created as it was asked for."""

    #: The one that was asked for.
    id: str
    #: An `Answer`; or "known": it was there already, enqueued by the same call.
    how: str
    #: The one that is there.
    job: str
    #: When its key was first asked for, unix ms on the Redis clock; and how often, with this time.
    first_ms: int = 0
    times: int = 0
    #: Of the arguments that it has.
    digest: str = "-"


class Enqueued(int):
    """How many items `enqueue_many` brought to Redis, and what became of them.

    As a number it is all of them.
    """

    created: int
    #: Whose jobs were there already, by an earlier item too.
    joined: int
    #: Of the joined, those that gave the job new arguments are counted here instead.
    replaced: int
    #: Those for which a job had been created within the window.
    throttled: int
    #: The job of each item, in their order; empty unless they were asked for.
    ids: list[str]

    def __new__(
        cls,
        created: int = 0,
        *,
        joined: int = 0,
        replaced: int = 0,
        throttled: int = 0,
        ids: Sequence[str] = (),
    ) -> Self:
        """Return the sum, with its parts."""
        self = super().__new__(cls, created + joined + replaced + throttled)
        self.created, self.joined, self.replaced = created, joined, replaced
        self.throttled, self.ids = throttled, list(ids)
        return self

    __str__ = int.__repr__

    def __repr__(self) -> str:
        parts = ("created", "joined", "replaced", "throttled")
        return f"Enqueued({', '.join(f'{part}={getattr(self, part)}' for part in parts)})"


def key_name(scope: Literal["u", "i"], task: str, value: str) -> str:
    """Return the name of a key: of uniqueness ("u") or of idempotency ("i").

    Redis holds it as the field of a hash; `parts_of_key` reads it. It can be typed where its task
    can.
    """
    return f"{scope}{len(task)} {task}{value}"


class KeyParts(NamedTuple):
    """A key as it is shown."""

    #: "unique" or "idempotency".
    kind: str
    task: str
    #: Its value; of a long one `#` and its digest.
    value: str


def parts_of_key(name: str) -> KeyParts:
    """Return what the name of a key says; bytes that are none are a value without a task."""
    head = _HEAD.match(name)
    if head is None:
        return KeyParts("unknown", "", name)
    end = head.end() + int(head[2])
    kind = {"u": "unique", "i": "idempotency"}[head[1]]
    return KeyParts(kind, name[head.end() : end], name[end:].removeprefix("="))
