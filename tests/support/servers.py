"""Real Redis servers for tests: on loopback, in a folder of the test, ended by their pid."""

import random
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from qcore.broker.embedded.server import find_server

#: Below the ports that Linux gives to outgoing connections, also for the bus 10,000 higher.
PORTS = range(11_000, 22_000)
BUS = 10_000
START_S = 20.0

#: Runs the tests of a module twice; an undeclared key, or two queues in a call, fails on a cluster.
on_standalone_and_cluster = pytest.mark.parametrize(
    "server_url", ["standalone", "cluster"], indirect=True
)


#: Redis 6.2 lets a script write to a master that has fewer replicas than it must have.
scripts_obey_min_replicas = pytest.mark.skipif(
    find_server().version < (7, 0, 0), reason="before Redis 7.0 scripts pass over min-replicas"
)


def used_bytes(server: "Server") -> int:
    """Return how much memory a server uses."""
    return int(server.ask("INFO", "memory")["used_memory"])


class Server:
    """One server process of this test, that can be killed and started again at its address."""

    def __init__(
        self,
        folder: Path,
        options: Mapping[str, str] | None = None,
        *,
        password: str | None = None,
        program: Path | None = None,
    ) -> None:
        self.folder = folder
        self._program = program or find_server().path
        self.options = dict(options or {})
        self._password = password
        self.port = 0
        self._process: subprocess.Popen[bytes] | None = None
        folder.mkdir(parents=True, exist_ok=True)

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> Self:
        """Start, at the port of before if there was one; return when it answers."""
        for _ in range(20):
            port = self.port or free_port()
            self._process = self._launch(port)
            if self._answers_at(port):
                self.port = port
                return self
            self.kill()
        raise AssertionError(f"no server came up: {(self.folder / 'log').read_text()[-2000:]}")

    def _launch(self, port: int) -> "subprocess.Popen[bytes]":
        return subprocess.Popen(
            [self._program, *self.words(port)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=self.folder,
        )

    def words(self, port: int) -> list[str]:
        """Return the arguments of the server program."""
        options = {
            "bind": "127.0.0.1",
            "port": str(port),
            "dir": str(self.folder),
            "save": "",
            "logfile": str(self.folder / "log"),
            **self.options,
        }
        return [word for name, value in options.items() for word in (f"--{name}", value)]

    def _answers_at(self, port: int) -> bool:
        end = time.monotonic() + START_S
        assert self._process is not None
        while time.monotonic() < end and self._process.poll() is None:
            try:
                if ask_at(port, "PING", password=self._password) and self._process.poll() is None:
                    return True
            except redis.RedisError:
                time.sleep(0.01)
        return False

    def ask(self, *words: str | int) -> Any:
        """Send one command over a connection of its own; return the reply."""
        return ask_at(self.port, *words, password=self._password)

    @property
    def answers(self) -> bool:
        """Whether it answers within a moment."""
        try:
            return bool(ask_at(self.port, "PING", timeout_s=0.3))
        except redis.RedisError:
            return False

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        """End the process; nothing happens if it has ended."""
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(START_S)
            self._process = None

    def signal(self, number: signal.Signals) -> None:
        """Send a signal: SIGSTOP for a server that hangs, SIGCONT for its end."""
        assert self._process is not None
        self._process.send_signal(number)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_exc: object) -> None:
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)


def ask_at(port: int, *words: str | int, timeout_s: float = 5, password: str | None = None) -> Any:
    with redis.Redis(
        port=port,
        password=password,
        protocol=2,
        decode_responses=True,
        socket_timeout=timeout_s,
        retry=Retry(NoBackoff(), 0),
    ) as client:
        return client.execute_command(*words)


def free_port() -> int:
    """Return a port at which nobody listens, whose bus port is free too."""
    while True:
        port = random.choice(PORTS)
        if _is_free(port) and _is_free(port + BUS):
            return port


def _is_free(port: int) -> bool:
    with socket.socket() as listener:
        try:
            listener.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def deny_questions(server: Server) -> None:
    """Make a user app:pw who may neither INFO nor CONFIG, as on a managed server."""
    rules = ("on", ">pw", "~*", "&*", "+@all", "-@dangerous")
    # Redis 6.2 counts CLIENT SETNAME, with which every connection begins, among the dangerous
    server.ask("ACL", "SETUSER", "app", *rules, "+client")


def append_only_file(folder: Path) -> Path:
    """Return the file to which the server of a folder appends: in a folder of its own since 7.0."""
    (path,) = [*folder.glob("*dir/*.incr.aof"), *folder.glob("*.aof")]
    return path


def start_cluster(
    folder: Path, options: Mapping[str, str] | None = None, *, program: Path | None = None
) -> Server:
    """Start a Cluster of one node that owns every slot; it answers when this returns."""
    server = Server(folder, {"cluster-enabled": "yes", **(options or {})}, program=program).start()
    # One by one and not as a range, which Redis 6.2 does not know.
    server.ask("CLUSTER", "ADDSLOTS", *range(16384))
    end = time.monotonic() + START_S
    while "cluster_state:ok" not in str(server.ask("CLUSTER", "INFO")):
        assert time.monotonic() < end, "the cluster did not become ready"
        time.sleep(0.02)
    return server


def docker_answers() -> bool:
    """Say whether a Docker daemon can be used here."""
    if shutil.which("docker") is None:
        return False
    try:
        done = subprocess.run(["docker", "info"], capture_output=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0
