"""TLS to one server, to Sentinels and to a Cluster; a user with just the rights that are needed."""

import asyncio
import os
import re
import shutil
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

import qcore
from qcore import App, BrokerRefused, BrokerUnavailable, JobStatus, Retry
from qcore.broker.embedded.server import find_server
from qcore.broker.redis.broker import Broker
from qcore.broker.redis.fleet import Fleet
from qcore.broker.redis.job_audit import audit
from qcore.broker.redis.queue_checks import read_queues
from qcore.broker.redis.server_checks import read_info, read_server
from qcore.model.fleet import SupervisorState, SupervisorView
from qcore.model.job import Job
from qcore.runtime.supervisor.preflight import admits
from qcore.settings import BrokerConfig
from tests.docs.pages import DOCS
from tests.support.fleet import ROOT
from tests.support.servers import Server, free_port, start_cluster
from tests.support.topologies import SERVICE, Sentinel, until
from tests.support.workers import dead, reached, working

PASSWORD = "open-sesame"
VIEW = SupervisorView(
    host="h", name="n", pid=1, state=SupervisorState.RUNNING, queues=("default",), age_s=1
)


async def live(app: App) -> None:
    """Lead jobs through every transition that a worker and an operator know."""

    @app.task
    async def double(n: int) -> int:
        return 2 * n

    @app.task(retry=Retry(max_attempts=2, backoff=0.05))
    async def fail() -> None:
        raise ValueError("no")

    async with working(app):
        job = await double.enqueue(21)
        assert await job.result(timeout=10) == 42
        late = await double.options(delay=0.1).enqueue(1)
        assert await late.result(timeout=10) == 2
        failed = await fail.enqueue()
        await dead(app, failed)
        assert [r.id for r in await app.inspector.dead(failed.queue)] == [failed.id]
        assert await app.inspector.revive(failed.queue, [failed.id]) == [failed.id]
        await dead(app, failed)
        # chores that a short test would not come to
        await app.broker.prune(failed.queue)
        await app.broker.register(app.queues)
        await app.broker.reclaim_owner([failed.queue], "0" * 16, charge=True, crash_limit=10)
        await app.broker.recover(app.queues, "0" * 16 + ":1:", 1000)
        await Fleet(app.broker).beat("0" * 16, VIEW)
        assert await Fleet(app.broker).restart()
        assert len(await Fleet(app.broker).members()) == 1
        await Fleet(app.broker).forget(["0" * 16])
    assert await app.inspector.purge(failed.queue, ids=[failed.id]) == 1
    waiting = await double.enqueue(1)
    await waiting.cancel()
    assert await app.inspector.clear(waiting.queue) == 1
    await app.inspector.pause("default", for_=60)
    await app.inspector.close_queue("default")
    assert await app.inspector.resume("default")
    await app.inspector.open_queue("default")
    await reached(app, waiting, JobStatus.CANCELLED)
    assert "default" in [stats.name for stats in await app.inspector.queues()]


# -- TLS ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An authority, and a certificate of 127.0.0.1."""
    folder = tmp_path_factory.mktemp("tls")
    key = ("-newkey", "rsa:2048", "-nodes", "-days", "2")
    steps = (
        ("req", "-x509", *key, "-keyout", "ca.key", "-out", "ca.crt", "-subj", "/CN=test ca"),
        ("req", *key[:3], "-keyout", "server.key", "-out", "server.csr", "-subj", "/CN=server"),
        (
            *("x509", "-req", "-in", "server.csr", "-CA", "ca.crt", "-CAkey", "ca.key"),
            *("-CAcreateserial", "-days", "2", "-out", "server.crt", "-extfile", "names"),
        ),
    )
    (folder / "names").write_text("subjectAltName=IP:127.0.0.1\n")
    for step in steps:
        try:
            subprocess.run(["openssl", *step], cwd=folder, capture_output=True, check=True)
        except FileNotFoundError:
            pytest.skip("there is no openssl to make certificates with")
    return folder


@pytest.fixture
def tls(certificates: Path, tmp_path: Path) -> dict[str, str]:
    """Return the options of a server that speaks TLS at a port of its own."""
    return {
        "tls-port": str(free_port()),
        "tls-cert-file": str(certificates / "server.crt"),
        "tls-key-file": str(certificates / "server.key"),
        "tls-ca-cert-file": str(certificates / "ca.crt"),
        "tls-auth-clients": "no",
    }


@pytest.fixture(scope="module")
def program() -> Path:
    """A server that was built with TLS; the one of the extra `embedded` is not."""
    found = (shutil.which("redis-server"), shutil.which("valkey-server"))
    for path in (find_server().path, *(Path(path) for path in found if path)):
        if b"SSL_CTX_new" in path.read_bytes():
            return path
    pytest.skip("there is no server here that was built with TLS")


@pytest.fixture
def trusting(certificates: Path) -> str:
    return f"?ssl_ca_certs={certificates / 'ca.crt'}"


async def test_tls_server_is_reached_by_who_trusts_its_authority(
    tmp_path: Path, tls: dict[str, str], trusting: str, program: Path
):
    with Server(tmp_path / "server", tls, program=program):
        url = f"rediss://127.0.0.1:{tls['tls-port']}/0"
        async with App(url + trusting) as app:
            await live(app)
        async with App(url) as app:
            with pytest.raises(BrokerUnavailable, match="certificate verify failed"):
                await app.inspector.queues()


async def test_tls_sentinels_lead_to_a_tls_master(
    tmp_path: Path, tls: dict[str, str], trusting: str, program: Path
):
    with Server(tmp_path / "server", tls, program=program):
        options = tls | {
            "tls-port": str(free_port()),
            "tls-replication": "yes",
            f"sentinel monitor {SERVICE}": f"127.0.0.1 {tls['tls-port']} 1",
        }
        with Sentinel(tmp_path / "sentinel", options, program=program):
            hosts = f"127.0.0.1:{options['tls-port']}"
            async with App(f"rediss+sentinel://{hosts}/{SERVICE}{trusting}") as app:
                await live(app)


async def test_tls_cluster_is_reached_at_the_ports_that_it_announces(
    tmp_path: Path, tls: dict[str, str], trusting: str, program: Path
):
    server = start_cluster(tmp_path / "server", tls | {"tls-cluster": "yes"}, program=program)
    try:
        async with App(f"rediss+cluster://127.0.0.1:{tls['tls-port']}{trusting}") as app:
            await live(app)
    finally:
        server.kill()


async def test_tls_to_a_port_without_it_says_so(own_server: Server):
    url = f"rediss://127.0.0.1:{own_server.port}/0"
    broker = Broker(BrokerConfig(url=url, call_timeout_s=1.0, enqueue_timeout_s=1.0))
    with pytest.raises(BrokerUnavailable, match="does not speak TLS, use redis://"):
        await broker._ask([(b"PING",)])
    await broker.close()


async def test_no_tls_to_a_port_with_it_says_so(certificates: Path):
    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificates / "server.crt", certificates / "server.key")
    server = await asyncio.start_server(hang, "127.0.0.1", 0, ssl=context)
    port = server.sockets[0].getsockname()[1]
    async with server, App(f"redis://127.0.0.1:{port}/0") as app:
        with pytest.raises(BrokerUnavailable, match="use rediss://"):
            await app.inspector.queues()


async def test_database_that_is_not_there_says_so(own_server: Server):
    async with App(f"redis://127.0.0.1:{own_server.port}/99") as app:
        with pytest.raises(BrokerRefused, match="/99 has no such database; give a smaller number"):
            await app.inspector.queues()


# -- rights ------------------------------------------------------------------------------------


def documented() -> tuple[str, str, str]:
    """Return the commands of the page: a user who works, and what doctor and bench need, too."""
    page = (DOCS / "how-to" / "sentinel-and-cluster.md").read_text(encoding="utf-8")
    worker, doctor, bench = re.findall(r"^ACL SETUSER worker .*$", page, re.MULTILINE)
    return worker, doctor, bench


def commands_of(*paths: Path) -> set[str]:
    """Return the commands that scripts and modules send, in small letters."""
    text = "".join(path.read_text(encoding="utf-8") for path in paths)
    found = re.findall(r"(?:redis\.p?call|check)\('(\w+)'|\(b\"([A-Z]+)\"", text)
    return {(in_script or sent).lower() for in_script, sent in found}


def test_documented_rights_are_those_that_the_code_uses():
    folder = Path(qcore.__file__).parent / "broker"
    paths = {path for path in folder.rglob("*") if path.suffix in (".lua", ".py")}
    of_doctor = {path for path in paths if path.stem in ("audit", "job_audit")}
    worker, doctor, _ = (set(re.findall(r"\+(\S+)", line)) for line in documented())
    # a connection's own, and what another word must follow
    own = {"role", "client|setname", "cluster|slots", "select"}
    used = commands_of(*(paths - of_doctor)) - {"config"} | own
    assert worker == used
    assert doctor == commands_of(*of_doctor) - used | {"config|get"}


#: What redis-py tells about itself; the log of Redis 6.2 names no second word.
NOT_NEEDED = {"client|setinfo", "client"}


def refused(server: Server) -> set[str]:
    """Return the commands, keys and channels that some user was refused."""
    entries = [dict(zip(e[::2], e[1::2], strict=True)) for e in server.ask("ACL", "LOG")]
    return {entry["object"] for entry in entries}


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[Server]:
    with Server(tmp_path / "guarded") as server:
        yield server


@pytest.fixture
async def user_app(guarded: Server) -> AsyncIterator[App]:
    """An app whose user has the documented rights, in a namespace of its own."""
    line = documented()[0].replace("qcore", "mine").replace("PASSWORD", PASSWORD)
    assert guarded.ask(*line.split()) == "OK"
    url = f"redis://worker:{PASSWORD}@127.0.0.1:{guarded.port}/1"
    async with App(url, namespace="mine") as app:
        yield app


async def test_user_with_the_documented_rights_can_do_all_that_is_needed(
    user_app: App, guarded: Server
):
    await live(user_app)
    assert await admits(user_app.broker, allow_eviction=False)
    assert refused(guarded) <= NOT_NEEDED


async def test_user_may_examine_a_set_up_with_the_rights_of_the_doctor(
    user_app: App, guarded: Server
):
    assert guarded.ask(*documented()[1].split()) == "OK"
    broker = user_app.broker
    await broker.enqueue([Job("twice", "default", b"")])
    await broker._ask([(b"ZADD", broker._keys_of("default").names["dead"], 1, b"twice")])
    reading = await read_server(broker, await read_info(broker))
    assert "appendfsync" in reading.settings
    await read_queues(broker, ["default"])
    (finding,) = await audit(broker, "default")
    assert "dead and ready" in finding.said
    assert refused(guarded) <= NOT_NEEDED


async def test_user_may_bench_with_the_rights_of_the_bench(guarded: Server):
    worker, _, bench = (line.replace("PASSWORD", PASSWORD) for line in documented())
    for line in (worker, bench):
        assert guarded.ask(*line.split()) == "OK"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "qcore_cli", "bench", "--seconds", "0.1", "--processes", "1"),
        *("--url", f"redis://worker:{PASSWORD}@127.0.0.1:{guarded.port}/0"),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "cli")))},
    )
    _, said = await asyncio.wait_for(process.communicate(), 60)

    assert (process.returncode, said) == (0, b"")
    assert refused(guarded) <= NOT_NEEDED
    assert guarded.ask("DBSIZE") == 0


async def test_user_has_no_rights_in_another_namespace(user_app: App, guarded: Server):
    url = f"redis://worker:{PASSWORD}@127.0.0.1:{guarded.port}/1"
    async with App(url, namespace="other") as app:
        with pytest.raises(BrokerRefused, match="check user, password and rights"):
            await app.inspector.queues()
        with pytest.raises(BrokerRefused):
            await app.broker.promote(["default"])


async def test_user_works_through_sentinel_and_in_a_cluster(tmp_path: Path):
    line = documented()[0].replace("PASSWORD", PASSWORD).split()
    with Server(tmp_path / "server") as server:
        server.ask(*line)
        options = {f"sentinel monitor {SERVICE}": f"127.0.0.1 {server.port} 1"}
        with Sentinel(tmp_path / "sentinel", options) as sentinel:
            until("a master", lambda: sentinel.ask("SENTINEL", "MASTER", SERVICE))
            hosts = f"worker:{PASSWORD}@127.0.0.1:{sentinel.port}"
            async with App(f"redis+sentinel://{hosts}/{SERVICE}") as app:
                await live(app)
    server = start_cluster(tmp_path / "cluster")
    try:
        server.ask(*line)
        async with App(f"redis+cluster://worker:{PASSWORD}@127.0.0.1:{server.port}") as app:
            await live(app)
    finally:
        server.kill()


async def test_sentinel_that_asks_for_a_password_gets_it(tmp_path: Path):
    with Server(tmp_path / "server", {"requirepass": PASSWORD}, password=PASSWORD) as server:
        options = {
            "requirepass": PASSWORD,
            f"sentinel monitor {SERVICE}": f"127.0.0.1 {server.port} 1",
            f"sentinel auth-pass {SERVICE}": PASSWORD,
        }
        with Sentinel(tmp_path / "sentinel", options, password=PASSWORD) as sentinel:
            hosts = f":{PASSWORD}@127.0.0.1:{sentinel.port}"
            async with App(f"redis+sentinel://{hosts}/{SERVICE}") as app:
                await live(app)
