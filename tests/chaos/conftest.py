"""Servers and fleets of the fault tests: every case has its own."""

import random
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.fleet import Fleet, fleet_on, new_random
from tests.support.servers import Server

DURABLE = {"appendonly": "yes", "appendfsync": "always"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "chaos" in item.path.parts:
            item.add_marker(pytest.mark.chaos)
            item.add_marker(
                pytest.mark.skipif(sys.platform != "linux", reason="finds orphans through /proc")
            )


@pytest.fixture
def dice() -> random.Random:
    return new_random()


@pytest.fixture
def durable_server(tmp_path: Path) -> Iterator[Server]:
    """A server that has written to disk what it acknowledges."""
    with Server(tmp_path / "server", DURABLE) as server:
        yield server


@pytest.fixture
def fleet(tmp_path: Path, durable_server: Server) -> Iterator[Fleet]:
    with fleet_on(tmp_path, durable_server.url, "chaos") as fleet:
        yield fleet
