"""Single keys from a terminal, without Enter."""

import asyncio
import os
import re
import termios
import tty
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import TextIO

#: An escape sequence of a key, or one character.
_KEY = re.compile(rb"\x1b[\[O][0-9;]*[A-Za-z~]|.", re.DOTALL)
_NAMES = {
    b"\x1b[A": "up",
    b"\x1bOA": "up",
    b"k": "up",
    b"\x1b[B": "down",
    b"\x1bOB": "down",
    b"j": "down",
    b"\t": "tab",
    b"q": "quit",
    b"\x03": "quit",
    b"\x04": "quit",
    b"\x1a": "suspend",
    b"p": "pause",
    b" ": "pause",
}


@contextmanager
def keyboard(terminal: TextIO, press: Callable[[str], None]) -> Generator[None, None, None]:
    """Call `press` with the name of each key that is known; a terminal that is gone quits.

    Ctrl-C and Ctrl-Z are keys, too, so that nothing leaves the terminal as it must not be left.
    """
    fd, loop = terminal.fileno(), asyncio.get_running_loop()
    before = termios.tcgetattr(fd)

    def read() -> None:
        try:
            data = os.read(fd, 1024)
        except OSError:
            data = b""
        if not data:
            loop.remove_reader(fd)
            press("quit")
        for key in _KEY.findall(data):
            if key in _NAMES:
                press(_NAMES[key])

    tty.setcbreak(fd)
    own = termios.tcgetattr(fd)
    own[3] &= ~termios.ISIG
    termios.tcsetattr(fd, termios.TCSANOW, own)
    loop.add_reader(fd, read)
    try:
        yield
    finally:
        loop.remove_reader(fd)
        termios.tcsetattr(fd, termios.TCSADRAIN, before)
