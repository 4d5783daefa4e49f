"""The drain on every Python that is here, on uvloop and on asyncio's own loop."""

import shutil
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

from benchmarks.harness import environments
from benchmarks.harness.bench import Bench
from benchmarks.harness.probe import Probe

JOBS = 50_000
VERSIONS = ("3.11", "3.12", "3.13")
LOOPS = ("uvloop", "asyncio")
OWN = f"{sys.version_info.major}.{sys.version_info.minor}"
BASE = f"Python {OWN}, uvloop"


def run(bench: Bench) -> None:
    pythons: dict[str, Path] = {}
    for version in dict.fromkeys((OWN, *VERSIONS)):
        found = _interpreter(version)
        if found is None:
            bench.log(f"Python {version} is not available here")
        else:
            pythons[version] = found
    with bench.server() as server, ExitStack() as stack:
        probes: dict[str, tuple[Probe, dict[str, str]]] = {}
        for version, python in pythons.items():
            versions = environments.versions(python, environments.PINS / "qcore.txt")
            for loop in LOOPS:
                probe = stack.enter_context(Probe(server, python=str(python), loop=loop))
                probe.warm_up()
                probes[f"Python {version}, {loop}"] = probe, versions
        for _ in bench.rounds():
            for case, (probe, versions) in probes.items():
                jobs = bench.jobs(JOBS)
                probe.step("enqueue_many", jobs)
                drained = probe.step("drain", jobs)
                base = {} if case == BASE else {"base": BASE}
                facts = {**base, "versions": versions, **drained.facts()}
                bench.emit(case, "qcore", drained.per_s, "jobs/s", **facts)


def _interpreter(version: str) -> Path | None:
    """Return a Python that has what qcore needs: this one, or one in an environment of its own."""
    if version == OWN:
        return Path(sys.executable)
    installed = Path.home().glob(f".pyenv/versions/{version}.*/bin/python")
    for candidate in (shutil.which(f"python{version}"), *map(str, installed)):
        if candidate and _version_of(candidate) == version:
            return environments.made("qcore", base=candidate, suffix=f"-{version}")
    return None


def _version_of(python: str) -> str:
    code = "import sys; print('%d.%d' % sys.version_info[:2])"
    done = subprocess.run((python, "-c", code), capture_output=True, text=True, check=False)
    return done.stdout.strip()  # a shim of pyenv for a version that is not chosen prints none
