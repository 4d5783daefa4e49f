"""F12: what is to replace a worker hangs or crashes at boot."""

import random

import pytest

from tests.support.checker import assert_sound
from tests.support.fleet import Fleet
from tests.support.load import load_on
from tests.support.waiting import eventually

HOWS = {
    "hangs": "import time; time.sleep(600)",
    "raises": "raise RuntimeError('a bad deploy')",
    "exits": "import os; os._exit(0)",
    "is no module": "this is no Python",
    "segfaults": "import ctypes; ctypes.string_at(0)",
}


@pytest.mark.parametrize("how", HOWS)
async def test_old_workers_go_on_until_a_replacement_comes_up(
    fleet: Fleet, dice: random.Random, how: str
):
    fleet.write_module("shop")
    # a loaded machine boots a worker in seconds; only one that hangs is waited for so long
    limit_s = 6.0 if how == "hangs" else 30.0
    command = fleet.start_with(
        app="shop:app", processes=2, max_jobs=2, ready_timeout_s=limit_s, boot_failures=2
    )
    first = set(await command.ready(2))
    fleet.write_module("shop", HOWS[how])
    async with load_on(fleet, dice, pause_s=0.02):
        await eventually(lambda: len(command.events("replacement.failed")) >= 3, 60)
        # one may have been on its way before
        assert first & set(command.workers())
        assert command.least_working(2) == 2
        fleet.write_module("shop")
        await eventually(lambda: not first & set(command.workers()), 60)
    await fleet.emptied(30)
    command.signal()
    assert await command.ended(15) == 0
    findings = assert_sound(fleet.history, fleet.runs())
    assert findings.runs == findings.done == len(fleet.history.outcomes)
