"""A Redis server for one measurement: nothing in it, nothing kept, on a free port of loopback."""

import functools
import re
import shutil
import socket
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import redis

from benchmarks.harness import processes

#: Said in every record.
PERSISTENCE = 'save "", appendonly no'
START_S = 10.0


class Server:
    """A server process; `with` starts and ends it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self.port = 0

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def __enter__(self) -> Self:
        for _ in range(20):
            self.port = _free_port()
            self._process = self._launch()
            if self._answers():
                return self
            processes.end(self._process)
        raise RuntimeError(f"no Redis server came up; its log is {self._folder / 'redis.log'}")

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._process is not None
        processes.end(self._process)

    def _launch(self) -> subprocess.Popen[bytes]:
        options = {
            "bind": "127.0.0.1",
            "port": str(self.port),
            "dir": str(self._folder),
            "logfile": str(self._folder / "redis.log"),
            "save": "",
            "appendonly": "no",
        }
        words = [word for name, value in options.items() for word in (f"--{name}", value)]
        return subprocess.Popen([program(), *words], stdin=subprocess.DEVNULL)

    def _answers(self) -> bool:
        assert self._process is not None
        last = time.monotonic() + START_S
        while time.monotonic() < last and self._process.poll() is None:
            try:
                if self.ask("PING"):
                    return self._process.poll() is None
            except redis.RedisError:
                time.sleep(0.005)
        return False

    def ask(self, *words: str | int) -> Any:
        """Send one command over a connection of its own; return the reply."""
        with redis.Redis(port=self.port, decode_responses=True) as client:
            return client.execute_command(*words)

    def info(self, section: str) -> dict[str, Any]:
        """Return a section of INFO: figures as numbers, the rest as text."""
        return self.ask("INFO", section)

    def cpu_s(self) -> float:
        """Return the CPU seconds the server process has used so far."""
        return processes.cpu_s(self.pid)


@functools.cache
def version() -> str:
    """Return the name and version of the server program."""
    said = subprocess.run([program(), "--version"], capture_output=True, text=True, check=True)
    found = re.match(r"(\S+) server v=(\S+)", said.stdout)
    return f"{found[1]} {found[2]}" if found else said.stdout.strip()


def program() -> str:
    """Return the server that is measured against: redis-server, else the embedded one of qcore."""
    found = shutil.which("redis-server")
    if found:
        return found
    from qcore.broker.embedded.server import find_server

    return str(find_server().path)


def _free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]
