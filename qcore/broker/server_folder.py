"""What lies in the folder of an embedded server: locks and a marker; and where its socket lies."""

import errno
import fcntl
import hashlib
import json
import os
import stat
import tempfile
import weakref
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, Self

from qcore.errors import BrokerUnavailable, ConfigError, QcoreError

START_LOCK = "start.lock"
USERS_LOCK = "users.lock"
SERVER_LOCK = "server.lock"
MARKER_FILE = "server.json"

#: The address of a unix socket has room for 104 bytes on macOS, 108 on Linux.
SOCKET_PATH_LIMIT_BYTES = 104

#: The machine is short of something, which may pass.
_PASSING = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOSPC, errno.EDQUOT, errno.EIO}


class FileLock:
    """A lock on a file that the kernel drops with its process; no child process keeps it.

    Two FileLocks exclude each other in one process too: the lock belongs to the open file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd: int | None
        try:
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise unusable(path.parent, error) from None
        _open_locks.add(self)

    def try_lock(self, *, shared: bool = False) -> bool:
        """Take the lock, or turn the held one into this kind; return False if others hold it.

        After a False the lock may be lost, the shared one as well: turning is not atomic.
        """
        if self._fd is None:
            return False
        try:
            fcntl.flock(self._fd, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError as error:
            raise unusable(self.path.parent, error) from None
        return True

    def is_current(self) -> bool:
        """Return whether this is still the file at its path: the folder was not removed."""
        try:
            return self._fd is not None and os.path.samestat(os.fstat(self._fd), self.path.stat())
        except OSError:
            return False

    def fileno(self) -> int:
        """Return the descriptor, to let the server inherit it."""
        if self._fd is None:
            raise ValueError(f"{self.path} is not open")
        return self._fd

    def release(self) -> None:
        """Unlock and close; nothing happens if it is closed."""
        if self._fd is not None:
            # Said aloud: a child that is just being forked has the open file until it executes.
            with suppress(OSError):
                fcntl.flock(self._fd, fcntl.LOCK_UN)
            self.close()

    def close(self) -> None:
        """Close without unlocking: whoever inherited the descriptor keeps the lock."""
        if self._fd is not None:
            fd, self._fd = self._fd, None
            os.close(fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.release()


_open_locks: "weakref.WeakSet[FileLock]" = weakref.WeakSet()


def _forget_inherited_locks() -> None:
    # A forked child shares the open files of its parent: it would keep the parent a user for as
    # long as it lives. A lock that is closed here says "not a user" and is taken anew on demand.
    for lock in list(_open_locks):
        lock.close()


os.register_at_fork(after_in_child=_forget_inherited_locks)


class Marker(NamedTuple):
    """What `server.json` says about the server started last in a folder."""

    kind: str
    version: str
    socket: str


def read_marker(folder: Path) -> Marker | None:
    """Return the marker of `folder`, None if there is none that can be read."""
    try:
        content: Any = json.loads((folder / MARKER_FILE).read_bytes())
        return Marker(str(content["kind"]), str(content["version"]), str(content["socket"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def write_marker(folder: Path, marker: Marker) -> None:
    """Replace the marker of `folder` at once: readers see the old or the new one."""
    fresh = folder / f"{MARKER_FILE}.new"
    fresh.write_text(json.dumps(marker._asdict(), indent=2) + "\n")
    fresh.replace(folder / MARKER_FILE)


def socket_path_for(folder: Path) -> str:
    """Return where a server of `folder` listens, in a folder that only this account can enter."""
    name = f"{hashlib.sha256(os.fsencode(folder)).hexdigest()[:16]}.sock"
    for run_folder in _run_folders():
        path = str(run_folder / name)
        if len(os.fsencode(path)) < SOCKET_PATH_LIMIT_BYTES:
            _make_private(run_folder)
            return path
    raise ConfigError(f"no folder for the socket of {folder} has a short enough path: set TMPDIR")


def _run_folders() -> Iterator[Path]:
    # A fact of the login session, not a setting of qcore. After `su` it is another account's.
    session = os.environ.get("XDG_RUNTIME_DIR")  # noqa: TID251
    if session and _is_own_folder(Path(session)):
        yield Path(session, "qcore")
    for place in (tempfile.gettempdir(), "/tmp"):  # the first may be too long
        yield Path(place, f"qcore-{os.getuid()}")


def _is_own_folder(path: Path) -> bool:
    try:
        found = path.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid()


def _make_private(run_folder: Path) -> None:
    try:
        run_folder.mkdir(mode=0o700, exist_ok=True)
        if not _is_own_folder(run_folder):
            raise ConfigError(
                f"{run_folder} is not a folder of this account, so a server's socket in it could "
                f"be another's: remove it, or set TMPDIR to a folder of your own"
            )
        run_folder.chmod(0o700)
    except OSError as error:
        raise unusable(run_folder, error) from None


def unusable(folder: Path, error: OSError) -> QcoreError:
    """Return the error for a folder that cannot be used: one that may pass, or a wrong setting."""
    if error.errno in _PASSING:
        return BrokerUnavailable(f"the embedded server cannot use {folder}: {error.strerror}")
    return ConfigError(
        f"the embedded server cannot use the folder {folder}: {error.strerror or error}; give "
        f"embedded:// a folder on a local disk that this account can write"
    )
