"""What signals mean to `qcore worker`, before and while there is a supervisor."""

import asyncio
import os
import signal

from qcore.runtime.supervisor.supervisor import Supervisor
from qcore.telemetry import log


def obey_early_signals() -> None:
    """Until there is a supervisor, let an order to stop end this process, and no other do harm.

    Also as the first process of a container, which gets no signal that it has no handler for.
    """

    terminal = _Terminal()

    def leave(*_: object) -> None:
        raise SystemExit(0)

    def hang_up(*_: object) -> None:
        if terminal.is_lost:
            leave()

    def pass_over(*_: object) -> None:
        pass

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, leave)
    for number in (signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, pass_over)
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        signal.signal(signal.SIGHUP, hang_up)
    # who started this process may ignore it, and it would inherit that: no child had an exit code
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)


def obey_signals(supervisor: Supervisor) -> None:
    """Let signals be orders to the supervisor; the second one to stop means now."""
    loop, stops = asyncio.get_running_loop(), 0
    terminal = _Terminal()

    def stop() -> None:
        nonlocal stops
        stops += 1
        if stops == 1:
            supervisor.drain()
        else:
            supervisor.stop_now()

    def hang_up() -> None:
        if terminal.is_lost:
            supervisor.drain()
            log.warning("terminal.lost")
        else:
            supervisor.roll(signal.SIGHUP.name)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    loop.add_signal_handler(signal.SIGHUP, hang_up)
    loop.add_signal_handler(signal.SIGUSR2, supervisor.roll, signal.SIGUSR2.name)
    loop.add_signal_handler(signal.SIGTSTP, supervisor.quiet)
    loop.add_signal_handler(signal.SIGCONT, supervisor.resume)
    loop.add_signal_handler(signal.SIGUSR1, supervisor.dump)


class _Terminal:
    """The terminal that this process was started on, wherever its output goes.

    When that is closed SIGHUP comes, as it does for a reload; nohup asks to live on.
    """

    def __init__(self) -> None:
        self._is_needed = self._is_there() and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN

    @property
    def is_lost(self) -> bool:
        """Whether there was one, and it is gone."""
        return self._is_needed and not self._is_there()

    def _is_there(self) -> bool:
        try:
            os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
        except OSError:
            return False
        return True
