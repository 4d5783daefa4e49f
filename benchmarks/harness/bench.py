"""What a part gets: its rounds, the sizes, the systems, and where its figures go."""

import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.harness import systems
from benchmarks.harness.records import WARM_UP, Lines, host
from benchmarks.harness.server import PERSISTENCE, Server, version
from benchmarks.harness.systems import System

#: Memory, where there is such a folder: a disk that writes back is not what is measured.
SHARED = Path("/dev/shm")
#: A warm-up is this much shorter.
WARM_UP_SCALE = 0.25


class Options(NamedTuple):
    """What the command line said."""

    runs: int = 5
    scale: float = 1.0
    systems: tuple[str, ...] = ()


class Bench:
    """One part's view of the run."""

    def __init__(self, part: str, options: Options, lines: Lines) -> None:
        self.part = part
        self.options = options
        self._lines = lines
        self._round = WARM_UP
        self.failures: list[str] = []

    def rounds(self) -> Iterator[int]:
        """Yield the warm-up, which no table counts, then the runs; systems take turns in each."""
        for number in range(WARM_UP, self.options.runs + 1):
            self._round = number
            self.log(f"round {number} of {self.options.runs}")
            yield number

    def once(self) -> None:
        """Count what follows as the only run: it takes long, and is repeated within itself."""
        self._round = WARM_UP + 1

    def jobs(self, full: int) -> int:
        """Return how many jobs this round has, where a run at full size has `full`."""
        scale = self.options.scale * (WARM_UP_SCALE if self._round == WARM_UP else 1)
        return max(int(full * scale), 20)

    def systems(self, *names: str) -> list[System]:
        """Return those of these systems that `--systems` lets take part and that can run here."""
        wanted = self.options.systems or names
        found = (systems.available(name) for name in names if name in wanted)
        return [system for system in found if system]

    @contextmanager
    def turn(self, system: str) -> Iterator[None]:
        """Let one system take its turn; what goes wrong is told at the end, and others go on."""
        try:
            yield
        except Exception as e:  # noqa: BLE001 - the run of half an hour goes on
            self.failures.append(f"{self.part}, {system}, round {self._round}: {e}")
            self.log(f"{system} FAILED: {e}")

    @contextmanager
    def server(self) -> Iterator[Server]:
        """Run a Redis server of its own for one measurement."""
        with self.folder() as folder, Server(folder) as server:
            yield server

    @contextmanager
    def folder(self) -> Iterator[Path]:
        """Make a folder that is gone afterwards."""
        where = SHARED if SHARED.is_dir() else None
        with tempfile.TemporaryDirectory(prefix="qcore-bench-", dir=where) as folder:
            yield Path(folder)

    def emit(
        self,
        case: str,
        system: str,
        value: float,
        unit: str,
        *,
        versions: Mapping[str, str] | None = None,
        **facts: Any,
    ) -> None:
        """Write one figure of this round: what was measured, of whom, how much, in which unit."""
        record = {
            "part": self.part,
            "case": case,
            "system": system,
            "round": self._round,
            "value": value,
            "unit": unit,
            **facts,
            "persistence": PERSISTENCE,
            "versions": versions or systems.load("qcore").versions,
            "host": {**host(), "redis": version()},
        }
        self._lines.write(record)
        self.log(f"{system:9} {case}: {value:,.4g} {unit}")

    def emit_of(self, system: System, case: str, value: float, unit: str, **facts: Any) -> None:
        """Write one figure of a system that is compared, with what it says of itself."""
        said = {"guarantee": system.guarantee, "settings": system.settings}
        self.emit(case, system.name, value, unit, versions=system.versions, **facts, **said)

    def log(self, text: str) -> None:
        """Tell whoever waits how far it is."""
        print(f"{self.part}: {text}", file=sys.stderr, flush=True)
