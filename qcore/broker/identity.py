"""Names that are never given twice: job ids and owners."""

import os
import random
import time
import uuid

#: Seeded by the system, a third of the price of asking it each time; not the generator of the
#: `random` module, which programs seed with numbers of their own.
_random = random.Random()
os.register_at_fork(after_in_child=_random.seed)


def new_id() -> str:
    """Return a fresh UUIDv7 (RFC 9562): unique, and ordered by the millisecond of its making."""
    n = (time.time_ns() // 1_000_000) << 80 | _random.getrandbits(80)
    n = n & ~(0xF << 76) | 0x7 << 76
    n = n & ~(0x3 << 62) | 0x2 << 62
    h = n.to_bytes(16).hex()
    return f"{h[:8]}-{h[8:12]}-{h[12:16]}-{h[16:20]}-{h[20:]}"


def made_ms(id: str) -> int | None:
    """Return when an id was made, unix ms on the clock of its maker; None when it is no UUIDv7."""
    try:
        found = uuid.UUID(id)
    except ValueError:
        return None
    return found.int >> 80 if found.version == 7 else None


def new_owner() -> str:
    """Return a fresh owner: 16 hex digits, never the same for two processes."""
    return os.urandom(8).hex()
