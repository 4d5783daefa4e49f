"""One JSON line per measurement; the table and the plots are made from the lines alone."""

import datetime
import functools
import json
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent.parent
#: The round whose lines the table leaves out.
WARM_UP = 0

Record = dict[str, Any]


class Lines:
    """The file that takes the lines; each goes out at once, so a broken run keeps its part."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("w", encoding="utf-8")

    def write(self, record: Record) -> None:
        print(json.dumps(record), file=self._file, flush=True)

    def close(self) -> None:
        self._file.close()


def read(path: Path) -> list[Record]:
    """Return the measurements that count: those of the warm-up are left out."""
    lines = path.read_text(encoding="utf-8").splitlines()
    records = [json.loads(line) for line in lines if line.strip()]
    return [record for record in records if record["round"] != WARM_UP]


@functools.cache
def host() -> dict[str, Any]:
    """Return what must be known of this machine to judge a figure."""
    return {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
        "kernel": platform.release(),
        "python": platform.python_version(),
        "commit": _commit(),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }


def _cpu_model() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in text.splitlines() if "model name" in line]
    return names[0] if names else platform.processor()


def _commit() -> str:
    words = ("git", "-C", str(ROOT), "describe", "--always", "--dirty", "--exclude=*")
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"
