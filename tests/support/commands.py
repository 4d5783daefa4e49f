"""What the `qcore` command said."""

import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any


@dataclass
class Said:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        assert self.code == 0, self.err
        return json.loads(self.out)


Command = Callable[..., Awaitable[Said]]


def one_line(said: Said) -> str:
    """Return the only line on standard error, but for the frames of a user's file below it."""
    # an import takes long on a loaded machine, and that is said
    lines = (line for line in said.err.splitlines() if "is still being imported" not in line)
    (line,) = (line for line in lines if not line.startswith(" "))
    assert line.startswith("qcore: ")
    assert len(line) < 500
    return line
