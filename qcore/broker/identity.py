"""Names that are never given twice: job ids and owners.

Their randomness comes from the kernel, each time: a generator of this process would be the same in
every process that was forked from it, and servers written in C fork without the hooks of Python.
"""

import uuid
from os import urandom
from time import time_ns

#: The last millisecond, and how its ids begin; the rest of an id costs 1 us.
_head = (0, "")


def new_id() -> str:
    """Return a fresh UUIDv7 (RFC 9562): unique, and ordered by the millisecond of its making."""
    global _head
    ms = time_ns() // 1_000_000
    head = _head
    if head[0] != ms:
        h = f"{ms:012x}"
        head = _head = ms, f"{h[:8]}-{h[8:]}-7"
    h = urandom(9).hex()
    return f"{head[1]}{h[:3]}-8{h[3:6]}-{h[6:]}"


def made_ms(id: str) -> int | None:
    """Return when an id was made, unix ms on the clock of its maker; None when it is no UUIDv7."""
    try:
        found = uuid.UUID(id)
    except ValueError:
        return None
    return found.int >> 80 if found.version == 7 else None


def new_owner() -> str:
    """Return a fresh owner: 16 hex digits, never the same for two processes."""
    return urandom(8).hex()
