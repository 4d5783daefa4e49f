"""The app that `qcore bench` runs, in worker processes as `qcore worker` starts them."""

import asyncio
import random
import time

from qcore import App

MAX_QUEUES = 64
app = App(queues=[f"bench-{number}" for number in range(1, MAX_QUEUES + 1)])


@app.task(name="work")
async def work(payload: str, wait_ms: int) -> None:
    """Take a payload and wait; not exactly so long, else all slots would be free at once."""
    if wait_ms:
        await asyncio.sleep(wait_ms / 1000 * random.uniform(0.5, 1.5))


@app.task(name="begun")
async def begun() -> float:
    """Return when this run began, on the clock that all processes of a machine share."""
    return time.monotonic()
