"""An embedded server is joined only in a folder that no other account can write into."""

import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from qcore.broker.embedded import server as server_module
from qcore.broker.embedded.folder import (
    FileLock,
    Marker,
    private_folder,
    read_file,
    socket_path_for,
    write_marker,
)
from qcore.broker.embedded.process import Answer, launch, probe, shut_down, terminate, wait_until
from qcore.broker.embedded.server import EmbeddedServer, find_server
from qcore.errors import ConfigError, QcoreError

#: Somebody else; only root can play them.
OTHER = 65534

as_root = pytest.mark.skipif(os.getuid() != 0, reason="only root can play another account")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "data"


def refusal(folder: Path) -> str:
    """Return why a folder is not joined; nothing may run in it afterwards."""
    with pytest.raises(ConfigError) as e:
        EmbeddedServer.join(folder).leave()
    assert probe(socket_path_for(folder.resolve()), 1) is Answer.DOWN
    return str(e.value)


@as_root
def test_folder_of_another_account_is_refused(folder):
    folder.mkdir(mode=0o700)
    os.chown(folder, OTHER, OTHER)
    said = refusal(folder)
    assert f"{folder} of the embedded server belongs to the account nobody: use one" in said
    assert "could run jobs as the account root" in said
    assert [*folder.iterdir()] == []


@as_root
def test_folder_that_another_account_closed_to_us_names_its_owner():
    with tempfile.TemporaryDirectory(dir="/tmp") as parent:
        Path(parent).chmod(0o755)
        folder = Path(parent, "data")
        folder.mkdir(mode=0o700)
        said = said_as(OTHER, lambda: EmbeddedServer.join(folder))
    assert f"{folder} of the embedded server belongs to the account root: use one of your" in said


def said_as(uid: int, act: Callable[[], object]) -> str:
    """Return the error of `act` when another account calls it."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.setgroups([])
            os.setgid(uid)
            os.setuid(uid)
            act()
        except ConfigError as e:
            os.write(writer, str(e).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        said = pipe.read()
    os.waitpid(child, 0)
    return said


@pytest.mark.parametrize("mode", [0o755, 0o777, 0o770, 0o701])
def test_folder_that_others_may_enter_is_refused_and_the_remedy_named(folder, mode):
    folder.mkdir()
    (folder / "server.json").write_text("{}")
    folder.chmod(mode)
    said = refusal(folder)
    assert f"is open to other accounts (mode {mode:04o})" in said
    assert f"run `chmod 700 {folder}`" in said
    folder.chmod(0o700)
    assert EmbeddedServer.join(folder).leave()


def test_empty_folder_of_ours_is_closed_to_others(folder):
    folder.mkdir(mode=0o755)
    server = EmbeddedServer.join(folder)
    assert folder.stat().st_mode & 0o777 == 0o700
    for path in folder.rglob("*"):
        assert path.stat().st_mode & 0o077 == 0 or path.is_dir(), path
    assert server.leave()


def test_link_to_a_folder_is_refused(tmp_path, folder):
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    folder.symlink_to(tmp_path / "elsewhere")
    assert "is a symbolic link: name the folder that it leads to" in refusal(folder)
    assert [*(tmp_path / "elsewhere").iterdir()] == []


@pytest.mark.parametrize("name", ["start.lock", "users.lock", "server.lock", "server.log"])
@pytest.mark.parametrize("kind", ["link", "pipe"])
def test_file_of_the_folder_that_is_a_link_or_a_pipe_is_not_opened(tmp_path, folder, name, kind):
    folder.mkdir(mode=0o700)
    victim = tmp_path / "victim"
    victim.write_text("precious")
    if kind == "link":
        (folder / name).symlink_to(victim)
    else:
        os.mkfifo(folder / name)
    if name == "server.log":  # it is moved away, and a new one made
        assert EmbeddedServer.join(folder).leave()
        assert (folder / name).is_file()
        assert not (folder / name).is_symlink()
    else:
        with pytest.raises(QcoreError, match="cannot use"):
            EmbeddedServer.join(folder)
    assert victim.read_text() == "precious"


def test_link_is_not_read_as_the_log_of_the_server(tmp_path, folder):
    folder.mkdir(mode=0o700)
    (tmp_path / "secret").write_text("hunter2")
    (folder / "server.log").symlink_to(tmp_path / "secret")
    assert read_file(folder, "server.log") is None


def test_process_that_only_looks_like_the_server_is_never_signalled(folder):
    folder.mkdir(mode=0o700)
    path = socket_path_for(folder)
    # as the server: the path of its socket among its words
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)", path])
    try:
        (folder / "server.pid").write_text(str(process.pid))
        (folder / "server.lock").touch()
        assert not terminate(folder, path, lambda: False)
        assert process.poll() is None
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("pid", ["0", "-1", "1", "nonsense", "99999999999999999999"])
def test_pid_file_that_names_no_server_is_passed_over(folder, pid):
    folder.mkdir(mode=0o700)
    (folder / "server.pid").write_text(pid)
    server = EmbeddedServer.join(folder)
    assert server.started
    assert server.leave()


def test_server_is_terminated_when_it_proves_itself(folder, monkeypatch):
    server = EmbeddedServer.join(folder)
    Path(server.socket_path).unlink()
    monkeypatch.setattr(server_module, "ANSWER_S", 0.3)
    assert server.leave()  # it cannot be asked any more


@as_root
def test_socket_in_a_folder_of_another_account_is_not_asked(tmp_path, folder):
    """Whoever cleans /tmp removes the folder of our sockets, and then anybody can make it."""
    run_folder = tmp_path / "run"
    run_folder.mkdir()
    os.chown(run_folder, OTHER, OTHER)
    folder.mkdir(mode=0o700)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(run_folder / "s"))
        listener.listen()
        write_marker(folder, Marker("redis", "7.0.0", str(run_folder / "s")))
        with pytest.raises(ConfigError, match="not a folder of this account"):
            probe(str(run_folder / "s"), 1)
        server = EmbeddedServer.join(folder)  # the marker is of a server that is gone
        assert server.started
        assert not server.socket_path.startswith(str(run_folder))
        server.socket_path = str(run_folder / "s")
        with pytest.raises(ConfigError, match="not a folder of this account"):
            server.ensure_running()
        listener.setblocking(False)
        with pytest.raises(BlockingIOError):
            listener.accept()
    assert server.leave()


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_server_is_started_in_the_folder_that_was_checked(tmp_path, folder, monkeypatch):
    """Who may rename it could put one of their own in its place between the look and the start."""
    start = subprocess.Popen

    def renamed_first(*words: object, **options: object) -> object:
        folder.rename(tmp_path / "moved")
        folder.mkdir(mode=0o700)
        return start(*words, **options)  # type: ignore[call-overload]

    folder.mkdir(mode=0o700)
    path, binary = socket_path_for(folder), find_server()
    with FileLock(folder / "server.lock") as lock:
        monkeypatch.setattr(subprocess, "Popen", renamed_first)
        launch(binary, folder, path, lock.fileno())
    assert wait_until(lambda: probe(path, 5) is Answer.READY, 20)
    assert [*folder.iterdir()] == []
    assert (tmp_path / "moved" / "server.pid").exists()
    assert shut_down(path)
    assert wait_until(lambda: probe(path, 5) is Answer.DOWN, 20)


def test_folder_that_nobody_else_could_enter_may_be_written_into_beside_us(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """By another process of ours, which starts in the same moment."""
    found = iter(([], ["server.lock"]))
    monkeypatch.setattr(os, "listdir", lambda fd: next(found))
    with private_folder(tmp_path / "data", make=True) as fd:
        assert os.fstat(fd).st_mode & 0o777 == 0o700
