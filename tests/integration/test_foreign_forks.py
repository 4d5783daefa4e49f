"""Forks that Python does not see, as servers written in C make them; and those of real servers."""

import http.client
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.programs import environment, run
from tests.support.servers import Server, free_port
from tests.support.waiting import eventually

BIN = Path(sys.executable).parent
READY, PRODUCERS = "{qcore:default}:ready", "{qcore:default}:producers"
#: `PyDLL` holds the lock of the interpreter over the call, as a server that forks does.
FORKS = {
    "c": "import ctypes\nfork = ctypes.PyDLL(None).fork\n",
    "python": "fork = os.fork\n",
}
EARLY = {"early": "note.enqueue_sync(0)\n", "late": ""}


@pytest.mark.parametrize("early", EARLY)
@pytest.mark.parametrize("fork", FORKS)
def test_forked_processes_enqueue_from_many_threads(own_server: Server, fork: str, early: str):
    """With a call before the fork, each process needs connections of its own."""
    run(
        FORKS[fork]
        + EARLY[early]
        + """
def child():
    threads = [threading.Thread(target=note.enqueue_sync, args=(n,)) for n in range(5)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()

os.fork = fork
gone_well(*[forked(child) for _ in range(3)])
note.enqueue_sync(9)
""",
        own_server.url,
        "qcore",
    )
    assert own_server.ask("LLEN", READY) == 16 + (early == "early")
    # one for each process, and for each thread that found the others' in use
    assert 4 <= own_server.ask("HLEN", PRODUCERS) <= 16


@pytest.mark.parametrize("early", EARLY)
def test_processes_of_multiprocessing_enqueue_whatever_their_parent_has_done(
    own_server: Server, early: str
):
    run(
        EARLY[early]
        + """
fork = multiprocessing.get_context("fork")
children = [fork.Process(target=note.enqueue_sync, args=(n,)) for n in range(3)]
for child in children: child.start()
for child in children:
    child.join(20)
    assert child.exitcode == 0
note.enqueue_sync(9)
""",
        own_server.url,
        "qcore",
    )
    assert own_server.ask("LLEN", READY) == 4 + (early == "early")


def test_fork_in_c_of_an_open_app_has_loops_and_connections_of_its_own(own_server: Server):
    run(
        FORKS["c"]
        + """
asyncio.run(app.open())
asyncio.run(note.enqueue(0))
loop = asyncio.new_event_loop()
here = loop.run_until_complete
here(app.open())
here(note.enqueue(1))
before = here(connection())

def child():
    here(note.enqueue(2))  # in the loop of its parent
    assert here(connection()) != before
    asyncio.run(note.enqueue(3))

os.fork = fork
gone_well(forked(child))
here(note.enqueue(4))
assert here(connection()) == before
here(app.close())
loop.close()
""",
        own_server.url,
        "qcore",
    )
    assert own_server.ask("LLEN", READY) == 5
    assert own_server.ask("HLEN", PRODUCERS) == 4


def test_fork_in_c_leaves_the_embedded_server_to_its_parent(tmp_path: Path):
    """The child ends as a program does, with the exit handlers that it inherited."""
    assert run(
        FORKS["c"]
        + """
import atexit
note.enqueue_sync(1)
if pid := fork():
    gone_well(pid)
    note.enqueue_sync(2)
    print(note.enqueue_sync(3).status_sync())
else:
    atexit._run_exitfuncs()
    os._exit(0)
""",
        f"embedded://{tmp_path / 'data'}",
        "qcore",
    ) == ["ready"]
    assert not list((tmp_path / "data").glob("*.pid"))


# -- servers ---------------------------------------------------------------------------------------

VIEWS = """
import os
from qcore import App

app = App()

@app.task(name="note")
async def note(n: int) -> int:
    return n

if os.environ["EARLY"] == "early":
    note.enqueue_sync(0)

def application(environ, start_response):
    job = note.enqueue_sync(int(environ["PATH_INFO"].strip("/")))
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [f"{os.getpid()} {job.id}".encode()]
"""
#: Each imports the application in its master, and forks four workers.
SERVERS = {
    "gunicorn": "gunicorn --preload --workers=4 --bind={place} --log-level=error views",
    "uwsgi": "uwsgi --master --need-app --die-on-term --processes=4 --disable-logging "
    "--http-socket={place} --module=views",
    "uwsgi-threads": "uwsgi --master --need-app --die-on-term --processes=4 --threads=2 "
    "--disable-logging --http-socket={place} --module=views",
}


@contextmanager
def serving(kind: str, folder: Path, port: int, url: str, early: str) -> Iterator[None]:
    (folder / "views.py").write_text(VIEWS)
    words = SERVERS[kind].format(place=f"127.0.0.1:{port}").split()
    with (folder / "log").open("w") as log:
        server = subprocess.Popen(
            [BIN / words[0], *words[1:]],
            cwd=folder,
            env={**environment(url, "qcore"), "EARLY": early},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    try:
        yield
    finally:
        server.terminate()
        try:
            server.wait(30)
        finally:
            server.kill()


def answer(port: int, n: int) -> tuple[str, ...]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request("GET", f"/{n}")
        return tuple(connection.getresponse().read().decode().split())
    finally:
        connection.close()


def answers(port: int) -> bool:
    try:
        return len(answer(port, 0)) == 2
    except OSError:
        return False


@pytest.mark.parametrize("early", EARLY)
@pytest.mark.parametrize("kind", SERVERS)
async def test_server_that_forks_after_its_import_loses_no_job(
    own_server: Server, tmp_path: Path, kind: str, early: str
):
    if not (BIN / SERVERS[kind].split()[0]).exists():
        pytest.skip("there is no wheel of uWSGI for this system")
    port = free_port()
    with serving(kind, tmp_path, port, own_server.url, early):
        await eventually(lambda: answers(port), 30)
        with ThreadPoolExecutor(8) as pool:
            made = list(pool.map(lambda n: answer(port, n), range(200)))
    assert len({id for _, id in made}) == 200
    found = own_server.ask("LLEN", READY)
    assert isinstance(found, int)
    assert found >= 201 + (early == "early")
