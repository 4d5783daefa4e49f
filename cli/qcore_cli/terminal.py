"""Prints text to a terminal, with control characters of jobs, servers and files escaped."""

import sys


def printable(value: object) -> str:
    r"""Return text on one line, with every character that a terminal would obey as its escape.

    Control characters, line ends, marks that turn the direction of text around or have no width,
    surrogates: `\x1b`, `\n`, `\u202e`.
    """
    text = str(value)
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def printable_lines(value: object) -> str:
    """Return the same for text of several lines."""
    return "\n".join(printable(line.expandtabs()) for line in str(value).split("\n"))


def echo(text: object = "", *, err: bool = False, end: str = "\n") -> None:
    """Print lines of text. What is taken from data and belongs on one line is `printable` before.

    Raises:
        OSError: the stream cannot be written.
    """
    stream = sys.stderr if err else sys.stdout
    stream.write(printable_lines(text) + end)
    stream.flush()
