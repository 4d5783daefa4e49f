"""One timer for all running jobs: cancels those past their timeout or their trusted lease."""

import asyncio

from qcore.model.job import Released
from qcore.runtime.worker.running_job import Running, Stop
from qcore.runtime.worker.running_jobs import RunningJobs
from qcore.telemetry import log, trace_of

#: How late a timeout may be; a timer per job would cost 3 to 6 µs of every job.
TICK_S = 0.1


class Timeouts:
    """Cancels jobs whose task timeout has passed, at most TICK_S late.

    And exclusive jobs whose lease can no longer be trusted.

    Args:
        jobs: Those that run. One whose asyncio task is over although it still counts as running
            is ended.
    """

    def __init__(self, jobs: RunningJobs) -> None:
        self._jobs = jobs

    async def run(self) -> None:
        """Look at every running job until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(TICK_S)
            now = loop.time()
            for running in self._jobs.all():
                if running.task is not None and running.task.done():
                    self._free(running)
                    continue
                if running.deadline is not None and running.deadline <= now:
                    running.cancel(Stop.TIMEOUT)
                if running.exclusive and running.trusted_until <= now:
                    running.cancel(Stop.UNTRUSTED)

    def _free(self, running: Running) -> None:
        """Free the slot of a run that somebody else's code, or a fault of ours, has ended.

        What never began goes back. Else its lease is renewed no more, and counts as lost when it
        is over: a job that ends like this each time gets a process of its own, and dies in the end.
        """
        lease, error = running.lease, None
        if running.task is not None and not running.task.cancelled():
            error = running.task.exception()
        log.error(
            "job.unsettled",
            job=lease.id,
            task=running.task_name,
            queue=lease.queue,
            exception=trace_of(error) if error else None,
        )
        self._jobs.end(running, None if running.started_ms else Released())
