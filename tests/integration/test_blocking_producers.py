"""`enqueue_sync` over connections of its own: faults of the way, threads, interruptions."""

import asyncio
import contextlib
import re
import signal
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from qcore import App
from qcore.broker.redis.blocking_producers import KEPT
from qcore.errors import BrokerRefused, BrokerUnavailable, ConfigError, QueueClosed, QueueFull
from tests.support.programs import ended, run, start
from tests.support.proxy import Proxy
from tests.support.servers import Server, free_port
from tests.support.waiting import eventually

READY = "{qcore:default}:ready"


def note_of(url: str, **options: Any) -> Callable[[int], Any]:
    """Return what enqueues a job of a new app there, and blocks."""
    app = App(url, **options)

    @app.task
    async def note(n: int) -> None: ...

    return note.enqueue_sync


def clients(server: Server) -> list[str]:
    listed = str(server.ask("CLIENT", "LIST"))
    return [line.split()[0][3:] for line in listed.splitlines() if "name=qcore " in line]


def test_call_enqueues_and_names_the_queue(own_server: Server):
    handle = note_of(own_server.url)(1)
    assert own_server.ask("LRANGE", READY, 0, -1) == [handle.id]
    assert own_server.ask("SMEMBERS", "qcore:queues") == {"default"}


async def test_reply_that_is_lost_is_asked_for_again_and_leaves_one_job(own_server: Server):
    async with Proxy(own_server.port) as proxy:
        enqueue = note_of(proxy.url)
        await asyncio.to_thread(enqueue, 1)
        proxy.lose_reply(b"EVALSHA")
        await asyncio.to_thread(enqueue, 2)
        assert proxy.accepted == 2
        assert own_server.ask("LLEN", READY) == 2


def test_connection_that_was_closed_meanwhile_costs_no_error(own_server: Server):
    enqueue = note_of(own_server.url)
    enqueue(1)
    (before,) = clients(own_server)
    own_server.ask("CLIENT", "KILL", "ID", before)
    enqueue(2)
    assert clients(own_server) != [before]
    assert own_server.ask("LLEN", READY) == 2


def test_server_that_comes_back_finds_the_caller_waiting(own_server: Server):
    enqueue = note_of(own_server.url, enqueue_timeout=60)
    enqueue(1)
    own_server.kill()
    thread = threading.Thread(target=enqueue, args=(2,))
    thread.start()
    own_server.start()
    thread.join(30)
    assert not thread.is_alive()
    assert own_server.ask("LLEN", READY) == 1  # of the new server


def test_server_that_hangs_ends_the_call_and_the_next_has_its_own_reply(own_server: Server):
    enqueue = note_of(own_server.url, enqueue_timeout=0.5)
    enqueue(1)
    own_server.signal(signal.SIGSTOP)
    with pytest.raises(BrokerUnavailable, match=r"may have been enqueued: .* did not answer") as e:
        enqueue(2)
    own_server.signal(signal.SIGCONT)
    assert e.value.sent
    last = enqueue(3)
    assert own_server.ask("LINDEX", READY, -1) == last.id


def test_server_that_is_away_says_so_and_nothing_was_sent():
    enqueue = note_of(f"redis://:secret@127.0.0.1:{free_port()}/0", enqueue_timeout=0.2)
    with pytest.raises(BrokerUnavailable, match=r"not enqueued: .*cannot be reached") as e:
        enqueue(1)
    assert not e.value.sent
    assert "secret" not in str(e.value)


def test_refusals_are_those_of_enqueue(own_server: Server):
    enqueue = note_of(own_server.url)
    enqueue(1)
    own_server.ask("HSET", "{qcore:default}:meta", "closed", 1)
    with pytest.raises(QueueClosed, match="queue default is closed since"):
        enqueue(2)
    own_server.ask("HDEL", "{qcore:default}:meta", "closed")
    own_server.ask("CONFIG", "SET", "maxmemory", 1)
    with pytest.raises(QueueFull):
        enqueue(3)
    own_server.ask("CONFIG", "SET", "maxmemory", 0)
    own_server.ask("CONFIG", "SET", "requirepass", "right")
    with pytest.raises(BrokerRefused, match="check user, password and rights"):
        note_of(own_server.url)(4)
    with pytest.raises(ConfigError, match="is no Redis URL"):
        note_of("nothing")(5)


def test_script_that_the_server_forgot_is_taught_again(own_server: Server):
    enqueue = note_of(own_server.url)
    for n in range(3):
        own_server.ask("SCRIPT", "FLUSH")
        enqueue(n)
    assert own_server.ask("LLEN", READY) == 3


def test_threads_that_call_at_once_have_a_connection_each_and_few_stay(own_server: Server):
    enqueue = note_of(own_server.url, enqueue_timeout=60)
    enqueue(0)
    own_server.signal(signal.SIGSTOP)
    threads = [threading.Thread(target=enqueue, args=(n,)) for n in range(KEPT + 8)]
    for thread in threads:
        thread.start()
    own_server.signal(signal.SIGCONT)
    for thread in threads:
        thread.join()
    assert own_server.ask("LLEN", READY) == 1 + len(threads)
    assert 1 < len(clients(own_server)) <= KEPT
    before = set(clients(own_server))
    for n in range(50):
        thread = threading.Thread(target=enqueue, args=(n,))
        thread.start()
        thread.join()
    assert set(clients(own_server)) <= before


async def test_interrupt_ends_a_call_and_the_next_has_its_own_reply(own_server: Server):
    process = start(
        """
note.enqueue_sync(0)
input()
try:
    note.enqueue_sync(1)
except KeyboardInterrupt:
    print("interrupted", flush=True)
print(note.enqueue_sync(2).status_sync())
""",
        own_server.url,
        "qcore",
        stdin=True,
    )
    assert process.stdin is not None
    await eventually(lambda: own_server.ask("LLEN", READY) == 1)
    own_server.signal(signal.SIGSTOP)
    process.stdin.write("\n")
    process.stdin.flush()
    await eventually(lambda: _is_waiting(process.pid))
    process.send_signal(signal.SIGINT)
    assert process.stdout is not None
    assert await asyncio.to_thread(process.stdout.readline) == "interrupted\n"
    own_server.signal(signal.SIGCONT)
    assert ended(process) == ["ready"]


def _is_waiting(pid: int) -> bool:
    """Whether a process is in `poll`: by its number on x86-64, or that of `ppoll` on ARM."""
    return Path(f"/proc/{pid}/syscall").read_text().split()[0] in ("7", "73")


def test_first_call_of_a_program_may_be_made_at_its_end(own_server: Server):
    run("import atexit; atexit.register(note.enqueue_sync, 1)", own_server.url, "qcore")
    assert own_server.ask("LLEN", READY) == 1


@pytest.mark.parametrize("later_s", [0.0, 0.02, 0.1])
def test_fork_beside_the_first_call_leaves_the_child_able_to_call(
    own_server: Server, later_s: float
):
    """It imports what it needs, and a lock of the import would be held in the child for ever."""
    run(
        f"""
thread = threading.Thread(target=note.enqueue_sync, args=(1,))
thread.start()
time.sleep({later_s})
gone_well(forked(lambda: note.enqueue_sync(2)))
thread.join()
""",
        own_server.url,
        "qcore",
    )
    assert own_server.ask("LLEN", READY) == 2


@pytest.mark.parametrize(
    "call",
    [
        "note.enqueue_sync(1)",
        "note.enqueue_sync(1).status_sync()",
        "asyncio.run(opened(lambda: note.enqueue(1)))",
        "asyncio.run(opened(lambda: note.enqueue_many([{'n': 1}])))",
    ],
)
def test_first_call_imports_nothing_that_a_fork_beside_it_would_break(
    own_server: Server, call: str
):
    said = run(
        f"""
from qcore.per_process import importing

async def opened(first):
    async with app:
        await first()

def hook(event, args):
    if event == "import" and not importing._is_owned():
        print(args[0])

sys.addaudithook(hook)
{call}
sys.stdout.flush()
os._exit(0)
""",
        own_server.url,
        "qcore",
    )
    assert said == []


# -- servers that behave badly ---------------------------------------------------------------------


class Odd:
    """A server in a thread: `answer(connection, number)` returns what it says to a command.

    An answer of None closes the connection; of a long one a byte goes out every 50 ms. `number`
    counts the scripts, from 1; it is 0 for other commands.
    """

    def __init__(self, answer: Callable[[int, int], bytes | None]) -> None:
        self._answer = answer
        self._scripts = self._accepted = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"redis://u:p@127.0.0.1:{self._listener.getsockname()[1]}/0"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self._accepted += 1
                args = (connection, self._accepted)
                threading.Thread(target=self._serve, args=args, daemon=True).start()

    def _serve(self, connection: socket.socket, number: int) -> None:
        with contextlib.suppress(OSError), connection:
            while data := connection.recv(65536):
                for word in re.findall(rb"\*\d+\r\n\$\d+\r\n(\w+)\r\n", data):
                    self._scripts += word.startswith(b"EVAL")
                    said = self._answer(number, self._scripts * word.startswith(b"EVAL"))
                    if said is None:
                        return
                    parts = [said] if len(said) < 100 else [b"+"] * len(said)
                    for part in parts:
                        connection.sendall(part)
                        time.sleep(0.05 * (len(parts) > 1))

    def __enter__(self) -> "Odd":
        return self

    def __exit__(self, *_exc: object) -> None:
        self._listener.close()


def test_refusal_of_a_repeat_says_that_the_first_try_may_have_run():
    def answer(connection: int, script: int) -> bytes | None:
        if connection > 1:
            return b"-WRONGPASS invalid username-password pair\r\n"
        return None if script else b"+OK\r\n"  # it ran, and the answer is lost

    with Odd(answer) as server, pytest.raises(BrokerRefused) as e:
        note_of(server.url)(1)
    assert e.value.sent


def test_deadline_holds_while_a_server_dawdles_over_each_step():
    def answer(connection: int, script: int) -> bytes:
        time.sleep(0.5)
        return b"*0\r\n" if script else b"+OK\r\n"

    with Odd(answer) as server, pytest.raises(BrokerUnavailable) as e:
        note_of(server.url, enqueue_timeout=0.6)(1)
    assert not e.value.sent


def test_deadline_holds_while_bytes_trickle():
    def answer(connection: int, script: int) -> bytes:
        return b"+OK\r\n" if not script else b"+" * 1200  # a minute of it

    began = time.monotonic()
    with Odd(answer) as server, pytest.raises(BrokerUnavailable) as e:
        note_of(server.url, enqueue_timeout=0.6)(1)
    assert e.value.sent
    assert time.monotonic() - began < 15


def test_signals_do_not_make_a_call_longer():
    def answer(connection: int, script: int) -> bytes:
        if script:
            time.sleep(60)
        return b"+OK\r\n"

    with Odd(answer) as server:
        said = run(
            """
signal.signal(signal.SIGALRM, lambda *_: None)
signal.setitimer(signal.ITIMER_REAL, 0.05, 0.05)
hasty = App(enqueue_timeout=0.5)

@hasty.task
async def late(n: int) -> None: ...

try:
    late.enqueue_sync(1)
except BrokerUnavailable as e:
    print("ended", e.sent)
signal.setitimer(signal.ITIMER_REAL, 0)
""",
            server.url,
            "qcore",
        )
    assert said == ["ended True"]


def test_reply_that_no_script_gives_is_an_error_and_the_next_call_goes_on():
    def answer(connection: int, script: int) -> bytes:
        return b"+OK\r\n" if not script else b":7\r\n" if script == 1 else b"*0\r\n"

    with Odd(answer) as server:
        assert note_of(server.url)(1).id  # asked for again, and answered well
