"""A server with a meter in front of it."""

import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.fleet import Fleet, fleet_on
from tests.support.meter import Meter
from tests.support.servers import Server


@pytest.fixture
async def meter(own_server: Server) -> AsyncIterator[Meter]:
    async with Meter(own_server.port) as meter:
        yield meter


@pytest.fixture
async def fleet(tmp_path: Path, own_server: Server, meter: Meter) -> AsyncIterator[Fleet]:
    """Its producers go past the meter; a command takes `url=meter.url`, and ends before it."""
    with fleet_on(tmp_path, own_server.url, "budget") as fleet:
        yield fleet
        for command in fleet.commands:
            for number in (signal.SIGTERM, signal.SIGINT):  # the second: at once
                command.signal(number)
            assert await command.ended(20) == 0
