"""Writes the lines of one process, and never holds up what is logged about."""

import atexit
import os
import queue
import select
import threading
import time
from collections.abc import Callable

#: Whoever logs waits so long for its line to be written: the line is out then, even if the
#: process dies right after it.
_PATIENCE_S = 0.05
#: So much may wait for a reader that is slow or has stopped; what comes then is dropped.
_ROOM_BYTES = 256 * 1024
#: At its end the process waits so long for what is not written yet.
_LAST_S = 0.5


class LogWriter:
    """Writes lines to a descriptor, by a thread of its own.

    A disk that is full or a reader that is gone costs lines, and nothing else. A reader that stops
    reading holds up one line for a moment; until it goes on, nobody waits for what is written.
    The descriptor stays blocking: other processes, and perhaps a shell, share it.

    Args:
        fd: Where to; a copy of it is used, so that nobody can close it.
        regained: Returns the line that says, when it works again, how many were dropped.
    """

    def __init__(self, fd: int, regained: Callable[[int], bytes]) -> None:
        self._fd = os.dup(fd)
        self._regained = regained
        self._pid = os.getpid()
        self._lines: queue.SimpleQueue[tuple[bytes, threading.Lock | None] | None]
        self._lines = queue.SimpleQueue()
        # a handler of a signal may log while its thread logs
        self._lock = threading.RLock()
        self._waiting_bytes = 0
        #: Nobody waits for a line while the reader is slow.
        self._is_held_up = False
        #: Lines that could not be written since the last one that could.
        self.dropped = 0
        #: The last line was written in part.
        self._is_torn = False
        self._thread = threading.Thread(target=self._run, name="qcore-log", daemon=True)
        self._thread.start()
        atexit.register(self.flush)

    def write(self, line: bytes) -> None:
        """Write one line, with its end; never raises."""
        if os.getpid() != self._pid:
            self._put(line)  # a fork, which has no thread
            return
        written = None
        with self._lock:
            if self._waiting_bytes + len(line) > _ROOM_BYTES:
                self.dropped += 1
                return
            self._waiting_bytes += len(line)
            if not self._is_held_up:
                written = threading.Lock()
                written.acquire()
            self._lines.put((line, written))
        if written is not None and not written.acquire(timeout=_PATIENCE_S):
            self._is_held_up = True

    def flush(self, limit_s: float = _LAST_S) -> None:
        """Wait until everything is written, at most so long."""
        end = time.monotonic() + limit_s
        while self._waiting_bytes and os.getpid() == self._pid and time.monotonic() < end:
            time.sleep(0.005)

    def close(self) -> None:
        """Write what is left, and leave the descriptor."""
        self.flush()
        atexit.unregister(self.flush)
        self._lines.put(None)

    def _run(self) -> None:
        while (item := self._lines.get()) is not None:
            line, written = item
            is_well = self._put(line)
            with self._lock:
                self._waiting_bytes -= len(line)
                self.dropped += not is_well
                has_caught_up = is_well and not self._waiting_bytes
            if written is not None:
                written.release()
            if has_caught_up:
                self._is_held_up = False
                self._tell_dropped()
        os.close(self._fd)

    def _tell_dropped(self) -> None:
        with self._lock:
            dropped, self.dropped = self.dropped, 0
        if dropped and not self._put(self._regained(dropped)):
            with self._lock:
                self.dropped += dropped

    def _put(self, line: bytes) -> bool:
        """Write a line; return whether that went well."""
        left = memoryview(b"\n" + line if self._is_torn else line)
        while left:
            try:
                left = left[os.write(self._fd, left) :]
            except BlockingIOError:  # somebody who shares it has made it non-blocking
                select.select([], [self._fd], [])
            except OSError:
                self._is_torn = self._is_torn or len(left) < len(line)
                return False
        self._is_torn = False
        return True
