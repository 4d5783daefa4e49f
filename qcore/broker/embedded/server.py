"""A private Redis server shared by all processes of this machine that name its folder.

It is a real server with an append-only file. Nobody owns it: whoever comes first starts it, the
last one out stops it, and any user starts it again when it died. Three files in the folder are
only there to be locked (`flock`), and the kernel drops a lock with its process, whatever ends it:

    start.lock   held for the moment of joining, starting, leaving: these happen one at a time
    users.lock   shared by all users; who can take it alone is the last one
    server.lock  held by the server itself through an inherited descriptor: while it is held a
                 server lives, whatever its pid file says; two servers never write one folder

The locks lie in the folder because it is what the users share. The socket lies elsewhere (its
path must be short) and `server.json` tells where. A folder is used only if it is private to this
account: see `qcore.broker.embedded.folder`.
"""

import atexit
import os
import select
import signal
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Self

from qcore.broker.embedded.folder import (
    SERVER_LOCK,
    START_LOCK,
    USERS_LOCK,
    FileLock,
    Marker,
    full_path,
    private_folder,
    read_marker,
    socket_path_for,
    write_marker,
)
from qcore.broker.embedded.process import (
    Answer,
    ServerBinary,
    dotted,
    find_server,
    last_words,
    launch,
    probe,
    refuse_invisible_data,
    server_pid,
    shut_down,
    terminate,
    unavailable,
    wait_until,
)
from qcore.errors import BrokerUnavailable, QcoreError
from qcore.telemetry import log

__all__ = ["EmbeddedServer", "ServerBinary", "find_server", "run_foreground"]

#: A server that says nothing for this long is given up; one that loads its data may take longer.
ANSWER_S = 10.0
LOADING_S = 120.0
STOP_S = 10.0
#: Above what one holder of the start lock may need: wait, end a server, start another.
LOCK_S = 40.0


class EmbeddedServer:
    """One user's membership in the shared server of a folder; made by `join`.

    All calls block. They may come from several threads; several memberships of one process
    count as several users. After a fork the child is no user until it calls `ensure_running`.

    Attributes:
        folder: absolute path of the data.
        socket_path: where the server listens. Read it again after `ensure_running`: another
            user with another temporary folder may have started the server elsewhere.
        started: whether `join` had to start it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = full_path(folder)
        self.socket_path = ""
        self.started = False
        self._users: FileLock | None = None
        self._left = False

    @classmethod
    def join(cls, folder: Path) -> Self:
        """Become a user of the server of `folder`; return when it answers.

        The folder is created if it is missing, and the server started if none runs.

        Raises:
            ConfigError: no server program, or a folder that cannot be used: also one that is a
                link, another account's, or open to others.
            BrokerUnavailable: the server did not start, or does not answer.
        """
        server = cls(folder)
        atexit.register(server.leave)  # for a program that ends without closing its app
        try:
            server.started = server.ensure_running()
        except BaseException:
            server.leave()
            raise
        return server

    def ensure_running(self) -> bool:
        """Start the server again if it died; return True when this call started it.

        Costs one PING while the server is well. Blocks while it loads its data, 120 s at most.

        Raises:
            ConfigError: as `join`.
            BrokerUnavailable: as `join`, or this user has left.
        """
        self._check_not_left()
        answer = self._ping() if self._is_user() else Answer.DOWN
        if answer is Answer.READY:
            return False
        if answer is Answer.SILENT:
            raise unavailable(self.folder, f"it did not answer for {ANSWER_S:g} s")
        started = False
        if answer is Answer.DOWN:
            with private_folder(self.folder, make=True):
                pass
            with self._alone():
                started = self._start_if_down()
        self._wait_until_loaded()
        return started

    def leave(self) -> bool:
        """Stop being a user, the last one stops the server; return True when this call did.

        A second call does nothing. Never raises for a server or folder in trouble.
        """
        if self._left:
            return False
        atexit.unregister(self.leave)
        self._left = True  # before the lock: no other thread can start the server after this
        if self._users is None:
            return False
        try:
            if not self.folder.is_dir():  # removed, so nobody can come in while we look
                return self._stop_if_last()
            with self._alone():
                return self._stop_if_last()
        except QcoreError as error:
            log.warning("embedded.failed", folder=str(self.folder), error=str(error))
            return False
        finally:
            self._users.release()

    def _check_not_left(self) -> None:
        if self._left:
            raise unavailable(self.folder, "this user has left it")

    def _is_user(self) -> bool:
        return self._users is not None and self._users.is_current()

    def _ping(self) -> Answer:
        return probe(self.socket_path, ANSWER_S)

    def _answers(self) -> bool:
        return self._ping() in {Answer.READY, Answer.LOADING}

    def _server_is_gone(self) -> bool:
        with FileLock(self.folder / SERVER_LOCK) as ownership:
            return ownership.try_lock()

    @contextmanager
    def _alone(self) -> Generator[None]:
        """Hold the start lock."""
        while True:
            with FileLock(self.folder / START_LOCK) as lock:
                if not wait_until(lock.try_lock, LOCK_S):
                    raise unavailable(
                        self.folder,
                        f"another process has held {lock.path} for {LOCK_S:g} s, is one stopped?",
                    )
                if lock.is_current():  # else the folder was removed while we waited
                    yield
                    return

    def _start_if_down(self) -> bool:
        self._check_not_left()
        self._enrol()
        marker = read_marker(self.folder)
        self.socket_path = marker.socket if marker else socket_path_for(self.folder)
        with FileLock(self.folder / SERVER_LOCK) as ownership:
            if not wait_until(lambda: ownership.try_lock() or self._answers(), ANSWER_S):
                self._end_unreachable(ownership)
            if not ownership.try_lock():
                return False
            self._start(ownership)
        return True

    def _enrol(self) -> None:
        if self._is_user():
            return
        if self._users is not None:
            self._users.release()  # of a folder that was removed
        self._users = FileLock(self.folder / USERS_LOCK)
        if not self._users.try_lock(shared=True):  # taken alone only by who holds the start lock
            raise unavailable(self.folder, f"{self._users.path} is locked by another program")

    def _end_unreachable(self, ownership: FileLock) -> None:
        """End a server whose socket was removed (at logout, by a cleaner); nobody reaches it."""
        removed = not Path(self.socket_path).exists()
        if removed and terminate(self.folder, self.socket_path, ownership.try_lock):
            return
        raise unavailable(
            self.folder,
            f"a server holds the folder and does not answer at {self.socket_path} "
            f"(is it shared with a container or another machine?)",
        )

    def _start(self, ownership: FileLock) -> None:
        binary = find_server()
        refuse_invisible_data(binary, self.folder)
        if (pid := server_pid(self.folder)) is not None:
            words = last_words(self.folder)
            log.warning("embedded.died", folder=str(self.folder), pid=pid, last_words=words)
        self.socket_path = socket_path_for(self.folder)
        try:
            self._end_leftover()
            write_marker(self.folder, Marker(binary.kind, dotted(binary.version), self.socket_path))
            launch(binary, self.folder, self.socket_path, ownership.fileno())
        except OSError as error:
            raise unavailable(self.folder, error.strerror or str(error)) from None
        ownership.close()  # the server has it now
        self._await_first_answer(binary)
        log.info(
            "embedded.started",
            folder=str(self.folder),
            server=str(binary),
            pid=server_pid(self.folder),
        )

    def _end_leftover(self) -> None:
        """Free the socket path: of a dead server, or of one whose folder was removed under it."""
        if self._answers():
            shut_down(self.socket_path)
            if not wait_until(lambda: not self._answers(), STOP_S):
                raise unavailable(
                    self.folder, f"the server at {self.socket_path} of a removed folder stays"
                )
        Path(self.socket_path).unlink(missing_ok=True)

    def _await_first_answer(self, binary: ServerBinary) -> None:
        wait_until(lambda: self._answers() or self._server_is_gone(), ANSWER_S)
        if self._answers():
            return
        if self._server_is_gone():
            raise unavailable(self.folder, f"{binary} ended while it started")
        terminate(self.folder, self.socket_path, self._server_is_gone)
        raise unavailable(self.folder, f"{binary} did not answer within {ANSWER_S:g} s")

    def _wait_until_loaded(self) -> None:
        if not wait_until(lambda: self._ping() is not Answer.LOADING, LOADING_S):
            raise unavailable(self.folder, f"it has been loading its data for {LOADING_S:g} s")
        if not self._answers():
            raise unavailable(self.folder, "it ended, or hangs, in the middle of loading its data")

    def _stop_if_last(self) -> bool:
        if self._users is None or not self._users.try_lock():
            return False
        marker = read_marker(self.folder)
        if self._users.is_current():
            self.socket_path = marker.socket if marker else self.socket_path
            return self._stop(self._server_is_gone)
        if marker and marker.socket == self.socket_path:
            return False  # the folder was made anew, and this is the server of its new users
        return self._stop(lambda: not self._answers())  # its lock file is out of reach

    def _stop(self, is_gone: Callable[[], bool]) -> bool:
        if is_gone():
            return False
        pid = server_pid(self.folder)
        asked = shut_down(self.socket_path) and wait_until(is_gone, STOP_S)
        if not (asked or terminate(self.folder, self.socket_path, is_gone)):
            error = f"the server (pid {pid}) does not stop"
            log.warning("embedded.failed", folder=str(self.folder), error=error)
            return False
        log.info("embedded.stopped", folder=str(self.folder), pid=pid)
        return True


def run_foreground(folder: Path) -> int:
    """Be a user of the server of `folder` until SIGINT, SIGTERM or SIGHUP; return an exit code.

    Says where the server listens, and starts it again when it dies. At the end the server stops
    if there is no other user. Main thread only.

    Raises:
        ConfigError: as `EmbeddedServer.join`.
        BrokerUnavailable: the server could not be started at first.
    """
    with _termination_signals() as signalled:
        server = EmbeddedServer.join(folder)
        try:
            _say(_greeting(server))
            while not signalled(1.0):
                _keep_running(server)
        finally:
            stopped = server.leave()
    _say("stopped" if stopped else "left; the server stays up for its other users")
    return 0


def _keep_running(server: EmbeddedServer) -> None:
    try:
        server.ensure_running()
    except BrokerUnavailable as error:
        log.warning("embedded.failed", folder=str(server.folder), error=str(error))


def _greeting(server: EmbeddedServer) -> str:
    marker = read_marker(server.folder)
    name = f"{marker.kind} {marker.version}" if marker else "server"
    state = "started" if server.started else "was running already, joined to keep it up"
    return (
        f"{name} {state}\n  url     embedded://{server.folder}\n  socket  {server.socket_path}\n"
        f"Ctrl-C leaves; the last user stops it."
    )


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


@contextmanager
def _termination_signals() -> Generator[Callable[[float], bool]]:
    """Yield a function that waits so many seconds for a signal to end; True when one came."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)

    def note(_number: int, _frame: object) -> None:
        with suppress(BlockingIOError):
            os.write(writer, b".")

    def signalled(timeout_s: float) -> bool:
        return bool(select.select([reader], [], [], timeout_s)[0])

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [(number, signal.signal(number, note)) for number in numbers]
    try:
        yield signalled
    finally:
        for number, handler in before:
            signal.signal(number, handler)
        os.close(reader)
        os.close(writer)
