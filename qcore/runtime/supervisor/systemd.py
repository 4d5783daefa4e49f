"""Tells systemd, or what speaks as it does, how a supervisor is: one datagram per piece of news."""

import asyncio
import socket
import time
from collections.abc import Callable

import anyio

from qcore.environment import ServiceManager
from qcore.model.fleet import RollState, SupervisorState, SupervisorView, WorkerState
from qcore.telemetry import log

#: Between two looks at what there is to tell.
_LOOK_S = 0.5


class Notifier:
    """Tells a service manager what changes, and from the event loop that this process lives.

    Args:
        manager: Where to tell it; None: there is nobody to be told.
        view: Returns the supervisor as it is now.
    """

    def __init__(self, manager: ServiceManager | None, view: Callable[[], SupervisorView]) -> None:
        self._manager = manager
        self._view = view
        self._is_ready = self._is_reloading = self._is_stopping = False
        self._is_heard = True
        self._status = ""
        #: Loop time of the next sign of life.
        self._due = 0.0

    async def run(self) -> None:
        """Tell the news and that this process lives, until cancelled."""
        if self._manager is None:
            return
        watchdog_s = self._manager.watchdog_s
        step_s = _LOOK_S if watchdog_s is None else min(_LOOK_S, watchdog_s / 4)
        loop = asyncio.get_running_loop()
        while True:
            self.look()
            if watchdog_s is not None and loop.time() >= self._due:
                # a step before half of it, so that it is never later than that
                self._due = loop.time() + watchdog_s / 2 - step_s
                self._tell("WATCHDOG=1")
            await anyio.sleep(step_s)

    def look(self) -> None:
        """Tell what has changed since the last look, if somebody is to be told."""
        if self._manager is None:
            return
        view = self._view()
        stopping = view.state is SupervisorState.DRAINING
        if stopping and not self._is_stopping:
            self._is_stopping = self._tell("STOPPING=1")
        states = [worker.state for worker in view.workers]
        if not self._is_ready and not stopping:
            is_ready = WorkerState.RUNNING in states or WorkerState.QUIET in states
            self._is_ready = is_ready and self._tell("READY=1")
        rolling = view.roll.state is RollState.ROLLING and not stopping
        if rolling and self._is_ready and not self._is_reloading:
            now_us = time.monotonic_ns() // 1000
            self._is_reloading = self._tell(f"RELOADING=1\nMONOTONIC_USEC={now_us}")
        elif self._is_reloading and not rolling and not stopping:
            self._is_reloading = not self._tell("READY=1")
        status = _status(view)
        if status != self._status and self._tell(f"STATUS={status}"):
            self._status = status

    def _tell(self, text: str) -> bool:
        """Send one message; False when it could not be, which the next look tries again."""
        assert self._manager is not None
        name = self._manager.socket
        address = "\0" + name[1:] if name.startswith("@") else name
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as to:
                to.setblocking(False)
                to.sendto(text.encode(), address)
        except OSError as e:
            if self._is_heard:
                log.warning("manager.lost", socket=name, error=str(e))
            self._is_heard = False
            return False
        self._is_heard = True
        return True


def _status(view: SupervisorView) -> str:
    """Return the line that `systemctl status` shows."""
    states = [worker.state for worker in view.workers]
    ready = states.count(WorkerState.RUNNING) + states.count(WorkerState.QUIET)
    workers = "1 worker" if len(states) == 1 else f"{len(states)} workers"
    if view.state is SupervisorState.DRAINING:
        return f"draining, {workers} left"
    if view.roll.state is RollState.ROLLING:
        return f"rolling, {view.roll.replaced} of {view.roll.workers} workers are new"
    return f"{view.state}, {ready} of {workers} ready"
