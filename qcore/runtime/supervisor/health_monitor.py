"""Kills workers that block, take too much memory, overrun a kill timeout, or do not leave."""

import asyncio

import anyio

from qcore.runtime.host.memory import rss_bytes
from qcore.runtime.supervisor.worker_process import WorkerProcess
from qcore.runtime.supervisor.workers import Workers
from qcore.settings import SupervisorConfig

#: Between two looks at the children: the kernel kills soon after one takes too much memory.
_LOOK_S = 0.2
#: Looks for which a late one counts at most: a supervisor that was stopped, or late, has not heard
#: its children meanwhile.
_COUNTED_LOOKS = 3


class HealthMonitor:
    """Looks at every child, a few times a second, and judges.

    What it kills a child for is a deed of the jobs in it. Where it is known of which ones, these
    are charged, and nobody else; else all are.

    Args:
        workers: The children.
        config: What is too much.
        leave_s: One that leaves is killed after so long.
    """

    def __init__(self, workers: Workers, config: SupervisorConfig, *, leave_s: float) -> None:
        self._workers = workers
        self._config = config
        self._leave_s = leave_s
        self._look_s = min(_LOOK_S, config.stall_s / 10)
        #: Deaf children whose stacks were printed: the next look kills them, if no beat came.
        self._warned: set[WorkerProcess] = set()

    async def run(self) -> None:
        """Look and judge, until cancelled."""
        loop = asyncio.get_running_loop()
        last = loop.time()
        while True:
            await anyio.sleep(self._look_s)
            now = loop.time()
            passed_s, last = min(now - last, _COUNTED_LOOKS * self._look_s), now
            for child in list(self._workers.living):
                child.catch_up()
                if not child.gone.is_set() and not child.killed_for:
                    self._judge(child, passed_s)

    def _judge(self, child: WorkerProcess, passed_s: float) -> None:
        if child.overdue:
            why = f"kill timeout of {max(child.overdue.values()):g} s"
            self._workers.kill(child, why, blames_jobs=True, culprits=list(child.overdue))
        elif why := self._takes_too_much(child):
            self._workers.kill(child, why, blames_jobs=True)
        elif self._is_late(child):
            child.is_dismissed = True
            self._workers.kill(child, "shutdown timeout")
        elif not self._is_deaf(child, passed_s):
            self._warned.discard(child)
        elif child not in self._warned:
            self._warned.add(child)
            child.dump_threads()
        else:
            self._warned.discard(child)
            self._kill_deaf(child)

    def _takes_too_much(self, child: WorkerProcess) -> str:
        limit_bytes, beat = self._config.kill_memory_bytes, child.beat
        if limit_bytes is None:
            return ""
        # a beat also knows of pool processes, but comes late or not at all
        taken = max(rss_bytes(child.process.pid), beat.rss_bytes if beat else 0)
        if taken <= limit_bytes:
            return ""
        return f"{taken / 1e6:.0f} MB of memory, allowed are {limit_bytes / 1e6:.0f}"

    def _is_late(self, child: WorkerProcess) -> bool:
        """Whether it should be gone, whoever has told it to leave."""
        since = child.leaving_since
        return since is not None and asyncio.get_running_loop().time() - since >= self._leave_s

    def _is_deaf(self, child: WorkerProcess, passed_s: float) -> bool:
        """Count the silence of a child; one that boots, or has only to leave, has other limits."""
        beat = child.beat
        if beat is None or not beat.ready or beat.stopped or (beat.draining and not beat.holding):
            return False
        child.silent_s += passed_s
        return child.silent_s >= self._config.stall_s - self._look_s

    def _kill_deaf(self, child: WorkerProcess) -> None:
        why = f"stalled for {self._config.stall_s:g} s"
        if child.is_stopped:  # that was no job
            self._workers.kill(child, f"{why}: it was stopped by a signal")
        else:
            culprits = [child.blocked_by] if child.blocked_by else []
            self._workers.kill(child, why, blames_jobs=True, culprits=culprits)
