"""A password in the URL of Redis is in nothing that anybody can read of a worker or a command."""

import asyncio
import re
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote

import pytest

from qcore import App, JobStatus
from qcore.broker.identity import new_owner
from qcore.broker.redis.broker import Broker
from qcore.runtime.ipc.orders import ChildConfig
from qcore.settings import BrokerConfig, WorkerConfig
from tests.support.commands import Command as Qcore
from tests.support.commands import Said
from tests.support.fleet import Fleet, fleet_on
from tests.support.http import get
from tests.support.servers import Server, free_port
from tests.support.waiting import eventually

#: With all that separates the parts of a URL; none of its parts may be seen either.
PASSWORD = "zebra7/q:x#y?okapi9@gnu5%25"
PARTS = re.compile("zebra7|okapi9|gnu5", re.IGNORECASE)
TASKS = """
import asyncio, time
from qcore import Retry

@app.task(name="fails", retry=Retry(max_attempts=1))
async def fails() -> None:
    raise LookupError("no such card")

@app.task(name="runs")
async def runs() -> None:
    await asyncio.sleep(600)

@app.task(name="runs_apart", run_in="process")
def runs_apart() -> None:
    time.sleep(600)
"""


@pytest.fixture
def fleet_url(own_server: Server) -> str:
    """A server that knows one user, by that password."""
    own_server.ask("ACL", "SETUSER", "shop", "on", f">{PASSWORD}", "~*", "&*", "+@all")
    return f"redis://shop:{quote(PASSWORD, safe='')}@127.0.0.1:{own_server.port}/0"


@pytest.fixture
def fleet(tmp_path: Path, fleet_url: str, namespace: str) -> Iterator[Fleet]:
    with fleet_on(tmp_path, fleet_url, namespace) as fleet:
        fleet.env |= {"QCORE_URL": fleet_url, "QCORE_NAMESPACE": namespace}
        yield fleet


#: What is to be said of a worker that has a job which runs and one that is dead.
COMMANDS = [
    *("status", "status --json", "doctor", "doctor --json", "top"),
    *("jobs show {runs}", "jobs show {runs} --json", "jobs show default/no", "dead show {fails}"),
    *("dead purge default/no --yes", "clear default --yes", "queues nowhere", "restart --host no"),
]


async def going(app: App) -> dict[str, str]:
    """Return the references of two jobs that run and of one that is dead, by name."""
    refs: dict[str, str] = {}
    for name in ("runs", "runs_apart", "fails"):

        async def task() -> None: ...

        refs[name] = (await app.task(name=name)(task).enqueue()).ref

    async def is_going() -> bool:
        found = [await app.inspector.job(*ref.split("/")) for ref in refs.values()]
        wanted = [JobStatus.ACTIVE, JobStatus.ACTIVE, JobStatus.DEAD]
        return [job.status if job else None for job in found] == wanted

    await eventually(is_going, 40)
    return refs


@pytest.mark.parametrize("form", ["console", "json"])
async def test_a_password_in_the_url_is_seen_nowhere(
    fleet: Fleet, fleet_url: str, qcore: Qcore, form: str
):
    fleet.write_tasks("shop", TASKS)
    port = free_port()
    flags = ["--processes", "1", "--log-level", "debug", "--log-format", form]
    flags += ["--metrics-port", str(port)]
    command = fleet.run(["qcore_cli", "worker", "shop:app", *flags])
    async with App(fleet_url, namespace=fleet.namespace) as app:
        refs = await going(app)
        seen = [repr(app), repr(app.config), repr(app.broker), repr(app.inspector)]
    config = ChildConfig(
        broker=BrokerConfig(url=fleet_url),
        worker=WorkerConfig(queues=("default",)),
        owner=new_owner(),
        orders_fd=0,
        beats_fd=1,
    )
    seen += [repr(config), repr(Broker(config.broker)), str(await get(port, "/metrics"))]
    # the supervisor, its worker, the process of the pool
    pids = await eventually(lambda: p if len(p := fleet.left_behind()) >= 3 else [])
    seen += titles(fleet)
    for words in COMMANDS if form == "console" else ():
        seen += said(await qcore(*words.format(**refs).split(), **fleet.env))
    # nobody is there, nobody is let in, nothing can be read
    elsewhere = fleet_url.replace(f":{fleet_url.rpartition(':')[2]}", f":{free_port()}/0")
    for url in (elsewhere, fleet_url.replace("shop:", "shop:x"), fleet_url + "/x?no=1"):
        seen += said(await qcore("queues", **(fleet.env | {"QCORE_URL": url})))
    # while its process that imports the app is there
    running = asyncio.ensure_future(qcore("worker", "shop:app", "--processes", "0", **fleet.env))
    while not running.done():
        seen += titles(fleet)
        await asyncio.sleep(0.1)
    seen += said(await running)
    command.signal(signal.SIGUSR1)
    await eventually(lambda: "thread.dumped" in command.log.read_text())
    command.signal()
    await eventually(lambda: "supervisor.draining" in command.log.read_text())
    command.signal()
    assert await command.ended(30) == 0
    seen.append(command.log.read_text())
    assert len(pids) >= 3
    assert [text for text in seen if PARTS.search(text)] == []
    assert sum("redis://***@" in text for text in seen) >= 2


def said(answer: Said) -> list[str]:
    assert "Traceback" not in answer.err
    return [answer.out, answer.err]


def titles(fleet: Fleet) -> list[str]:
    """Return how the processes of a fleet call themselves, as anybody sees it."""
    found: list[str] = []
    for pid in fleet.left_behind():
        with suppress(OSError):
            found.append(Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace"))
            found.append(Path(f"/proc/{pid}/comm").read_text())
    return found
