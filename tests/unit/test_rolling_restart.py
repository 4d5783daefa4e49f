"""What a supervisor says of its last rolling restart."""

import asyncio

from qcore.model.fleet import RollState
from qcore.runtime.supervisor.rolling_restart import RollingRestart
from qcore.settings import SupervisorConfig


async def test_signal_after_an_order_carries_the_order_out_too():
    """`qcore restart --wait` waits for its generation, whoever makes the workers new."""
    rolling = RollingRestart(
        SupervisorConfig(processes=1), [], look_s=1.0, stopping=asyncio.Event()
    )
    rolling.roll("restart", 5)
    rolling.roll("SIGHUP")
    last = rolling.last
    assert (last.state, last.why, last.generation) == (RollState.ROLLING, "SIGHUP", 5)
