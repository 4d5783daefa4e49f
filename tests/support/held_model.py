"""What holds a queue of the model up: pauses and closings."""

import math

WAKEUP = {"1": 0}


class Held:
    """The part of a queue that says whether jobs come in and go out."""

    def __init__(self) -> None:
        self.ready: list[str] = []
        self.quarantine: list[str] = []
        self.scheduled: dict[str, int] = {}
        self.wakeup: dict[str, int] = {}
        self.meta: dict[str, int | str] = {}

    def paused_until(self, now: int) -> float | None:
        """Return when the pause ends, infinity for by hand; None while there is none."""
        until = int(str(self.meta.get("paused", "")).partition(" ")[0] or -1)
        return math.inf if until == 0 else until if until > now else None

    def is_held(self) -> bool:
        return bool({"paused", "closed"} & self.meta.keys())

    def pause_for(self, now: int, for_ms: int | None, reason: str) -> str:
        until = 0 if for_ms is None else now + max(1, for_ms)
        self.meta["paused"] = pause = f"{until} {now} {reason}"
        return pause

    def close(self, now: int) -> int:
        is_new = "closed" not in self.meta
        self.meta.setdefault("closed", now)
        return int(is_new)

    def resume(self, now: int) -> list[int]:
        was_paused, was_closed = self.paused_until(now) is not None, "closed" in self.meta
        self.meta = {k: v for k, v in self.meta.items() if k not in ("paused", "closed")}
        if was_paused and (self.ready or self.quarantine or self.scheduled):
            self.wakeup = dict(WAKEUP)
        return [int(was_paused), int(was_closed)]
