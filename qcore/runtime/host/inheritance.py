"""What the children of a process get from it: no descriptor of qcore's own, no handler of signals.

A program that a task starts gets neither anyway, as long as descriptors are not inheritable and no
signal is ignored. A bare fork copies both.
"""

import faulthandler
import os
import signal
import threading
from collections.abc import Iterable

#: Those that a worker or a process of its pool has handlers for.
HANDLED = (
    signal.SIGTERM,
    signal.SIGINT,
    signal.SIGHUP,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGTSTP,
)

_private: set[int] = set()


class _Thread(threading.local):
    """What a thread that forks had blocked before."""

    mask: Iterable[int] = ()


_thread = _Thread()


def keep_private(*fds: int) -> None:
    """Let no child have these descriptors."""
    for fd in fds:
        os.set_inheritable(fd, False)
    _private.update(fds)


def no_longer_private(*fds: int) -> None:
    """Forget descriptors that are about to be closed: their numbers will be given again."""
    _private.difference_update(fds)


def serve_alone(*fds: int) -> None:
    """Keep these descriptors private, and let a forked child of this process be no second one.

    In the child a private descriptor leads nowhere, and signals do what they do by default: else
    it could not be terminated, and a signal to it would be one to this process as well, whose event
    loop hears of both over one socket.
    """
    keep_private(*fds)
    # opened here: a child may be out of descriptors
    void = os.open(os.devnull, os.O_RDWR)
    os.register_at_fork(
        before=_hold_signals,
        after_in_parent=_take_signals,
        after_in_child=lambda: _break_away(void),
    )


def _hold_signals() -> None:
    """Let none come to the child before it takes them as a child."""
    _thread.mask = signal.pthread_sigmask(signal.SIG_BLOCK, HANDLED)


def _take_signals() -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, _thread.mask)


def _break_away(void: int) -> None:
    signal.set_wakeup_fd(-1)
    faulthandler.unregister(signal.SIGUSR1)
    for number in HANDLED:
        signal.signal(number, signal.SIG_DFL)
    for fd in _private:
        # not closed: the number would be that of a file of the child's
        os.dup2(void, fd, inheritable=False)
    _take_signals()
