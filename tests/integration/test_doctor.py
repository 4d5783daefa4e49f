"""`qcore doctor` as an operator runs it: on a set-up with every mistake, and on a sound one."""

import asyncio
import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from qcore import App, Exponential, GiveUp, Queue, Retry
from qcore.broker.redis.broker import Broker
from qcore.broker.redis.job_audit import audit
from qcore.broker.redis.queue_checks import check_queue, read_queues
from qcore.model.findings import Level
from qcore.settings import BrokerConfig, WorkerConfig
from tests.support.fleet import ROOT
from tests.support.moves import LEASE_MS, ask, leased, put
from tests.support.servers import Server, deny_questions, free_port
from tests.support.waiting import eventually
from tests.support.workers import working

#: `qcore` on a machine whose clock is so many seconds behind: a real process, and a real answer.
SKEWED = """
import sys
from qcore.broker.redis import server_checks
local_s, behind_s = server_checks.local_s, float(sys.argv.pop(1))
server_checks.local_s = lambda: local_s() - behind_s
from qcore_cli.main import run
run()
"""
TASKS = """
from qcore import App
app = App(queues=("default", "orders"))

@app.task(name="report", timeout=300)
async def report() -> None: ...

@app.task(name="quick", timeout=5)
async def quick() -> None: ...

for name in ("failing", "dying", "long"):
    app.task(name=name)(quick.function)
"""


@dataclass
class Said:
    code: int
    out: str
    err: str

    @property
    def findings(self) -> list[dict[str, Any]]:
        return json.loads(self.out)

    def not_well(self) -> dict[str, list[dict[str, Any]]]:
        """Return the findings that are not ok, by check; each has a remedy."""
        found: dict[str, list[dict[str, Any]]] = {}
        for finding in self.findings:
            assert bool(finding["remedy"]) is (finding["level"] != "ok")
            if finding["level"] != "ok":
                found.setdefault(finding["check"], []).append(finding)
        return found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "tasks.py").write_text(TASKS)
    return folder


async def doctor(folder: Path, url: str, *words: str, behind_s: float = 0.0) -> Said:
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("QCORE_")}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", SKEWED, str(behind_s), "doctor", "--url", url, *words),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=inherited
        | {"PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "cli"))), "COLUMNS": "80"},
        cwd=folder,
    )
    out, err = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode is not None
    return Said(process.returncode, out.decode(), err.decode())


# -- with every mistake ----------------------------------------------------------------------------


async def break_queues(broker: Broker) -> None:
    """An expired lease, an id in two places, a lost payload; a queue whose clock went back."""
    now = int((await ask(broker, b"TIME"))[0]) * 1000
    await leased(broker, "expired", now_ms=now - LEASE_MS - 60_000)
    await put(broker, "twice", "lost", now_ms=now)
    keys = broker._keys_of("orders").names
    await ask(broker, b"ZADD", keys["dead"], now, "twice")
    await ask(broker, b"LREM", keys["ready"], 0, "lost")
    await put(broker, "sound", queue="mail", now_ms=now)
    await ask(broker, b"HSET", broker._keys_of("mail").names["meta"], "last_sweep", now + 3_600_000)
    await broker.register(["orders", "mail"])


async def test_every_mistake_is_named_with_its_remedy(tmp_path: Path, folder: Path):
    options = {"maxmemory-policy": "allkeys-lru", "timeout": "7"}
    with Server(tmp_path / "server", options) as server:
        broker = Broker(BrokerConfig(url=server.url))
        await break_queues(broker)
        await broker.close()

        said = await doctor(folder, server.url, "tasks:app", "--json", behind_s=90)
        text = await doctor(folder, server.url, "tasks:app", behind_s=90)

    assert said.code == text.code == 1, said.err
    found = said.not_well()
    assert {check: [f["level"] for f in same] for check, same in found.items()} == {
        "eviction": ["fault"],
        "persistence": ["fault"],
        "clock": ["fault"],
        "idle timeout": ["warning"],
        "task report": ["warning"],
        "queue mail": ["fault"],
        "queue orders": ["fault"],
        "jobs of orders": ["fault", "fault"],
    }
    assert re.search(r"is (89|90)\.\d s ahead of this machine", found["clock"][0]["said"])
    assert (
        "300 s, but of the shutdown timeout of 30 s jobs have 24 s"
        in found["task report"][0]["said"]
    )
    assert "in the future" in found["queue mail"][0]["said"]
    assert "a lease ended " in found["queue orders"][0]["said"]
    assert "qcore worker APP --queues orders" in found["queue orders"][0]["remedy"]
    lost, twice = sorted(found["jobs of orders"], key=lambda f: f["said"])
    assert "job lost is lost" in lost["said"]
    assert lost["commands"][0] == "redis-cli RPUSH '{qcore:orders}:ready' lost"
    assert "job twice is in dead and ready" in twice["said"]
    assert twice["commands"] == ["redis-cli LREM '{qcore:orders}:ready' 1 twice"]
    assert found["eviction"][0]["commands"] == ["redis-cli CONFIG SET maxmemory-policy noeviction"]
    assert_readable(text.out, said)


def assert_readable(out: str, said: Said) -> None:
    """The text says what the JSON says, in 80 columns but for what is to be copied."""
    lines = out.splitlines()
    assert [line for line in lines if len(line) > 80 and " $ " not in line] == []
    assert sum(line.startswith("fault ") for line in lines) == 7
    assert sum(line.startswith("warning ") for line in lines) == 2
    assert "7 faults, 2 warnings." in lines
    flat = " ".join(out.split())
    for finding in said.findings:
        if finding["check"] in ("eviction", "persistence", "queue orders"):
            assert finding["remedy"] in flat.replace("-> ", "")
        for command in finding["commands"]:
            assert f" $ {command}" in out


async def test_options_that_a_worker_would_refuse_are_a_fault(own_server: Server, folder: Path):
    said = await doctor(folder, own_server.url, "--lease", "0.1", "--json")
    assert said.code == 1
    (finding,) = said.not_well()["timeouts"]
    assert "--lease is 0.1, allowed is 0.3 to 86400" in finding["said"]
    said = await doctor(folder, own_server.url, "--lease", "1m", "--stall", "50", "--json")
    (finding,) = said.not_well()["timeouts"]
    assert "so give a --stall below 50, or a longer --lease" in finding["said"]
    said = await doctor(folder, own_server.url, "--lease", "1m", "--stall", "40", "--json")
    assert "timeouts" not in said.not_well()


async def test_redis_that_cannot_be_reached_is_the_fault(folder: Path):
    url = f"redis://somebody:secret@127.0.0.1:{free_port()}/0"
    said = await doctor(folder, url, "--json")
    assert said.code == 1
    finding, timeouts = said.findings
    assert timeouts["level"] == "ok"
    assert (finding["level"], finding["check"]) == ("fault", "reachable")
    assert url.replace("somebody:secret", "***") in finding["said"]
    assert finding["remedy"] == "Start it, or check the URL."
    assert "secret" not in said.out + said.err


async def test_user_who_may_not_ask_is_told_what_was_not_checked(own_server: Server, folder: Path):
    deny_questions(own_server)
    url = own_server.url.replace("://", "://app:pw@")
    said = await doctor(folder, url, "--json")
    assert said.code == 0
    assert list(said.not_well()) == ["server"]
    refused = await doctor(folder, url.replace(":pw@", ":wrong@"), "--json")
    assert refused.code == 1
    assert list(refused.not_well()) == ["reachable"]


async def test_replica_is_a_fault(own_server: Server, folder: Path):
    own_server.ask("REPLICAOF", "127.0.0.1", free_port())
    said = await doctor(folder, own_server.url, "--json")
    assert said.code == 1
    assert "role is slave" in said.not_well()["role"][0]["said"]


async def test_queue_that_is_nearly_full_is_a_warning(folder: Path, own_server: Server):
    queues = [Queue("orders", max_jobs=10), Queue("other", max_jobs=10)]
    async with App(own_server.url, queues=queues) as app:
        await app.broker.register(app.queues)
        await put(app.broker, *"abcdefgh")
        await put(app.broker, "i", when="+3600000")
        await put(app.broker, *"abcdefgh", queue="other")
    said = (await doctor(folder, own_server.url, "--json")).not_well()
    (finding,) = said["room of orders"]
    assert finding["level"] == "warning"
    assert finding["said"].startswith("9 jobs wait, of at most 10 (max_jobs)")
    assert "room of other" not in said


# -- a sound one -----------------------------------------------------------------------------------


async def test_sound_set_up_has_no_finding_while_jobs_move(tmp_path: Path, folder: Path):
    url = f"embedded://{tmp_path / 'data'}"
    async with App(url, namespace="moving", queues=("orders",)) as app:
        fail_twice = Retry(max_attempts=3, backoff=Exponential(0.01, 1.0))

        @app.task(name="quick", queue="orders")
        async def quick(n: int) -> int:
            await asyncio.sleep(0.01)
            return n

        @app.task(name="failing", queue="orders", retry=fail_twice)
        async def failing() -> None:
            raise ValueError("again")

        @app.task(name="dying", queue="orders")
        async def dying() -> None:
            raise GiveUp("for good")

        @app.task(name="long", queue="orders")
        async def long() -> None:
            await asyncio.sleep(60)

        async def feed() -> None:
            while True:
                (stats,) = await app.inspector.queues(["orders"])
                if stats.ready < 1000:
                    await quick.enqueue_many((n,) for n in range(500))
                    await failing.enqueue()
                    await dying.enqueue()
                    await quick.options(delay=0.05).enqueue(1)
                await asyncio.sleep(0)

        await long.enqueue()
        await quick.options(delay=3600).enqueue(1)
        async with working(app, concurrency=20, shutdown_timeout_s=1.0):
            feeding = asyncio.create_task(feed())
            await eventually(lambda: is_busy(app))
            try:
                for _ in range(15):
                    assert await looked_at(app.broker) == []
                for words in ((), ("tasks:app", "--shutdown-timeout", "306")):
                    said = await doctor(folder, url, "--namespace", "moving", "--json", *words)
                    assert said.not_well() == {}, said.err
                    assert said.code == 0
            finally:
                feeding.cancel()


async def is_busy(app: App) -> bool:
    stats = await app.inspector.queues()
    return any(s.ready and s.scheduled and s.active and s.dead for s in stats)


async def looked_at(broker: Broker) -> list[str]:
    worker = WorkerConfig(queues=("orders",))
    (reading,) = await read_queues(broker, ["orders"])
    found = check_queue(reading, worker) + await audit(broker, "orders")
    return [finding.said for finding in found if finding.level is not Level.OK]


# -- repair ----------------------------------------------------------------------------------------


async def test_repair_mends_all_of_a_kind_after_a_question(folder: Path, own_server: Server):
    """Five of them are named: nobody should run the command two hundred times."""
    broker = Broker(BrokerConfig(url=own_server.url))
    await broker.register(["orders"])
    ids = [f"lost-{n}" for n in range(30)]
    await put(broker, *ids)
    await ask(broker, b"DEL", broker._keys_of("orders").names["ready"])

    asked = await doctor(folder, own_server.url, "--repair")
    assert "Repair 30 jobs of orders?" in asked.err
    assert asked.code == 1
    assert await ask(broker, b"LLEN", broker._keys_of("orders").names["ready"]) == 0

    said = await doctor(folder, own_server.url, "--repair", "--yes", "--json")
    (repaired,) = [f for f in said.findings if f["check"] == "repair of orders"]
    assert repaired["said"] == "30 mended: 30 of lost"
    assert await ask(broker, b"LLEN", broker._keys_of("orders").names["ready"]) == 30
    assert "jobs of orders" not in said.not_well()
    await broker.close()


async def test_queue_with_a_key_of_another_program_does_not_hide_the_others(
    folder: Path, own_server: Server
):
    broker = Broker(BrokerConfig(url=own_server.url))
    await broker.register(["orders", "other"])
    await ask(broker, b"SET", broker._keys_of("orders").names["jobs"], b"of somebody else")
    said = await doctor(folder, own_server.url, "--json")
    (finding,) = said.not_well()["queue orders"]
    assert "cannot be read" in finding["said"]
    assert "WRONGTYPE" in finding["said"]
    assert any(finding["check"] == "jobs of other" for finding in said.findings)
    await broker.close()
