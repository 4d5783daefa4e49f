"""What lies in the folder of an embedded server: locks and a marker; and where its socket lies.

Whoever can write into one of these folders runs code as every user of the server: a job names a
function. So a folder, and each file that is opened in it, must be of this account and closed to
all others; files are opened beside the folder's descriptor, so that what was looked at is what is
used, whoever renames it meanwhile.
"""

import errno
import fcntl
import hashlib
import json
import os
import pwd
import stat
import tempfile
import weakref
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
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


def full_path(folder: Path) -> Path:
    """Return the absolute path of a folder; a link at its end is not followed.

    Raises:
        ConfigError: the folder that this program stands in was removed.
    """
    try:
        folder = folder.expanduser()
        if folder.name in ("", ".."):
            return folder.resolve()
        return folder.parent.resolve() / folder.name
    except (OSError, RuntimeError) as error:  # the latter: a home that nobody knows
        raise ConfigError(
            f"the folder {folder} of the embedded server is nowhere ({error}): give embedded:// "
            f"an absolute path"
        ) from None


@contextmanager
def private_folder(folder: Path, *, make: bool = False) -> Generator[int]:
    """Open a folder that is ours alone and yield its descriptor.

    Args:
        folder: An absolute path.
        make: Make it if it is missing; one of ours that is empty is closed to all others.

    Raises:
        ConfigError: it is missing, a link, another account's, or others may enter it.
        BrokerUnavailable: the machine is short of something.
    """
    try:
        if make:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if folder.is_symlink():
            raise _not_private(folder, "is a symbolic link: name the folder that it leads to")
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise _unopened(folder, error) from None
    try:
        found = os.fstat(fd)
        is_open = found.st_uid == os.getuid() and found.st_mode & 0o077
        # one that nobody else could enter may be written into by ours that start beside this one
        if make and is_open and not os.listdir(fd):  # noqa: PTH208
            os.fchmod(fd, 0o700)
            if os.listdir(fd):  # noqa: PTH208 - somebody was faster
                raise _not_private(folder, "was written into by others: name another folder")
        _check_private(folder, fd)
        yield fd
    finally:
        os.close(fd)


def _check_private(folder: Path, fd: int) -> None:
    found = os.fstat(fd)
    if found.st_uid != os.getuid():
        raise _not_private(folder, f"belongs to {_account(found.st_uid)}: use one of your own")
    if found.st_mode & 0o077:
        raise _not_private(
            folder,
            f"is open to other accounts (mode {stat.S_IMODE(found.st_mode):04o}): run `chmod 700 "
            f"{folder}` if nobody else has written into it, else name another folder",
        )


def open_in(folder_fd: int, name: str, flags: int) -> int:
    """Open a file of a private folder; return its descriptor.

    Raises:
        OSError: it cannot be opened; or it is a link, no plain file, or another account's.
    """
    # not to be held up by a pipe that lies there under this name
    flags |= os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    fd = os.open(name, flags, 0o600, dir_fd=folder_fd)
    found = os.fstat(fd)
    if stat.S_ISREG(found.st_mode) and found.st_uid == os.getuid():
        return fd
    os.close(fd)
    raise OSError(errno.EPERM, f"{name} is no file of this account")


def read_file(folder: Path, name: str) -> bytes | None:
    """Return what a file of a private folder holds; None when there is none to be trusted."""
    try:
        with private_folder(folder) as fd, open(open_in(fd, name, os.O_RDONLY), "rb") as file:
            return file.read()
    except (OSError, QcoreError):
        return None


class FileLock:
    """A lock on a file that the kernel drops with its process; no child process keeps it.

    Two FileLocks exclude each other in one process too: the lock belongs to the open file. A forked
    child shares that with its parent, so there the lock counts as closed, and is taken anew on
    demand: to unlock it, or to turn it into another kind, would do the same to the parent's.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with private_folder(path.parent) as folder_fd:
            try:
                fd = open_in(folder_fd, path.name, os.O_RDWR | os.O_CREAT)
            except OSError as error:
                raise unusable(path.parent, error) from None
        self._opened: tuple[int, int] | None = os.getpid(), fd
        _open_locks.add(self)

    @property
    def _fd(self) -> int | None:
        if self._opened is not None and self._opened[0] != os.getpid():
            self.close()
        return None if self._opened is None else self._opened[1]

    def try_lock(self, *, shared: bool = False) -> bool:
        """Take the lock, or turn the held one into this kind; return False if others hold it.

        After a False the lock may be lost, the shared one as well: turning is not atomic.
        """
        fd = self._fd
        if fd is None:
            return False
        try:
            fcntl.flock(fd, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError as error:
            raise unusable(self.path.parent, error) from None
        return True

    def is_current(self) -> bool:
        """Return whether this is still the file at its path: the folder was not removed."""
        fd = self._fd
        try:
            return fd is not None and os.path.samestat(os.fstat(fd), self.path.lstat())
        except OSError:
            return False

    def fileno(self) -> int:
        """Return the descriptor, to let the server inherit it."""
        fd = self._fd
        if fd is None:
            raise ValueError(f"{self.path} is not open")
        return fd

    def release(self) -> None:
        """Unlock and close; nothing happens if it is closed."""
        fd = self._fd
        if fd is not None:
            # Said aloud: a child that is just being forked has the open file until it executes.
            with suppress(OSError):
                fcntl.flock(fd, fcntl.LOCK_UN)
            self.close()

    def close(self) -> None:
        """Close without unlocking: whoever inherited the descriptor keeps the lock."""
        opened, self._opened = self._opened, None
        if opened is not None:
            os.close(opened[1])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.release()


_open_locks: "weakref.WeakSet[FileLock]" = weakref.WeakSet()


def _forget_inherited_locks() -> None:
    # At once, where Python sees the fork: the child would keep a parent that was killed a user for
    # as long as it lives.
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
        content: Any = json.loads(read_file(folder, MARKER_FILE) or b"")
        return Marker(str(content["kind"]), str(content["version"]), str(content["socket"]))
    except (ValueError, KeyError, TypeError):
        return None


def write_marker(folder: Path, marker: Marker) -> None:
    """Replace the marker of `folder` at once: readers see the old or the new one."""
    fresh = f"{MARKER_FILE}.new"
    with private_folder(folder) as fd:
        with open(open_in(fd, fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), "w") as file:
            file.write(json.dumps(marker._asdict(), indent=2) + "\n")
        os.replace(fresh, MARKER_FILE, src_dir_fd=fd, dst_dir_fd=fd)


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
    except OSError as error:
        raise unusable(run_folder, error) from None
    check_socket(run_folder / "any")
    run_folder.chmod(0o700)


def check_socket(socket_path: Path) -> None:
    """Refuse a socket that may be another's: whoever cleans `/tmp` removes our folder there.

    Raises:
        ConfigError: its folder is not of this account.
    """
    run_folder = socket_path.parent
    if os.path.lexists(run_folder) and not _is_own_folder(run_folder):
        raise ConfigError(
            f"{run_folder} is not a folder of this account, so a server's socket in it could "
            f"be another's: remove it, or set TMPDIR to a folder of your own"
        )


def unusable(folder: Path, error: OSError) -> QcoreError:
    """Return the error for a folder that cannot be used: one that may pass, or a wrong setting."""
    if error.errno in _PASSING:
        return BrokerUnavailable(f"the embedded server cannot use {folder}: {error.strerror}")
    return ConfigError(
        f"the embedded server cannot use the folder {folder}: {error.strerror or error}; give "
        f"embedded:// a folder on a local disk that this account can write"
    )


def _unopened(folder: Path, error: OSError) -> QcoreError:
    if error.errno == errno.EACCES and folder.exists():
        owner = folder.lstat().st_uid
        if owner != os.getuid():
            return _not_private(folder, f"belongs to {_account(owner)}: use one of your own")
    return unusable(folder, error)


def _not_private(folder: Path, why: str) -> ConfigError:
    return ConfigError(
        f"the folder {folder} of the embedded server {why} (embedded://PATH), or give the URL of "
        f"a running server; whoever writes there could run jobs as {_account(os.getuid())}"
    )


def _account(uid: int) -> str:
    try:
        return f"the account {pwd.getpwuid(uid).pw_name}"
    except KeyError:
        return f"the account {uid}"
