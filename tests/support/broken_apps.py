"""Apps whose workers do not come up."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator

from qcore import App

raising = App(queues=("default",))
hanging = App(queues=("default",))
exiting = App(queues=("default",))


@raising.lifespan
async def raise_at_start() -> AsyncIterator[None]:
    raise RuntimeError("the database is not there")
    yield


@hanging.lifespan
async def hang_at_start() -> AsyncIterator[None]:
    await asyncio.sleep(600)
    yield


@exiting.lifespan
async def exit_at_start() -> AsyncIterator[None]:
    sys.stderr.flush()
    os._exit(0)
    yield
