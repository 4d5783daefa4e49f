"""Settings for a child process, in a file without a name.

An environment variable holds 128 KiB at most, and a pipe as much as it takes at once.
"""

import os
import sys
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from typing import IO, Any, TypeVar

import msgspec

from qcore.environment import child_variable

T = TypeVar("T")


def _unnamed() -> IO[bytes]:
    # also where no folder can be written; a Python that was built on an old system lacks it
    if sys.platform == "linux" and hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("qcore-settings"), "w+b")
    return tempfile.TemporaryFile()


@contextmanager
def settings_file(settings: Any) -> Generator[int]:
    """Yield a descriptor for the child to inherit; an environment variable tells it the number."""
    with _unnamed() as file:
        file.write(msgspec.json.encode(settings))
        file.seek(0)
        yield file.fileno()


def read_settings(variable: str, kind: type[T]) -> T:
    """Return the settings that the parent of this process has handed over, once.

    Raises:
        ConfigError: none; this process was not started by its parent.
    """
    with os.fdopen(int(child_variable(variable)), "rb") as file:
        return msgspec.json.decode(file.read(), type=kind)
