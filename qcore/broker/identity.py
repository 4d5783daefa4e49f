"""Names that are never given twice: job ids and owners."""

import os
import time


def new_id() -> str:
    """Return a fresh UUIDv7 (RFC 9562): unique, and ordered by the millisecond of its making."""
    n = (time.time_ns() // 1_000_000) << 80 | int.from_bytes(os.urandom(10))
    n = n & ~(0xF << 76) | 0x7 << 76
    n = n & ~(0x3 << 62) | 0x2 << 62
    h = n.to_bytes(16).hex()
    return f"{h[:8]}-{h[8:12]}-{h[12:16]}-{h[16:20]}-{h[20:]}"


def new_owner() -> str:
    """Return a fresh owner: 16 hex digits, never the same for two processes."""
    return os.urandom(8).hex()
