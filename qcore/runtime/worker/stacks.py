"""What a worker process does at this moment: the stacks of its jobs, tasks and threads, logged."""

import asyncio
import sys
import threading
import time
from collections.abc import Iterable, Sequence
from itertools import islice
from types import CodeType, CoroutineType, FrameType
from typing import Any, cast

from qcore.runtime.worker.running_job import Running
from qcore.telemetry import log

#: At most so many jobs, the oldest first, and as many other tasks.
_MAX = 200
#: At most so many calls of a stack, the innermost ones.
_MAX_CALLS = 25


def dump(running: Sequence[Running], loop: asyncio.AbstractEventLoop) -> None:
    """Log one line per job, with where it waits; then other tasks of the loop, and all threads."""
    tasks = asyncio.all_tasks(loop)
    log.warning(
        "worker.dumped", running=len(running), tasks=len(tasks), threads=threading.active_count()
    )
    for job in islice(running, _MAX):
        # the clock of the loop, which stands still for itself while it is blocked
        age_s = round(time.monotonic() - job.claimed_at, 3)
        stack = _shown(_calls_of(job.task)) if job.task is not None else ""
        log.warning(
            "job.dumped",
            job=job.lease.id,
            task=job.task_name,
            queue=job.lease.queue,
            age_s=age_s,
            stack=stack,
        )
    own = {job.task for job in running}
    for task in islice((task for task in tasks if task not in own), _MAX):
        log.warning("task.dumped", name=task.get_name(), stack=_shown(_calls_of(task)))
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    for ident, frame in _frames().items():
        log.warning("thread.dumped", name=names.get(ident, str(ident)), stack=_shown(_below(frame)))


def stack_of_thread(ident: int) -> str:
    """Return what a thread does at this moment, in one line; empty when it is gone."""
    return _shown(_below(_frames().get(ident)))


def _frames() -> dict[int, FrameType]:
    return sys._current_frames()  # pyright: ignore[reportPrivateUsage] - there is no other way


def _calls_of(task: asyncio.Task[Any]) -> list[tuple[CodeType, int]]:
    """Return the chain of coroutines that a task awaits, the outermost first."""
    calls: list[tuple[CodeType, int]] = []
    link: Any = task.get_coro()
    while isinstance(link, CoroutineType):
        coroutine = cast("CoroutineType[Any, Any, Any]", link)
        frame = coroutine.cr_frame
        calls.append((coroutine.cr_code, frame.f_lineno if frame else 0))
        link = coroutine.cr_await
    return calls


def _below(frame: FrameType | None) -> list[tuple[CodeType, int]]:
    """Return the calls of a thread, the outermost first."""
    calls: list[tuple[CodeType, int]] = []
    while frame is not None:
        calls.append((frame.f_code, frame.f_lineno))
        frame = frame.f_back
    return calls[::-1]


def _shown(calls: Iterable[tuple[CodeType, int]]) -> str:
    """Return a stack in one line, as logs carry it."""
    shown = [f"{code.co_qualname} ({code.co_filename}:{line})" for code, line in calls]
    return " > ".join(shown[-_MAX_CALLS:])
