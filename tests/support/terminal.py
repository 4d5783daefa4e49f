"""A program on a pseudo terminal: keys go in, and the screen is read."""

import fcntl
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
from pathlib import Path
from typing import Any

#: Every frame of a live view begins at the upper left corner.
_HOME = "\x1b[H"
_ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b.")


class Terminal:
    """One program on a terminal of its own."""

    def __init__(
        self, words: list[str], env: dict[str, str], *, columns: int = 80, lines: int = 24
    ) -> None:
        self._own, other = pty.openpty()
        self._said = ""
        self._before = termios.tcgetattr(other)
        self.resize(columns, lines)
        # with these a program would not look at its terminal
        own = {name: value for name, value in env.items() if name not in ("COLUMNS", "LINES")}
        self.process = subprocess.Popen(
            [sys.executable, "-m", *words],
            stdin=other,
            stdout=other,
            stderr=other,
            env=own | {"TERM": "xterm-256color"},
            # not of another session: there nobody could resume it, and so nothing would stop it
            process_group=0,
        )
        self._other = other
        os.set_blocking(self._own, False)

    def resize(self, columns: int, lines: int) -> None:
        """Give the terminal another size."""
        size = struct.pack("HHHH", lines, columns, 0, 0)
        fcntl.ioctl(self._own, termios.TIOCSWINSZ, size)

    def press(self, keys: str) -> None:
        """Type something."""
        os.write(self._own, keys.encode())

    @property
    def said(self) -> str:
        """Everything that the program has written."""
        while True:
            try:
                self._said += os.read(self._own, 65536).decode(errors="replace")
            except BlockingIOError:
                return self._said

    def frame(self) -> list[str]:
        """Return the lines of the last whole frame, as they read."""
        return [_ESCAPE.sub("", line).rstrip() for line in self._last_frame()]

    def text(self) -> str:
        """Return the last whole frame."""
        return "\n".join(self.frame())

    def chosen(self) -> str:
        """Return the line of the last whole frame that is shown in reverse; empty when none is."""
        lines = [line for line in self._last_frame() if "\x1b[7m" in line]
        return _ESCAPE.sub("", lines[0]).strip() if lines else ""

    def _last_frame(self) -> list[str]:
        frames = self.said.split(_HOME)
        return frames[-2].splitlines() if len(frames) > 2 else []

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self.process.send_signal(number)

    @property
    def is_stopped(self) -> bool:
        """Whether the program is stopped, as by SIGTSTP (Linux)."""
        stat = Path(f"/proc/{self.process.pid}/stat").read_text()
        return stat.rpartition(")")[2].split()[0] == "T"

    @property
    def settings(self) -> list[Any]:
        """How the terminal treats what is typed, as termios says."""
        return termios.tcgetattr(self._other)

    @property
    def is_left_as_found(self) -> bool:
        """Whether the terminal is as it was before."""
        return self.settings == self._before

    def close(self) -> None:
        """End the program, if it has not ended."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
        self.process.wait(5)
        os.close(self._own)
        os.close(self._other)
