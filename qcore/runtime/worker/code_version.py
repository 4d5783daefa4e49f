"""Which code a worker runs, as a few digits that are the same on every host that runs the same."""

import hashlib
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from qcore.task import Task


def digest_of(tasks: Iterable[Task[Any, Any]]) -> str:
    """Return 8 hex digits of the loaded modules of the packages that the tasks are defined in.

    What such a module imports from elsewhere does not count, nor what is imported later.
    """
    tops = {task.__module__.partition(".")[0] for task in tasks}
    # no secret: it tells versions apart
    digest = hashlib.sha1(usedforsecurity=False)
    for name, module in sorted(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if name.partition(".")[0] in tops and file:
            try:
                source = Path(file).read_bytes()
            except OSError:
                continue  # of an archive, or gone meanwhile
            digest.update(name.encode() + b"\0" + source)
    return digest.hexdigest()[:8]
