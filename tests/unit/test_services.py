"""A service that fails is begun again, and whoever runs beside it goes on."""

import asyncio

import pytest
from structlog.testing import capture_logs

from qcore import ConfigError
from qcore.runtime.services import kept


async def test_service_that_fails_is_logged_and_begun_again_until_it_ends():
    runs: list[int] = []

    async def service() -> None:
        runs.append(len(runs))
        if len(runs) < 3:
            raise ValueError(f"run {len(runs)}")

    with capture_logs() as lines:
        await asyncio.wait_for(kept("sweeps", service), 10)
    assert runs == [0, 1, 2]
    assert [line["event"] for line in lines] == ["service.failed"] * 2
    assert {line["service"] for line in lines} == {"sweeps"}
    assert "ValueError: run 2" in lines[1]["exception"]


async def test_service_that_is_wrongly_set_up_is_not_begun_again():
    async def service() -> None:
        raise ConfigError("no such file")

    with pytest.raises(ConfigError):
        await kept("sweeps", service)


async def test_service_that_is_cancelled_has_not_failed():
    with capture_logs() as lines:
        task = asyncio.create_task(kept("sweeps", asyncio.Event().wait))  # pyright: ignore[reportArgumentType]
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert lines == []
