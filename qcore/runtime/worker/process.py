"""The worker's end of its supervisor: orders come in over one pipe, beats go out over another."""

import asyncio
import contextlib
import faulthandler
import os
import signal
import threading
import time
from collections.abc import Sequence
from functools import partial

import anyio
import msgspec

from qcore.app import App
from qcore.model.reasons import shortened
from qcore.runtime.ipc.messages import Alarm, Beat
from qcore.runtime.ipc.orders import DRAIN, DUMP, QUIET, RESUME, STOP_NOW, ChildConfig
from qcore.runtime.services import kept
from qcore.runtime.worker.watchdog import Watchdog
from qcore.runtime.worker.worker import Worker
from qcore.telemetry import log

_BOOT_BEAT_S = 0.05
#: Threads without a task need so long to end.
_IDLE_THREADS_S = 0.2
_encode = msgspec.json.Encoder().encode


async def run_child(app: App, config: ChildConfig, *, pool_command: Sequence[str]) -> None:
    """Run one worker under a supervisor, until it is ordered to stop.

    The app's URL, namespace and call timeout are those that the supervisor was given.

    SIGTERM and SIGINT make it drain, once: a process manager may signal the children as well as
    their supervisor, and that must not count as the second signal. For the same reason signals by
    which the supervisor replaces its children do nothing here.
    """
    app.work_at(config.broker)
    async with app:
        worker = Worker(app, config.worker, owner=config.owner, pool_command=pool_command)
        _listen(worker, config)
        watchdog = Watchdog(
            worker, app.tasks, config.worker.lag_limit_s, tell=partial(_send, config.beats_fd)
        )
        with watchdog.watching():
            async with anyio.create_task_group() as group:
                beats = partial(_beat_on, worker, app, watchdog, config)
                group.start_soon(kept, "beats", beats)
                await worker.run()
                group.cancel_scope.cancel()
            _beat(worker, app, watchdog.take_lag_s(), config.beats_fd)
    if worker.jobs.abandoned:
        # the loop would wait for them at its end
        os._exit(0)


def _listen(worker: Worker, config: ChildConfig) -> None:
    """Obey signals and the supervisor."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, worker.drain)
    loop.add_signal_handler(signal.SIGTSTP, worker.quiet)
    for number in (signal.SIGHUP, signal.SIGUSR2):
        # not SIG_IGN, which whatever a task starts would inherit
        loop.add_signal_handler(number, lambda: None)
    # the threads' stacks, at once and also from a blocked loop; what stands here before is what the
    # interpreter puts back at its end, and the default would kill it there
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    faulthandler.register(signal.SIGUSR1)
    os.set_blocking(config.orders_fd, False)
    os.set_blocking(config.beats_fd, False)
    loop.add_reader(config.orders_fd, partial(_obey, worker, config.orders_fd))


def _obey(worker: Worker, orders_fd: int) -> None:
    try:
        orders = os.read(orders_fd, 64)
    except BlockingIOError:
        return
    if not orders:
        asyncio.get_running_loop().remove_reader(orders_fd)
        worker.drain()
        log.warning("orders.lost")
    actions = {
        DRAIN: worker.drain,
        STOP_NOW: worker.stop_now,
        QUIET: worker.quiet,
        RESUME: worker.resume,
        DUMP: worker.dump,
    }
    for i in range(len(orders)):
        order = orders[i : i + 1]
        if order in actions:
            actions[order]()
        else:  # of another version
            log.warning("order.unknown", order=order.hex())


def tell_refusal(beats_fd: int, error: str) -> None:
    """Tell the supervisor in one line why this worker does not get ready."""
    _send(beats_fd, shortened(" ".join(error.split())))


def _send(beats_fd: int, message: Beat | Alarm | str) -> bool:
    """Write one line; False when the supervisor is stopped or slow, so that it does not fit.

    Threads may write at the same time: a line that is no longer than this is not torn.
    """
    # an end that nobody reads means that the supervisor is gone; the other pipe says so too
    with contextlib.suppress(BlockingIOError, BrokenPipeError):
        os.write(beats_fd, _encode(message) + b"\n")
        return True
    return False


def _beat(worker: Worker, app: App, lag_s: float, beats_fd: int) -> Beat:
    """Write one line, or some when there are many counts to tell.

    A line that the supervisor does not take is dropped: it needs the newest only. Its counts are
    told later.
    """
    beat = worker.beat(lag_s)
    while True:
        runs = worker.jobs.counts.take(app.tasks)
        if not _send(beats_fd, msgspec.structs.replace(beat, runs=runs)):
            worker.jobs.counts.add(runs)
            return beat
        if not worker.jobs.counts:
            return beat


async def _beat_on(worker: Worker, app: App, watchdog: Watchdog, config: ChildConfig) -> None:
    """Beat from the event loop, so that a blocked loop falls silent; faster until it works."""
    while True:
        beat = _beat(worker, app, watchdog.take_lag_s(), config.beats_fd)
        await anyio.sleep(_BOOT_BEAT_S if beat.claim_age_s is None else config.worker.heartbeat_s)


def leave(code: int) -> None:
    """End this process, also when a thread of a task still runs: nobody could stop it."""
    others = [t for t in threading.enumerate() if not t.daemon and t is not threading.main_thread()]
    until = time.monotonic() + _IDLE_THREADS_S
    for thread in others:  # those that are idle were told to end
        thread.join(max(0.0, until - time.monotonic()))
    others = [thread for thread in others if thread.is_alive()]
    if others:
        log.warning("threads.abandoned", count=len(others))
        os._exit(code)
