"""What the number of workers does not undo."""

import asyncio
from types import SimpleNamespace
from typing import Any

from qcore.runtime.supervisor.autoscaler import Autoscaler
from qcore.runtime.supervisor.scaling_policy import Seen
from qcore.settings import BrokerConfig, SupervisorConfig, WorkerConfig


async def test_order_to_be_quiet_that_comes_during_a_look_is_not_undone():
    stopping, ordered = asyncio.Event(), list[str]()
    spare = SimpleNamespace(may_go=False, is_leaving=True, recall=lambda: ordered.append("resume"))
    slots, broker = [spare], None
    looks = 0

    async def look() -> Seen:
        nonlocal looks
        looks += 1
        if looks == 2:
            stopping.set()
        return Seen(float(looks), 10, [])

    untyped: Any = (slots, broker)
    scaler = Autoscaler(
        SupervisorConfig(processes=1, max_processes=2),
        WorkerConfig(queues=("default",), heartbeat_s=0.05),
        untyped[0],
        broker=SimpleNamespace(config=BrokerConfig(url="redis://localhost")),  # type: ignore[arg-type]
        open_slot=lambda: ordered.append("open"),
        is_quiet=lambda: looks > 0,
        stopping=stopping,
    )
    scaler._look = look  # type: ignore[method-assign]
    await asyncio.wait_for(scaler.run(), 10)
    assert ordered == []
