"""A supervisor looks at the server before it works: what deletes jobs is refused."""

import asyncio
import signal
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from qcore.broker.redis.broker import Broker
from qcore.runtime.supervisor.preflight import watch
from qcore.settings import BrokerConfig
from tests.support.fleet import Fleet, fleet_on
from tests.support.servers import Server, deny_questions
from tests.support.waiting import eventually


@pytest.fixture
def fleet_url(own_server: Server) -> str:
    return own_server.url


async def test_server_that_evicts_is_refused_before_a_worker_starts(
    own_server: Server, fleet: Fleet
):
    # without any maxmemory: the policy alone decides
    own_server.ask("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    command = fleet.start(processes=1)
    assert await command.ended(20) == 78
    (refused,) = command.events("server.refused")
    assert "maxmemory-policy is allkeys-lru" in refused["why"]
    assert "noeviction" in refused["remedy"]
    assert "--allow-eviction" in refused["remedy"]
    assert command.events("worker.spawned") == []


async def test_server_that_evicts_is_worked_on_when_that_is_allowed(
    own_server: Server, fleet: Fleet
):
    own_server.ask("CONFIG", "SET", "maxmemory-policy", "volatile-lru")
    command = fleet.start(processes=1, allow_eviction=True)
    async with fleet.producer() as producer:
        await producer.send("work")
        await eventually(lambda: fleet.done(), 20)
    doubted = [event["why"] for event in command.events("server.doubted")]
    assert any("volatile-lru" in why for why in doubted)
    assert command.events("server.refused") == []
    command.signal()
    assert await command.ended(10) == 0


async def test_server_that_comes_late_and_evicts_ends_the_supervisor(
    own_server: Server, fleet: Fleet
):
    own_server.kill()
    command = fleet.start(processes=1)
    await eventually(lambda: command.events("worker.started"), 30)
    own_server.options["maxmemory-policy"] = "allkeys-lfu"
    own_server.start()
    assert await command.ended(30) == 78
    assert len(command.events("server.refused")) == 1
    assert [event["exit_code"] for event in command.events("worker.exited")] == [0]


async def test_server_that_writes_nothing_to_disk_is_told_once(own_server: Server, fleet: Fleet):
    command = fleet.start(processes=1)
    await command.ready(1)
    (doubted,) = command.events("server.doubted")
    assert "no append-only file" in doubted["why"]
    assert doubted["url"] == own_server.url
    command.signal()
    assert await command.ended(10) == 0


async def test_embedded_server_is_not_doubted(tmp_path: Path):
    with fleet_on(tmp_path, f"embedded://{tmp_path / 'data'}", "admitted") as fleet:
        command = fleet.start(processes=1)
        await command.ready(1)
        assert command.events("server.doubted") == []
        command.signal()
        assert await command.ended(10) == 0


async def test_server_that_may_not_be_asked_is_worked_on(tmp_path: Path, own_server: Server):
    deny_questions(own_server)
    url = own_server.url.replace("://", "://app:pw@")
    with fleet_on(tmp_path, url, "admitted") as fleet:
        command = fleet.start(processes=1)
        async with fleet.producer() as producer:
            await producer.send("work")
            await eventually(lambda: fleet.done(), 20)
        assert len(command.events("server.unchecked")) == 1
        command.signal()
        assert await command.ended(10) == 0


async def test_supervisor_that_is_stopped_while_it_asks_ends_in_time(
    own_server: Server, fleet: Fleet
):
    """A server that hangs: the question has 5 s, the stop has one."""
    own_server.signal(signal.SIGSTOP)
    command = fleet.start(processes=1, shutdown_timeout=1.0)
    await eventually(lambda: command.events("supervisor.started"), 20)
    command.signal()
    try:
        assert await command.ended(4) == 0
    finally:
        own_server.signal(signal.SIGCONT)
    assert command.events("worker.spawned") == []


async def test_policy_that_changes_later_is_noticed_and_said_once(
    own_server: Server, monkeypatch: pytest.MonkeyPatch
):
    broker, looks = Broker(BrokerConfig(url=own_server.url)), list[object]()
    ask = broker._ask

    async def counted(commands: Any) -> Any:
        looks.append(commands)
        return await ask(commands)

    monkeypatch.setattr(broker, "_ask", counted)
    with capture_logs() as lines:
        watching = asyncio.create_task(watch(broker, every_s=0.02))
        own_server.ask("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
        await eventually(lambda: lines)
        looks.clear()
        await eventually(lambda: len(looks) > 3)
        assert [line["event"] for line in lines] == ["server.evicts"]
        assert "allkeys-lru" in lines[0]["why"]
        own_server.ask("CONFIG", "SET", "maxmemory-policy", "noeviction")
        await eventually(lambda: len(lines) == 2)
        assert lines[1]["event"] == "server.keeps"
        watching.cancel()
        await asyncio.wait([watching])
    await broker.close()


async def test_worker_with_a_wrong_password_leaves_at_once(tmp_path: Path, own_server: Server):
    """A claim that was refused before it was sent took nothing: there is nothing to look for."""
    url = own_server.url.replace("://", "://nobody:wrong@")
    with fleet_on(tmp_path, url, "wrong") as fleet:
        command = fleet.start(processes=1, shutdown_timeout=60)
        await eventually(lambda: command.events("broker.lost"), 30)
        assert not command.events("worker.ready")
        command.signal()
        assert await command.ended(25) == 0
        assert command.exit_codes() == [0]
