"""F11: workers are replaced all the time, after one to three jobs, while jobs run."""

import os
import random

import pytest

from tests.support.checker import assert_sound
from tests.support.fleet import Fleet
from tests.support.load import load_on
from tests.support.waiting import eventually

pytestmark = pytest.mark.timeout(300)
CHANGES = 2 * int(os.environ.get("QCORE_TEST_ROLLS", "4"))


@pytest.mark.parametrize("max_jobs", [1, 3])
async def test_workers_replaced_after_a_few_jobs_lose_none_and_run_none_twice(
    fleet: Fleet, dice: random.Random, max_jobs: int
):
    command = fleet.start(processes=2, max_jobs=max_jobs, shutdown_timeout=30)
    await command.ready(2)
    # longer than two heartbeats: they are finished by workers that are leaving
    async with load_on(fleet, dice, seconds=(0.0, 0.02, 0.3, 2.5), pause_s=0.02):
        await eventually(
            lambda: len(command.events("worker.replaced")) >= CHANGES, 60 + 4 * CHANGES
        )
        least = command.least_working(2)
    await fleet.emptied(30)
    command.signal()
    assert await command.ended(30) == 0
    assert least == 2
    findings = assert_sound(fleet.history, fleet.runs())
    assert findings.runs == findings.done == len(fleet.history.outcomes) > 50
    assert not command.events("job.reclaimed")
    assert set(command.exit_codes()) == {0}
