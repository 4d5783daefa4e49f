"""The embedded server: real processes that share, kill and restart a real server."""

import json
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import qcore
from qcore.broker.embedded import server as server_module
from qcore.broker.embedded.folder import (
    FileLock,
    Marker,
    read_marker,
    socket_path_for,
    write_marker,
)
from qcore.broker.embedded.process import Answer, probe, server_pid, wait_until
from qcore.broker.embedded.server import EmbeddedServer, find_server
from qcore.errors import BrokerUnavailable
from tests.support.servers import append_only_file

CYCLES = 15

# A user in a process of its own: joins at the first line, then calls one method per line.
USER = f"""
CYCLES = {CYCLES}
import os, signal, socket, sys, structlog
from pathlib import Path
from qcore.broker.embedded.server import EmbeddedServer, run_foreground
structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))

def fork():
    reader, writer = os.pipe()
    if pid := os.fork():
        os.read(reader, 1)
        return pid
    os.write(writer, b".")
    signal.pause()

def cycle():
    for _ in range(CYCLES):
        server = EmbeddedServer.join(folder)
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(server.socket_path)
            connection.sendall(b"INCR cycles\\r\\n")
            assert connection.recv(99).startswith(b":")
        server.leave()
    return CYCLES

folder = Path(sys.argv[1])
print("up", flush=True)
sys.stdin.readline()
if sys.argv[2] == "foreground":
    sys.exit(run_foreground(folder))
if sys.argv[2] == "cycle":
    print(cycle(), flush=True)
    sys.exit()
server = EmbeddedServer.join(folder)
print(int(server.started), flush=True)
for line in sys.stdin:
    print(int((fork if line == "fork\\n" else getattr(server, line[:-1]))()), flush=True)
"""


def ask(socket_path: str, command: str) -> str:
    """Send one inline command, return the reply (the value, for a bulk string)."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(10)
        connection.connect(socket_path)
        connection.sendall(command.encode() + b"\r\n")
        reply = connection.recv(65536).decode()
    return reply.split("\r\n", 1)[1].rstrip() if reply.startswith("$") else reply.rstrip()


class User:
    def __init__(self, folder: Path, role: str = "user") -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", USER, str(folder), role],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )
        assert self.read() == "up"

    def say(self, line: str) -> None:
        assert self.process.stdin
        self.process.stdin.write(line + "\n")

    def read(self) -> str:
        assert self.process.stdout
        return self.process.stdout.readline().strip()

    def call(self, line: str) -> int:
        self.say(line)
        return int(self.read())

    def join(self) -> bool:
        return self.call("join") == 1

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "some data"
    yield folder
    pid, marker = server_pid(folder), read_marker(folder)
    if pid and marker and probe(marker.socket, 1) is not Answer.DOWN:  # a test failed half-way
        os.kill(pid, signal.SIGKILL)
    Path(socket_path_for(folder)).unlink(missing_ok=True)


@pytest.fixture
def new_user(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., User]]:
    monkeypatch.setenv("PYTHONPATH", str(Path(qcore.__file__).parent.parent))
    users: list[User] = []

    def make(role: str = "user") -> User:
        users.append(User(folder, role))
        return users[-1]

    yield make
    for user in users:
        user.kill()
        for pipe in (user.process.stdin, user.process.stdout):
            assert pipe
            pipe.close()


def test_start_race_of_six_processes_starts_one_server(folder, new_user):
    users = [new_user() for _ in range(6)]
    for user in users:
        user.say("join")
    assert sorted(user.read() for user in users) == ["0"] * 5 + ["1"]
    assert probe(socket_path_for(folder), 5) is Answer.READY
    assert not (folder / "server.log.1").exists()  # the log moves at each start


def test_last_user_out_stops_the_server(folder, new_user):
    users = [new_user() for _ in range(3)]
    assert [user.join() for user in users] == [True, False, False]
    pid = server_pid(folder)
    assert pid
    assert users[0].call("leave") == 0
    assert users[2].call("leave") == 0
    assert probe(socket_path_for(folder), 5) is Answer.READY
    assert users[1].call("leave") == 1
    assert probe(socket_path_for(folder), 5) is Answer.DOWN
    assert server_pid(folder) is None


def test_program_that_ends_without_leaving_stops_the_server(folder, new_user):
    user = new_user()
    user.join()
    user.process.stdin.close()
    assert user.process.wait(20) == 0
    assert probe(socket_path_for(folder), 5) is Answer.DOWN


def test_leave_twice_does_nothing_and_never_starts_again(folder):
    server = EmbeddedServer.join(folder)
    assert server.leave()
    assert not server.leave()
    with pytest.raises(BrokerUnavailable, match="has left"):
        server.ensure_running()


def test_two_memberships_of_one_process_are_two_users(folder):
    first, second = EmbeddedServer.join(folder), EmbeddedServer.join(folder)
    assert (first.started, second.started) == (True, False)
    assert not first.leave()
    assert probe(second.socket_path, 5) is Answer.READY
    assert second.leave()


def test_server_killed_keeps_acknowledged_writes_and_one_user_restarts_it(folder, new_user):
    users = [new_user() for _ in range(4)]
    for user in users:
        user.join()
    path, acknowledged = socket_path_for(folder), 0
    pid = server_pid(folder)
    assert pid
    killer = threading.Timer(0.3, os.kill, (pid, signal.SIGKILL))
    killer.start()
    try:
        while True:
            reply = ask(path, "INCR writes")
            acknowledged = int(reply[1:]) if reply else acknowledged
            if not reply:
                break
    except OSError:
        pass
    killer.join()
    for user in users:
        user.say("ensure_running")
    assert sum(int(user.read()) for user in users) == 1
    assert acknowledged > 0
    assert acknowledged <= int(ask(path, "GET writes")) <= acknowledged + 1
    assert server_pid(folder) != pid


def test_ensure_running_is_one_ping_while_the_server_is_well(folder):
    server = EmbeddedServer.join(folder)
    with FileLock(folder / "start.lock") as lock:
        assert lock.try_lock()  # it would wait here if it needed the lock
        assert not server.ensure_running()
    server.leave()


def test_user_killed_does_not_keep_the_server_for_ever(folder, new_user):
    starter, other = new_user(), new_user()
    assert starter.join()
    other.join()
    starter.kill()
    assert other.call("leave") == 1


def test_last_user_killed_leaves_the_server_to_the_next_one(folder, new_user):
    user = new_user()
    user.join()
    user.kill()
    server = EmbeddedServer.join(folder)
    assert not server.started
    assert server.leave()


def test_forked_child_does_not_keep_the_membership_of_its_parent(folder, new_user):
    parent, other = new_user(), new_user()
    parent.join()
    other.join()
    child = parent.call("fork")
    try:
        parent.kill()
        assert other.call("leave") == 1
    finally:
        os.kill(child, signal.SIGKILL)


def test_joins_and_leaves_at_once_lose_no_write(folder, new_user):
    users = [new_user("cycle") for _ in range(3)]
    for user in users:
        user.say("go")
    assert [user.read() for user in users] == [str(CYCLES)] * 3
    assert probe(socket_path_for(folder), 5) is Answer.DOWN
    server = EmbeddedServer.join(folder)
    assert ask(server.socket_path, "GET cycles") == str(3 * CYCLES)
    server.leave()


def test_stale_socket_and_pid_file_do_not_stop_a_start(folder):
    folder.mkdir(mode=0o700)
    path = socket_path_for(folder)
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(path)
    (folder / "server.pid").write_text(str(os.getpid()))
    server = EmbeddedServer.join(folder)
    assert server.started
    assert stat.S_IMODE(Path(path).stat().st_mode) & 0o077 == 0
    server.leave()


def test_removed_socket_gets_the_server_replaced_with_its_data(folder, monkeypatch):
    server = EmbeddedServer.join(folder)
    ask(server.socket_path, "SET kept 1")
    Path(server.socket_path).unlink()
    monkeypatch.setattr(server_module, "ANSWER_S", 0.3)
    assert server.ensure_running()
    assert ask(server.socket_path, "GET kept") == "1"
    server.leave()


def test_foreign_process_in_the_pid_file_is_never_killed(folder, monkeypatch):
    folder.mkdir(mode=0o700)
    monkeypatch.setattr(server_module, "ANSWER_S", 0.1)
    (folder / "server.pid").write_text(str(os.getpid()))
    with FileLock(folder / "server.lock") as lock:
        assert lock.try_lock()
        with pytest.raises(BrokerUnavailable, match="holds the folder and does not answer"):
            EmbeddedServer.join(folder)


def test_removed_folder_moves_its_users_to_a_new_server(folder):
    first = EmbeddedServer.join(folder)
    ask(first.socket_path, "SET lost 1")
    subprocess.run(["rm", "-r", str(folder)], check=True)
    second = EmbeddedServer.join(folder)
    assert second.started
    assert first.ensure_running() is False
    assert ask(first.socket_path, "GET lost") == ""
    assert not second.leave()
    assert first.leave()


def test_removed_folder_lets_the_last_user_stop_its_server(folder):
    server = EmbeddedServer.join(folder)
    subprocess.run(["rm", "-r", str(folder)], check=True)
    assert server.leave()
    assert probe(server.socket_path, 5) is Answer.DOWN
    assert not folder.exists()


def test_torn_tail_of_the_append_only_file_starts(folder):
    server = EmbeddedServer.join(folder)
    ask(server.socket_path, "SET kept 1")
    server.leave()
    with append_only_file(folder).open("ab") as tail:
        tail.write(b"*3\r\n$3\r\nSET\r\n$4\r\nto")
    server = EmbeddedServer.join(folder)
    assert ask(server.socket_path, "GET kept") == "1"
    server.leave()


def test_loading_is_waited_for_longer_than_silence(folder, monkeypatch):
    folder.mkdir(mode=0o700)
    monkeypatch.setattr(server_module, "ANSWER_S", 0.5)
    write_marker(folder, Marker("redis", "7.0.0", socket_path_for(folder)))
    lock = FileLock(folder / "server.lock")
    assert lock.try_lock()
    loaded_at = time.monotonic() + 1.0

    def serve(listener: socket.socket) -> None:
        command = b""
        while not command.startswith(b"SHUTDOWN"):
            connection, _ = listener.accept()
            with connection:
                command = connection.recv(99)
                loading = time.monotonic() < loaded_at
                connection.sendall(b"-LOADING data\r\n" if loading else b"+PONG\r\n")
        lock.release()

    with socket.socket(socket.AF_UNIX) as listener:
        Path(socket_path_for(folder)).unlink(missing_ok=True)
        listener.bind(socket_path_for(folder))
        listener.listen()
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        server = EmbeddedServer.join(folder)
        assert time.monotonic() >= loaded_at
        assert not server.started
        assert server.leave()
        thread.join()


def test_marker_tells_kind_version_and_socket(folder):
    binary, server = find_server(), EmbeddedServer.join(folder)
    assert json.loads((folder / "server.json").read_text()) == {
        "kind": binary.kind,
        "version": ".".join(map(str, binary.version)),
        "socket": server.socket_path,
    }
    server.leave()


def test_relative_and_absolute_path_are_one_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    relative, absolute = EmbeddedServer.join(Path("data")), EmbeddedServer.join(tmp_path / "data")
    assert relative.folder == absolute.folder
    assert (relative.started, absolute.started) == (True, False)
    absolute.leave()
    relative.leave()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_run_foreground_stops_at_a_signal(folder, new_user, number):
    user = new_user("foreground")
    user.say("go")
    assert "started" in user.read()
    assert user.read() == f"url     embedded://{folder}"
    assert user.read() == f"socket  {socket_path_for(folder)}"
    user.process.send_signal(number)
    assert user.process.wait(20) == 0
    assert user.process.stdout.read().endswith("stopped\n")
    assert probe(socket_path_for(folder), 5) is Answer.DOWN


def test_run_foreground_joins_a_running_server_and_keeps_it_up(folder, new_user):
    server = EmbeddedServer.join(folder)
    user = new_user("foreground")
    user.say("go")
    assert "was running already" in user.read()
    pid = server_pid(folder)
    assert pid
    os.kill(pid, signal.SIGKILL)
    assert wait_until(lambda: probe(server.socket_path, 5) is Answer.READY, 20)
    user.process.terminate()
    assert user.process.wait(20) == 0
    assert "stays up" in user.process.stdout.read()
    assert server.leave()
