"""The systems that are compared: where they are, what they say of themselves, how they are run."""

import functools
import json
import re
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.harness import environments

#: Python peers whose guarantee is that of qcore's default, at least once.
PYTHON_PEERS = ("arq", "saq", "taskiq", "dramatiq", "streaq")
PEERS = (*PYTHON_PEERS, "bullmq", "laravel", "sidekiq")
ALL = ("qcore", *PEERS)
#: What is no queue, but the denominator of a target.
BARE = "bare"
SCRIPT = "script"
#: The files of those that have no `NAME_.py`.
_FILES = {
    "bullmq": "bullmq.mjs",
    "laravel": "laravel.php",
    "sidekiq": "sidekiq_.rb",
    BARE: "bare.py",
    SCRIPT: "script.py",
}

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
    #: Whether a process of it can enqueue from several tasks or threads at a time.
    is_concurrent: bool
    versions: Mapping[str, str]
    #: For what it is run with.
    environment: Mapping[str, str]

    @property
    def ways(self) -> tuple[str, ...]:
        """In which ways it can enqueue."""
        return ("one", *["gathered"] * self.is_concurrent, *["bulk"] * self.has_bulk)


def path_of(name: str) -> Path:
    """Return the file of a system."""
    return environments.PINS / _FILES.get(name, f"{name}_.py")


def constants(path: Path) -> dict[str, Any]:
    """Return what a system's file says of itself; its code is not run: it needs its environment."""
    found = _CONSTANT.findall(path.read_text(encoding="utf-8"))
    return {name: json.loads(value if '"' in value else value.lower()) for name, value in found}


class Missing(Exception):
    """A system cannot be run here: what it is written in is not there."""


class _Run(NamedTuple):
    """How a system is run: a part of `System`."""

    command: tuple[str, ...]
    environment: Mapping[str, str]
    versions: Mapping[str, str] | None


@functools.cache
def load(name: str) -> System:
    """Return a system that can be run; makes its environment if need be.

    Raises:
        Missing: its programs are not here; the text is a sentence.
    """
    path = path_of(name)
    said = constants(path)
    programs, run_of = _LANGUAGES[path.suffix]
    run = run_of(name, path) if all(map(shutil.which, programs)) else None
    if run is None or run.versions is None:
        raise Missing(f"{name} is left out: it needs {said['NEEDS']}.")
    return System(
        name,
        run.command,
        said["GUARANTEE"],
        said["SETTINGS"],
        tuple(said["DEPTH"].split()),
        said["BULK"],
        said.get("CONCURRENT", True),
        run.versions,
        run.environment,
    )


@functools.cache
def available(name: str) -> System | None:
    """Return a system, or None if it cannot be run here, which is said once."""
    try:
        return load(name)
    except Missing as e:
        print(e, file=sys.stderr, flush=True)
        return None


def _of_python(name: str, path: Path) -> _Run:
    own = name in PYTHON_PEERS
    python = environments.made(name) if own else Path(sys.executable)
    pins = environments.PINS / f"{name if own else 'qcore'}.txt"
    command = (str(python), "-m", f"benchmarks.systems.{path.stem}")
    return _Run(command, {}, environments.versions(python, pins))


def _of_node(name: str, path: Path) -> _Run:
    folder = environments.made_for_node(name)
    environment = {"BENCH_ENVIRONMENT": str(folder)}
    return _Run(("node", str(path)), environment, environments.node_versions(folder))


def _of_php(name: str, path: Path) -> _Run:
    folder, command = environments.made_for_php(name), ("php", str(path))
    # an empty entry is the folder of PHP's own settings
    environment = {"BENCH_ENVIRONMENT": str(folder), "PHP_INI_SCAN_DIR": f":{folder / 'ini'}"}
    return _Run(command, environment, environments.told_versions(command, environment))


def _of_ruby(name: str, path: Path) -> _Run:
    command = ("ruby", str(path))
    return _Run(command, {}, environments.told_versions(command, {}))


#: Suffix of a system's file -> the programs that must be on the PATH, and how it is run.
_LANGUAGES: dict[str, tuple[tuple[str, ...], Callable[[str, Path], _Run]]] = {
    ".py": ((), _of_python),
    ".mjs": (("node", "npm"), _of_node),
    ".php": (("php",), _of_php),
    ".rb": (("ruby", "sidekiq"), _of_ruby),
}
