"""The environments: one for qcore, one for each peer, under `benchmarks/.envs`; pinned versions.

A peer has its own because peers need different versions of redis-py. Those in PHP and Ruby are what
the machine has: there is one version of each, and the lines record it.
"""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

BENCHMARKS = Path(__file__).parent.parent
PINS = BENCHMARKS / "systems"
FOLDER = BENCHMARKS / ".envs"
#: What the harness imports, and its plots; a Python that has them is used as it is.
NEEDS, PLOT_NEEDS = ("anyio", "msgspec", "redis", "structlog", "typer", "uvloop"), ("matplotlib",)


def enter(*, plots: bool) -> None:
    """Go on in the environment of qcore, unless this Python has what is needed."""
    needs = NEEDS + PLOT_NEEDS * plots
    if all(importlib.util.find_spec(name) for name in needs):
        return
    python = made("qcore")
    os.execv(python, [str(python), *sys.argv])


def made(name: str, *, base: str = sys.executable, suffix: str = "") -> Path:
    """Return the interpreter of an environment, which is made if it is not as pinned.

    Args:
        name: Whose pins.
        base: The Python to make it from.
        suffix: Of its folder, where there is one for each of several Pythons.
    """
    folder = FOLDER / f"{name}{suffix}"
    pins = PINS / f"{name}.txt"
    python = folder / "bin" / "python"
    if not _is_made(folder, pins):
        print(f"making the environment {folder}", file=sys.stderr, flush=True)
        subprocess.run([base, "-m", "venv", "--clear", str(folder)], check=True)
        pip = (str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
        subprocess.run([*pip, "--requirement", str(pins)], check=True)
        shutil.copy(pins, folder / "made")
    return python


def made_for_node(name: str) -> Path:
    """Return the folder with `node_modules`, which is made if it is not as locked."""
    folder, lock = FOLDER / name, PINS / name / "package-lock.json"
    if not _is_made(folder, lock):
        print(f"making the environment {folder}", file=sys.stderr, flush=True)
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(PINS / name, folder)
        # not `npm ci`: it wants the optional packages of every platform in the lock
        npm = ("npm", "install", "--no-audit", "--no-fund", "--silent")
        subprocess.run(npm, cwd=folder, check=True)
        shutil.copy(lock, folder / "made")
    return folder


def made_for_php(name: str) -> Path:
    """Return the folder of an application with the folders that Laravel writes to; made anew."""
    folder = FOLDER / name
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(PINS / name, folder)
    for written in ("bootstrap/cache", "storage/framework/cache", "storage/logs"):
        (folder / written).mkdir(parents=True)
    return folder


def _is_made(folder: Path, pins: Path) -> bool:
    stamp = folder / "made"
    return stamp.exists() and stamp.read_bytes() == pins.read_bytes()


def versions(python: Path, pins: Path) -> dict[str, str]:
    """Return what is installed of the first paragraph of the pins: what is measured."""
    head = pins.read_text(encoding="utf-8").split("\n\n")[0]
    names = [line.partition("==")[0].partition("[")[0] for line in head.splitlines()]
    code = (
        "import importlib.metadata as m, json, platform, sys;"
        "print(json.dumps({'python': platform.python_version()}"
        " | {n: m.version(n) for n in sys.argv[1:]}))"
    )
    words = [str(python), "-c", code, *(name for name in names if not name.startswith("#"))]
    return json.loads(subprocess.run(words, check=True, capture_output=True).stdout)


def told_versions(command: Sequence[str], environment: Mapping[str, str]) -> dict[str, str] | None:
    """Return what the verb `versions` of a driver tells; None if its libraries are not there."""
    words, env = [*command, "versions"], {**os.environ, **environment}
    done = subprocess.run(words, env=env, capture_output=True, check=False)
    return json.loads(done.stdout) if done.returncode == 0 else None


def node_versions(folder: Path) -> dict[str, str]:
    node = subprocess.run(["node", "--version"], check=True, capture_output=True, text=True)
    wanted = json.loads((folder / "package.json").read_text(encoding="utf-8"))["dependencies"]
    return {"node": node.stdout.strip().removeprefix("v")} | {
        name: json.loads((folder / "node_modules" / name / "package.json").read_text())["version"]
        for name in wanted
    }
