"""To whom an order goes."""

import asyncio
from types import SimpleNamespace
from typing import Any

from qcore.runtime.ipc.orders import QUIET, RESUME
from qcore.runtime.supervisor.workers import Workers
from qcore.settings import SupervisorConfig


def test_worker_that_is_to_leave_stays_quiet_when_the_others_go_on():
    nothing: Any = None
    workers = Workers(
        SupervisorConfig(processes=2),
        command=(),
        broker=nothing,
        crash_handler=nothing,
        stopping=asyncio.Event(),
    )
    heard: dict[str, list[bytes]] = {"stays": [], "leaves": []}
    children: Any = [
        SimpleNamespace(is_spare=name == "leaves", order=orders.append)
        for name, orders in heard.items()
    ]
    workers.living.extend(children)
    workers.order(QUIET)
    workers.order(RESUME)
    assert heard == {"stays": [QUIET, RESUME], "leaves": [QUIET]}
