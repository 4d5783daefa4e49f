"""The measurements of qcore by itself: they count what goes over the wire, and every run."""

import json
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from benchmarks.harness.probe import Probe
from benchmarks.harness.proxy import Proxy
from benchmarks.harness.server import Server
from benchmarks.harness.targets import TARGETS
from tests.support.fleet import ROOT
from tests.support.waiting import eventually


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with Server(tmp_path) as server:
        yield server


def client_of(proxy: Proxy) -> redis.Redis:
    return redis.Redis(port=proxy.port, protocol=2)


def test_proxy_counts_commands_round_trips_and_bytes(server: Server):
    script = "for i = 1, 10 do redis.call('GET', 'key-01') end"
    with Proxy(server.port, counts=True) as proxy, client_of(proxy) as client:
        client.ping()
        before = proxy.traffic()
        with client.pipeline(transaction=False) as pipeline:
            for n in range(100):
                pipeline.set(f"key-{n:02}", "value")
            pipeline.execute()
        client.eval(script, 0)
        seen = proxy.traffic() - before
    assert seen.commands == Counter(SET=100, EVAL=1)
    assert seen.round_trips == 2
    sent = 100 * len("*3__$3__SET__$6__key-00__$5__value__")
    assert seen.bytes_sent == sent + len(f"*3__$4__EVAL__$48__{script}__$1__0__")
    assert seen.bytes_received == len("+OK__" * 100 + "$-1__")


async def test_proxy_counts_a_write_of_two_segments_as_one_round_trip(server: Server):
    halves = b"*1\r\n$4\r\nPI", b"NG\r\n"
    with (
        Proxy(server.port, counts=True) as proxy,
        socket.create_connection(("127.0.0.1", proxy.port), timeout=5) as client,
    ):
        client.sendall(halves[0])
        await eventually(lambda: proxy.traffic().bytes_sent == len(halves[0]))
        client.sendall(halves[1])
        assert client.recv(100) == b"+PONG\r\n"
        seen = proxy.traffic()
    assert (seen.commands, seen.round_trips) == (Counter(PING=1), 1)


def test_proxy_delays_both_ways_and_keeps_the_order(server: Server):
    with Proxy(server.port, delay_s=0.05) as proxy, client_of(proxy) as client:
        client.ping()
        begin = time.monotonic()
        assert [client.rpush("list", n) for n in range(3)] == [1, 2, 3]
        assert time.monotonic() - begin >= 0.9 * 3 * 2 * 0.05
        big = b"x" * 3_000_000
        assert client.echo(big) == big


def test_probe_fails_when_a_job_is_in_redis_that_it_did_not_put_there(server: Server):
    def find_stranger(probe: Probe) -> None:
        probe.warm_up(10)
        (key,) = server.ask("KEYS", "*:meta")
        server.ask("RPUSH", key.replace("meta", "ready"), "stranger")
        with pytest.raises(RuntimeError, match="step enqueue_each of 3 jobs has failed"):
            probe.step("enqueue_each", 3)

    with pytest.raises(RuntimeError, match="ended with 1"), Probe(server) as probe:
        find_stranger(probe)


def test_steady_step_leaves_the_depth_as_it_was(server: Server):
    with Probe(server) as probe:
        probe.warm_up(10)
        probe.step("enqueue_many", 1000)
        assert probe.step("steady", 2000).jobs >= 2000
        (key,) = server.ask("KEYS", "*:ready")
        assert server.ask("LLEN", key) == 1000


def test_cheap_parts_run_by_one_command(tmp_path: Path):
    out = tmp_path / "lines.jsonl"
    words = ["commands", "tax", "--runs", "1", "--jobs-scale", "0.002", "--out", str(out)]
    done = subprocess.run(
        [sys.executable, "benchmarks/run.py", *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines: list[dict[str, Any]] = [json.loads(line) for line in out.read_text().splitlines()]
    found = {(line["part"], line["case"]): line for line in lines if line["round"] == 1}
    assert found["commands", "enqueue one by one: commands"]["by_name"].keys() == {"EVALSHA"}
    assert found["commands", "enqueue one by one: commands"]["value"] == 1
    assert 0 < found["commands", "drain: round trips"]["value"] < 1
    assert found["tax", "at most once"]["base"] == "no feature"
    assert "| at most once | jobs/s |" in done.stdout
    assert " of no feature |" in done.stdout
    targets = [target for target in TARGETS if target.part in ("commands", "tax")]
    assert len(targets) > 5
    assert all(f"| {target.text} |" in done.stdout for target in targets)
