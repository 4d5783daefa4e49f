"""One timer for the task timeouts, and the trust, of all running jobs."""

import asyncio
from collections.abc import Callable, Iterable

from qcore.runtime.running import Running, Stop

#: How late a timeout may be; a timer per job would cost 3 to 6 µs of every job.
TICK_S = 0.1


class Deadlines:
    """Cancels jobs whose task timeout has passed, at most TICK_S late.

    And exclusive jobs whose lease can no longer be trusted.
    """

    def __init__(self, running: Callable[[], Iterable[Running]]) -> None:
        self._running = running

    async def run(self) -> None:
        """Look at every running job until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(TICK_S)
            now = loop.time()
            for running in self._running():
                if running.deadline is not None and running.deadline <= now:
                    running.cancel(Stop.TIMEOUT)
                if running.exclusive and running.trusted_until <= now:
                    running.cancel(Stop.UNTRUSTED)
