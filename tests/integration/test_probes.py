"""Probes over HTTP, through the whole life of a supervisor."""

import os
import signal
from collections.abc import Awaitable, Callable

import pytest

from tests.support.checker import assert_sound
from tests.support.fleet import Fleet
from tests.support.http import get
from tests.support.servers import Server
from tests.support.waiting import eventually

ALIVE, READY = (200, "alive\n"), (200, "ready\n")


@pytest.fixture
def fleet_url(own_server: Server) -> str:
    return own_server.url


def says(port: int, path: str, wanted: tuple[int, str]) -> Callable[[], Awaitable[bool]]:
    """Return whether a page begins with that, with that status."""

    async def asked() -> bool:
        status, body = await get(port, path)
        return status == wanted[0] and body.startswith(wanted[1])

    return asked


#: What holds up the import of a module, until a file is there.
WAITS = """
import pathlib, time
while not pathlib.Path({gate!r}).exists():
    time.sleep(0.05)
"""


async def test_probes_through_a_whole_life(fleet: Fleet, own_server: Server, port: int):
    gate = fleet.folder / "gate"
    fleet.write_module("shop")
    command = fleet.start_with(
        processes=1,
        block_s=0.2,
        heartbeat_s=0.2,
        stall_s=60.0,
        lease_s=300.0,
        health_port=port,
        app="shop:app",
    )
    await command.ready(1)
    await eventually(says(port, "/readyz", READY))
    assert await get(port, "/livez") == ALIVE

    fleet.write_module("shop", WAITS.format(gate=str(gate)))
    fleet.kill_worker(command.workers()[0])
    await eventually(says(port, "/readyz", (503, "not ready: no worker is ready\n")))
    assert await get(port, "/livez") == ALIVE
    gate.touch()
    await eventually(says(port, "/readyz", READY), 20)

    own_server.kill()
    gone = (503, "not ready: the broker has not answered a claim for ")
    await eventually(says(port, "/readyz", gone), 20)
    assert await get(port, "/livez") == ALIVE
    own_server.start()
    await eventually(says(port, "/readyz", READY), 20)

    # its last claim was answered just now, and that gets older while it says nothing
    os.kill(command.workers()[0], signal.SIGSTOP)
    await eventually(says(port, "/readyz", gone), 20)
    os.kill(command.workers()[0], signal.SIGCONT)
    await eventually(says(port, "/readyz", READY), 20)


async def test_probes_of_one_that_is_quiet_and_then_drains(fleet: Fleet, port: int):
    command = fleet.start_with(processes=1, block_s=0.2, heartbeat_s=0.2, health_port=port)
    await command.ready(1)
    await eventually(says(port, "/readyz", READY))
    command.signal(signal.SIGTSTP)
    await eventually(says(port, "/readyz", (503, "not ready: it is quiet")))
    assert await get(port, "/livez") == ALIVE
    command.signal(signal.SIGCONT)
    await eventually(says(port, "/readyz", READY))

    async with fleet.producer() as producer:
        await producer.send("work", 2.0)
        await eventually(fleet.runs)
        command.signal()
        await eventually(says(port, "/readyz", (503, "not ready: it is draining\n")))
        assert await get(port, "/livez") == ALIVE
        assert await command.ended(10) == 0
    assert await get(port, "/livez") == (0, "")
    assert_sound(fleet.history, fleet.runs())


async def test_worker_without_room_is_ready_though_it_claims_nothing(fleet: Fleet, port: int):
    fleet.start_with(processes=1, concurrency=1, block_s=0.3, heartbeat_s=0.3, health_port=port)
    await eventually(says(port, "/readyz", READY), 20)
    async with fleet.producer() as producer:
        n = await producer.send("work", 4.0)
        await eventually(fleet.runs)
        seen = set[tuple[int, str]]()

        async def is_done() -> bool:
            seen.add(await get(port, "/readyz"))
            return n in fleet.done()

        await eventually(is_done)
        seen.add(await get(port, "/readyz"))
        assert seen == {READY}


async def test_readiness_waits_for_the_first_claim(fleet: Fleet, own_server: Server, port: int):
    own_server.kill()
    command = fleet.start_with(processes=1, health_port=port)
    await eventually(lambda: command.events("worker.started"), 30)
    said = (503, "not ready: the broker has not answered a claim yet\n")
    await eventually(says(port, "/readyz", said))
    assert await get(port, "/livez") == ALIVE
    own_server.start()
    await eventually(says(port, "/readyz", READY), 20)


async def test_workers_that_do_not_boot_end_the_liveness(fleet: Fleet, port: int):
    fleet.write_module("shop")
    command = fleet.start_with(
        processes=1, boot_failures=1000, heartbeat_s=0.1, health_port=port, app="shop:app"
    )
    (pid,) = await command.ready(1)
    fleet.write_module("shop", "import os; os._exit(3)")
    fleet.kill_worker(pid)
    said = (503, "not alive: no worker gets ready: 2 ended before that, in a row\n")
    await eventually(says(port, "/livez", said), 20)
    fleet.write_module("shop")
    await eventually(says(port, "/livez", ALIVE), 20)
    await eventually(says(port, "/readyz", READY), 20)


async def test_port_that_is_taken_ends_the_command_with_one_line(fleet: Fleet, port: int):
    first = fleet.start(processes=1, health_port=port)
    await first.ready(1)
    second = fleet.start(processes=1, health_port=port)
    assert await second.ended(20) == 1
    said = second.log.read_text().splitlines()[-1]
    assert said.startswith(f"qcore: port {port} cannot be served: ")
    assert not second.spawned()
