"""`qcore bench`, as a user runs it: what it says, what it refuses, and that nothing is left."""

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from qcore.broker.redis.broker import Broker
from qcore.broker.redis.keys import namespace_keys
from qcore.model.job import Job
from qcore.settings import BrokerConfig
from qcore_cli.bench.server import max_jobs
from qcore_cli.bench.verdict import Bottleneck
from tests.support.commands import Command, one_line
from tests.support.content import keys_of, names_in
from tests.support.fleet import ROOT
from tests.support.servers import Server, deny_questions
from tests.support.waiting import eventually

QUICK = ("--seconds", "0.1", "--processes", "1")
END_S = 60.0


async def names_on(url: str, namespace: str) -> set[str]:
    broker = Broker(BrokerConfig(url=url, namespace=namespace))
    try:
        await broker.open()
        return await names_in(broker, namespace)
    finally:
        await broker.close()


def check(report: dict[str, Any]) -> None:
    """Check that everything was measured, and that what belongs together does."""
    assert list(report) == [
        *("url", "server", "namespace", "settings", "round_trip_ms", "enqueue", "drain"),
        *("pickup_ms", "bottleneck", "because", "advice"),
    ]
    enqueue, drain = report["enqueue"], report["drain"]
    for ms in (report["round_trip_ms"], enqueue["one_by_one"]["ms"], report["pickup_ms"]):
        assert 0 < ms["p50"] <= ms["p99"]
        assert ms["samples"] > 0
    rates = (enqueue["one_by_one"], enqueue, enqueue, drain)
    for rate, name in zip(rates, ("per_s", "concurrent_per_s", "many_per_s", "per_s"), strict=True):
        assert rate[name] > 0
    for share in ("round_trips", "slots", "queue_empty"):
        assert 0 <= drain[share] <= 1.2
    assert report["bottleneck"] in set(Bottleneck)
    assert report["because"]
    assert [sorted(advice) for advice in report["advice"]] == [["setting", "why"]] * len(
        report["advice"]
    )
    assert report["advice"]


# -- what it says ------------------------------------------------------------------------------


async def test_report_is_whole_and_nothing_is_left(qcore: Command, redis_url: str, namespace: str):
    said = await qcore("bench", "--json", *QUICK, "--payload", "50", "--namespace", namespace)

    report = said.json
    check(report)
    assert report["namespace"] == namespace
    assert report["settings"] == {
        "payload_bytes": 50,
        "concurrency": 100,
        "processes": 1,
        "queues": 1,
        "task_ms": 0,
        "seconds": 0.1,
        "cores": len(os.sched_getaffinity(0)),
    }
    drain = report["drain"]
    assert 0 < drain["worker_cpu"] < 1.2
    assert 0 < drain["redis_cpu"] < 1.2
    assert 0 < drain["machine"] <= 1
    assert drain["python_us_per_job"] > 0
    assert drain["redis_us_per_job"] > 0
    assert drain["slots"] == 0
    assert await names_on(redis_url, namespace) == set()


async def test_screen_fits_80_columns_and_names_what_limits(qcore: Command, own_server: Server):
    said = await qcore("bench", *QUICK, "--concurrency", "10", "--url", own_server.url)

    assert (said.code, said.err) == (0, "")
    lines = said.out.splitlines()
    assert [line for line in lines if len(line) > 79] == []
    labels = [line[:25].strip() for line in lines if "ms   p99" in line or "jobs/s" in line]
    assert labels == [
        "round trip to Redis",
        "enqueue, one by one",
        "enqueue, 100 tasks",
        "enqueue_many",
        "drain",
        "pickup by an idle worker",
    ]
    assert sum(line.startswith("Bottleneck: ") for line in lines) == 1
    assert any(line.startswith("-> ") for line in lines)
    assert "1 process, concurrency 10;" in said.out
    assert own_server.ask("DBSIZE") == 0


async def test_jobs_that_wait_take_slots_in_several_queues_of_a_cluster(
    qcore: Command, cluster_url: str
):
    words = ("--task-ms", "20", "--queues", "3", "--concurrency", "5", "--url", cluster_url)
    report = (await qcore("bench", "--json", *QUICK, *words)).json

    check(report)
    assert report["drain"]["slots"] > 0
    assert report["drain"]["redis_cpu"] > 0
    assert await names_on(cluster_url, report["namespace"]) == set()


async def test_embedded_server_is_measured_like_any_other(qcore: Command, tmp_path: Path):
    url = f"embedded://{tmp_path / 'queue'}"
    report = (await qcore("bench", "--json", *QUICK, "--url", url)).json

    check(report)
    assert report["url"] == url
    assert await names_on(url, report["namespace"]) == set()


async def test_redis_that_tells_nothing_of_itself_is_measured(qcore: Command, own_server: Server):
    deny_questions(own_server)
    url = own_server.url.replace("redis://", "redis://app:pw@")
    report = (await qcore("bench", "--json", *QUICK, "--url", url)).json
    text = await qcore("bench", *QUICK, "--url", url)

    check(report)
    assert report["server"] == "unknown server"
    assert report["drain"]["redis_cpu"] is None
    assert report["drain"]["redis_us_per_job"] is None
    assert "Redis CPU                unknown" in text.out
    assert "pw@" not in text.out
    assert own_server.ask("DBSIZE") == 0


# -- what it refuses ---------------------------------------------------------------------------


async def test_namespace_that_holds_a_job_is_refused_and_untouched(qcore: Command, broker: Broker):
    await broker.enqueue([Job("precious", "orders", b"payload")])
    before = await keys_of(broker, "orders")

    said = await qcore("bench", *QUICK, "--namespace", broker.config.namespace)

    assert (said.code, said.out) == (1, "")
    assert "is in use (orders)" in one_line(said)
    assert await keys_of(broker, "orders") == before


async def test_namespace_is_not_that_of_the_environment(qcore: Command, broker: Broker):
    await broker.enqueue([Job("precious", "orders", b"payload")])

    report = (await qcore("bench", "--json", *QUICK)).json

    assert report["namespace"].startswith("bench-")


async def test_leftovers_of_a_killed_bench_are_refused(qcore: Command, broker: Broker):
    await broker._ask([(b"HSET", broker._keys_of("bench-1").names["jobs"], "id", "payload")])
    fleet = namespace_keys(broker.config.namespace).names["fleet"]
    await broker._ask([(b"HSET", fleet, "id", "record")])

    said = await qcore("bench", *QUICK, "--namespace", broker.config.namespace)

    assert "is in use (bench-1, its supervisors)" in one_line(said)


async def test_server_that_evicts_or_is_nearly_full_is_refused(qcore: Command, own_server: Server):
    own_server.ask("CONFIG", "SET", "maxmemory", 1024 * 1024 * 4)
    full = await qcore("bench", *QUICK, "--payload", "100000", "--url", own_server.url)
    own_server.ask("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    evicts = await qcore("bench", *QUICK, "--url", own_server.url)

    assert "MiB left below its maxmemory" in one_line(full)
    assert "maxmemory-policy is allkeys-lru" in one_line(evicts)
    assert own_server.ask("DBSIZE") == 0


async def test_user_who_could_not_clean_up_is_refused_before_anything_is_written(
    qcore: Command, own_server: Server
):
    own_server.ask("ACL", "SETUSER", "app", "on", ">pw", "~*", "&*", "+@all", "-unlink")
    url = own_server.url.replace("redis://", "redis://app:pw@")

    assert "unlink" in one_line(await qcore("bench", *QUICK, "--url", url))
    assert own_server.ask("DBSIZE") == 0


def test_jobs_in_redis_are_bounded_by_bytes_and_by_what_is_free():
    mib = 2**20
    assert max_jobs(576, {}) == 64 * 1024
    assert max_jobs(576, {"maxmemory": "0", "used_memory": str(mib)}) == 64 * 1024
    assert max_jobs(576, {"maxmemory": str(12 * mib), "used_memory": str(2 * mib)}) == 5 * 1024


# -- cut short ---------------------------------------------------------------------------------


class Running:
    """A bench that takes as long as it is let."""

    def __init__(self, url: str, *words: str) -> None:
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("QCORE_")}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "qcore_cli", "bench", "--url", url, *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=inherited | {"PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "cli")))},
        )
        self.out = b""

    async def reached(self, label: bytes) -> None:
        """Wait until it measures this."""
        assert self.process.stdout is not None
        fd = self.process.stdout.fileno()
        async with asyncio.timeout(END_S):
            while label not in self.out:
                piece = await asyncio.to_thread(os.read, fd, 4096)
                assert piece, self.out
                self.out += piece

    async def end(self) -> tuple[int, str]:
        """Return exit code and standard error."""
        try:
            out, err = await asyncio.to_thread(self.process.communicate, timeout=END_S)
        finally:
            if self.process.poll() is None:
                self.process.kill()
        self.out += out
        return self.process.returncode, err.decode()


@pytest.mark.parametrize(
    ("label", "number"),
    [
        (b"round trip", signal.SIGTERM),
        (b"enqueue, one", signal.SIGINT),
        (b"enqueue, 100", signal.SIGINT),
        (b"enqueue_many", signal.SIGHUP),
        (b"drain", signal.SIGINT),
        (b"pickup", signal.SIGTERM),
    ],
)
async def test_interrupted_bench_leaves_nothing(
    own_server: Server, label: bytes, number: signal.Signals
):
    bench = Running(own_server.url, "--seconds", "0.3", "--processes", "1", "--task-ms", "100")
    await bench.reached(label)
    bench.process.send_signal(number)

    assert await bench.end() == (130, "qcore: interrupted; nothing is left in Redis\n")
    assert own_server.ask("DBSIZE") == 0
    assert "name=qcore" not in own_server.ask("CLIENT", "LIST")


async def test_signals_do_not_stop_the_cleaning_up(own_server: Server):
    bench = Running(own_server.url, "--seconds", "2", "--processes", "1")
    await bench.reached(b"enqueue, one")
    await eventually(lambda: own_server.ask("DBSIZE") > 0)
    own_server.signal(signal.SIGSTOP)  # so that it cannot have ended when the last signal comes
    for _ in range(10):
        bench.process.send_signal(signal.SIGINT)
        await asyncio.sleep(0.02)  # or the kernel would make one signal of all
    own_server.signal(signal.SIGCONT)

    assert await bench.end() == (130, "qcore: interrupted; nothing is left in Redis\n")
    assert own_server.ask("DBSIZE") == 0


async def test_bench_whose_redis_dies_says_what_may_be_left(own_server: Server):
    bench = Running(own_server.url, "--seconds", "30", "--processes", "1")
    await bench.reached(b"round trip")
    own_server.kill()

    code, err = await bench.end()
    assert code == 1
    assert err.count("\n") == 1
    assert "are left in Redis (Redis at redis://127.0.0.1:" in err
    assert "xargs redis-cli UNLINK bench-" in err
