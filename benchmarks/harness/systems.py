"""The systems that are compared: where they are, what they say of themselves, how they are run."""

import functools
import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.harness import environments

#: Python peers whose guarantee is that of qcore's default, at least once.
PYTHON_PEERS = ("arq", "saq", "taskiq", "dramatiq", "streaq")
PEERS = (*PYTHON_PEERS, "bullmq")
ALL = ("qcore", *PEERS)
#: What is no queue, but the denominator of a target.
BARE = "bare"
SCRIPT = "script"

_CONSTANT = re.compile(r'^(?:const )?([A-Z]+) = \(?\s*("[^"]*"|[Tt]rue|[Ff]alse)', re.MULTILINE)


class System(NamedTuple):
    """One system, as its file says."""

    name: str
    #: How it is run; a verb of the driver follows.
    command: tuple[str, ...]
    guarantee: str
    settings: str
    #: The Redis command that counts the jobs that wait.
    depth: tuple[str, ...]
    has_bulk: bool
    versions: Mapping[str, str]
    #: For what it is run with.
    environment: Mapping[str, str]

    @property
    def ways(self) -> tuple[str, ...]:
        """In which ways it can enqueue."""
        return ("one", "gathered", "bulk") if self.has_bulk else ("one", "gathered")


def path_of(name: str) -> Path:
    """Return the file of a system."""
    file = {"bullmq": "bullmq.mjs", BARE: "bare.py", SCRIPT: "script.py"}.get(name, f"{name}_.py")
    return environments.PINS / file


def constants(path: Path) -> dict[str, Any]:
    """Return what a system's file says of itself; its code is not run: it needs its environment."""
    found = _CONSTANT.findall(path.read_text(encoding="utf-8"))
    return {name: json.loads(value if '"' in value else value.lower()) for name, value in found}


@functools.cache
def load(name: str) -> System:
    """Return a system that can be run; makes its environment if need be."""
    path = path_of(name)
    said = constants(path)
    if path.suffix == ".mjs":
        folder = environments.made_for_node(name)
        command = ("node", str(path))
        versions = environments.node_versions(folder)
        environment = {"BENCH_ENVIRONMENT": str(folder)}
    else:
        own = name in PYTHON_PEERS
        python = environments.made(name) if own else Path(sys.executable)
        command = (str(python), "-m", f"benchmarks.systems.{path.stem}")
        pins = environments.PINS / f"{name if own else 'qcore'}.txt"
        versions = environments.versions(python, pins)
        environment = {}
    return System(
        name,
        command,
        said["GUARANTEE"],
        said["SETTINGS"],
        tuple(said["DEPTH"].split()),
        said["BULK"],
        versions,
        environment,
    )
