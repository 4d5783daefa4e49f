"""The worker's end of its supervisor: orders come in over one pipe, beats go out over another."""

import asyncio
import os
import signal
import threading
from collections.abc import Sequence
from functools import partial

import anyio
import msgspec
import structlog

from qcore.app import App
from qcore.config import BrokerConfig, WorkerConfig
from qcore.runtime.worker import Worker

log = structlog.get_logger()

#: Orders, one byte each, written by the supervisor. The end of the pipe is an order to drain: the
#: supervisor is gone.
DRAIN, STOP_NOW = b"d", b"n"
#: The environment variable in which a child finds its ChildConfig.
CHILD_CONFIG = "QCORE_CHILD"
#: Exit code of a child that could not be configured: another try would be of no use.
EXIT_CONFIG = 78


class ChildConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What a supervisor tells its child, as JSON."""

    broker: BrokerConfig
    worker: WorkerConfig
    owner: str
    orders_fd: int
    beats_fd: int


async def run_child(app: App, config: ChildConfig, *, pool_command: Sequence[str]) -> None:
    """Run one worker under a supervisor, until it is ordered to stop.

    The app's URL and namespace are those that the supervisor was given.

    SIGTERM and SIGINT make it drain, once: a process manager may signal the children as well as
    their supervisor, and that must not count as the second signal.
    """
    loop = asyncio.get_running_loop()
    app.configure(url=config.broker.url, namespace=config.broker.namespace)
    async with app:
        worker = Worker(app, config.worker, owner=config.owner, pool_command=pool_command)
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, worker.drain)
        os.set_blocking(config.orders_fd, False)
        os.set_blocking(config.beats_fd, False)
        loop.add_reader(config.orders_fd, partial(_obey, worker, config.orders_fd))
        async with anyio.create_task_group() as group:
            group.start_soon(_beat, worker, config)
            await worker.run()
            group.cancel_scope.cancel()


def _obey(worker: Worker, orders_fd: int) -> None:
    try:
        orders = os.read(orders_fd, 64)
    except BlockingIOError:
        return
    if not orders:
        asyncio.get_running_loop().remove_reader(orders_fd)
    if STOP_NOW in orders:
        worker.stop_now()
    else:
        worker.drain()


async def _beat(worker: Worker, config: ChildConfig) -> None:
    """Write one line per heartbeat from the event loop, so that a blocked loop falls silent."""
    encode, was_ready = msgspec.json.Encoder().encode, False
    while True:
        beat = worker.beat()
        try:
            os.write(config.beats_fd, encode(beat) + b"\n")
        except BlockingIOError:
            pass  # the supervisor is stopped or slow; it needs the newest beat only
        except OSError:
            return  # the supervisor is gone; the other pipe says so too
        was_ready = beat.ready
        # before it is ready the supervisor waits for nothing else
        await anyio.sleep(config.worker.heartbeat_s if was_ready else 0.05)


def leave(code: int) -> None:
    """End this process, also when a thread of a task still runs: nobody could stop it."""
    others = [t for t in threading.enumerate() if not t.daemon and t is not threading.main_thread()]
    if others:
        log.warning("threads.abandoned", count=len(others))
        os._exit(code)
