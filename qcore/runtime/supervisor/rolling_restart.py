"""Replaces children one at a time: all of them when told to, each when it has reached a limit."""

import asyncio
from collections.abc import Sequence

import anyio

from qcore.broker.backoff import Backoff
from qcore.model.fleet import Roll, RollState
from qcore.runtime.supervisor.worker_process import WorkerProcess
from qcore.runtime.supervisor.worker_slot import WorkerSlot
from qcore.settings import SupervisorConfig
from qcore.telemetry import log


class RollingRestart:
    """The one place that replaces children, so that never two leave at the same time.

    A replacement is ready before the old child drains, and the old one is gone before the next is
    replaced.

    Args:
        config: The limits.
        slots: Whose children.
        look_s: Between two looks at the limits.
        stopping: Set when the supervisor is to end: nobody is replaced any more.
    """

    def __init__(
        self,
        config: SupervisorConfig,
        slots: Sequence[WorkerSlot],
        *,
        look_s: float,
        stopping: asyncio.Event,
    ) -> None:
        self._config = config
        self._slots = slots
        self._look_s = look_s
        self._stopping = stopping
        self._state = RollState.NONE
        self._why = ""
        #: Of a roll that has failed.
        self._error = ""
        self._generation = 0
        #: Loop time of the last order: workers that are older are to be replaced.
        self._since = 0.0
        self._called = asyncio.Event()
        #: Limits wait until then, after a replacement that did not come up.
        self._resting_until = 0.0
        self._backoff = Backoff(config.restart_min_s, config.restart_max_s)

    @property
    def last(self) -> Roll:
        """The last rolling restart."""
        staying = self._staying()
        fresh = sum(slot.has_ready(self._since) for slot in staying)
        return Roll(
            state=self._state,
            why=self._why,
            generation=self._generation,
            replaced=fresh,
            workers=len(staying),
            error=self._error,
        )

    def _staying(self) -> list[WorkerSlot]:
        return [slot for slot in self._slots if not slot.is_leaving]

    def roll(self, why: str, generation: int = 0) -> None:
        """Replace every worker that lives now; a roll that is going on begins anew."""
        self._state, self._why, self._error = RollState.ROLLING, why, ""
        # a signal after an order does all that the order wants
        self._generation = generation or self._generation
        self._since = asyncio.get_running_loop().time()
        self._called.set()
        log.info("roll.started", why=why, workers=len(self._staying()))

    async def run(self) -> None:
        """Replace what is to be replaced, until stopped."""
        while not self._stopping.is_set():
            slot = self._outdated()
            if slot is not None:
                await self._renew(slot)
                continue
            slot, why = self._over_its_limits()
            if slot is not None:
                await self._recycle(slot, why)
                continue
            with anyio.move_on_after(self._look_s):
                await self._called.wait()
            self._called.clear()

    def _outdated(self) -> WorkerSlot | None:
        """Return a slot whose worker is older than the order; end the roll when all are new."""
        if self._state is not RollState.ROLLING:
            return None
        for slot in self._slots:
            if slot.current is not None and slot.current.started_at <= self._since:
                return slot
        staying = self._staying()
        if all(slot.has_ready(self._since) for slot in staying):
            self._state = RollState.DONE
            log.info("roll.finished", why=self._why, workers=len(staying))
        return None

    async def _renew(self, slot: WorkerSlot) -> None:
        since = self._since
        if not await slot.replace(self._why) and self._since == since:
            # the next one would not come up either, and the old ones work
            self._state, self._error = RollState.FAILED, slot.error
            left = sum(not slot.has_ready(since) for slot in self._staying())
            log.error("roll.failed", why=self._why, left=left)

    def _over_its_limits(self) -> tuple[WorkerSlot | None, str]:
        """Return the slot whose worker is the oldest of those that have reached a limit, and why.

        The oldest, or one that reaches its limit while its successor boots would starve the others.
        """
        if asyncio.get_running_loop().time() >= self._resting_until:
            living = [(child, slot) for slot in self._staying() if (child := slot.current)]
            for child, slot in sorted(living, key=lambda pair: pair[0].started_at):
                if why := reached(self._config, child):
                    return slot, why
        return None, ""

    async def _recycle(self, slot: WorkerSlot, why: str) -> None:
        if await slot.replace(why):
            self._backoff.reset()
        else:
            rest_s = self._config.restart_min_s + self._backoff.next_s()
            self._resting_until = asyncio.get_running_loop().time() + rest_s


def reached(config: SupervisorConfig, child: WorkerProcess) -> str:
    """Return which limit a child has reached, in words; empty when none."""
    beat, share = child.beat, child.patience
    if beat is None or not beat.ready:
        return ""
    if beat.hung:
        return "a thread goes on past its kill timeout"
    if config.max_jobs is not None and beat.settled >= max(1, round(config.max_jobs * share)):
        return f"max-jobs: it has run {beat.settled} jobs"
    age_s = child.age_s
    if config.max_time_s is not None and age_s >= config.max_time_s * share:
        return f"max-time: it is {age_s:.0f} s old"
    # without a job it would come to as much again: a limit below what the app itself takes
    if config.max_memory_bytes is None or not beat.settled:
        return ""
    if beat.rss_bytes >= config.max_memory_bytes * share:
        return f"max-memory: it takes {beat.rss_bytes / 1e6:.0f} MB"
    return ""
