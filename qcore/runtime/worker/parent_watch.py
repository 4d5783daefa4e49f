"""Ends a process whose parent is gone, whatever holds it up."""

import os
import select
import signal
import threading
import time

#: A worker without a supervisor may need so long to end when its time to stop is over.
LEAVING_S = 2.0


def watch_parent(pipe_fd: int, limit_s: float) -> None:
    """Let nothing keep this process alive for long once its parent is gone.

    A worker drains then, but cannot while its loop is blocked, an import hangs, or the end of its
    lifespan does. A thread waits for the end of a pipe that the parent has the other end of, and
    kills the process with its group.

    Args:
        pipe_fd: That pipe, whether it is read or written here.
        limit_s: How long this process may go on without its parent.
    """
    args = (pipe_fd, limit_s)
    threading.Thread(target=_follow, args=args, name="qcore-parent-watch", daemon=True).start()


def _follow(pipe_fd: int, limit_s: float) -> None:
    pipe = select.poll()
    pipe.register(pipe_fd, 0)  # not what comes in, only its end
    pipe.poll()
    time.sleep(limit_s)
    os.killpg(0, signal.SIGKILL)
