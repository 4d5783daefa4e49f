"""What every Python system is run by, in its own environment: `python -m benchmarks.systems.NAME`.

enqueue --how WAY --jobs N            put jobs in; tell seconds and CPU
worker --concurrency C --processes P  work until killed; each process waits for the gate
pickup --jobs N --gap-ms G            one job at a time; tell when each was sent, and CPU
paced --jobs N --rate R [--mixed]     jobs at fixed times, however slow the answers; tell the same

Standard library only: it is imported by every environment. `driver.mjs`, `driver.php` and
`driver.rb` are the same for other languages.
"""

import argparse
import asyncio
import contextlib
import inspect
import json
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import workloads

FOLDER = Path(os.environ.get("BENCH_FOLDER", "."))
#: The file in it that takes what a producer tells, as JSON.
TOLD = "told.json"
URL = os.environ.get("BENCH_REDIS_URL", "redis://127.0.0.1:6379/0")
#: Tasks or threads that enqueue at the same time, and jobs per call of a bulk API.
PRODUCERS, THREADS, BULK_JOBS = 100, 8, 1000


@asynccontextmanager
async def _nothing() -> AsyncIterator[None]:
    yield


class System(NamedTuple):
    """How a system enqueues and works."""

    #: Enqueue job `n`; a plain function where the library knows no async.
    one: Callable[[int], Any]
    #: Run the jobs with this concurrency in this many processes, if `own_processes`, else in one.
    work: Callable[[int, int], None]
    #: Enqueue all of a range in one call.
    bulk: Callable[[range], Awaitable[Any]] | None = None
    #: Entered before the first enqueue.
    opened: Callable[[], AbstractAsyncContextManager[Any]] = _nothing
    #: Enqueue job `n` with a delay in seconds.
    delayed: Callable[[int, float], Awaitable[Any]] | None = None
    #: Enqueue job `n` from a program without an event loop.
    blocking: Callable[[int], Any] | None = None
    #: Enqueue job `n` under a key of its own, so that there is no second one while it is there.
    keyed: Callable[[int], Awaitable[Any]] | None = None
    #: Whether its worker command manages processes; else one is forked for each.
    own_processes: bool = False


def gate() -> None:
    """Wait until every worker process has imported what it needs; as late as the system lets it."""
    workloads.start()
    (FOLDER / f"{os.getpid()}.ready").touch()
    while not (FOLDER / "go").exists():
        time.sleep(0.001)


def main(system: System) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("verb", choices=["enqueue", "worker", "pickup", "paced"])
    parser.add_argument("--how", default="one")
    parser.add_argument("--jobs", type=int, default=0)
    parser.add_argument("--concurrency", type=int, default=100)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--gap-ms", type=float, default=10)
    parser.add_argument("--rate", type=float, default=0)
    parser.add_argument("--mixed", action="store_true")
    given = parser.parse_args()
    if given.verb == "worker":
        _work(system, given.concurrency, given.processes)
    else:
        if given.how in BLOCKING_WAYS:
            told = _block(system, given.how, given.jobs)
        else:
            told = _run(_produce(system, given))
        # libraries print on standard output
        (FOLDER / TOLD).write_text(json.dumps(told), encoding="utf-8")


def _work(system: System, concurrency: int, processes: int) -> None:
    if not system.own_processes:
        for _ in range(processes - 1):
            if os.fork() == 0:
                break
    system.work(concurrency, processes)


def _run(main: Any) -> Any:
    with contextlib.suppress(ImportError):
        import uvloop

        return uvloop.run(main)
    return asyncio.run(main)


async def _produce(system: System, given: argparse.Namespace) -> dict[str, Any]:
    async with system.opened():
        if given.verb == "enqueue":
            begin, cpu = time.perf_counter(), time.process_time()
            await WAYS[given.how](system, range(given.jobs))
            return {"seconds": time.perf_counter() - begin, "cpu_s": time.process_time() - cpu}
        await _one(system, range(1))  # opens connections; its time does not count
        cpu = time.process_time()
        if given.verb == "pickup":
            times = await _pickup(system, given.jobs, given.gap_ms / 1000)
        else:
            times = await _paced(system, given.jobs, given.rate, mixed=given.mixed)
        return {"times": times, "cpu_s": time.process_time() - cpu}


def _block(system: System, how: str, jobs: int) -> dict[str, Any]:
    begin, cpu = time.perf_counter(), time.process_time()
    BLOCKING_WAYS[how](system, range(jobs))
    return {"seconds": time.perf_counter() - begin, "cpu_s": time.process_time() - cpu}


async def _one(system: System, numbers: range) -> None:
    for n in numbers:
        sent = system.one(n)
        if inspect.isawaitable(sent):
            await sent


async def _gathered(system: System, numbers: range) -> None:
    left = iter(numbers)
    in_thread = not inspect.iscoroutinefunction(system.one)

    async def produce() -> None:
        for n in left:
            await (asyncio.to_thread(system.one, n) if in_thread else system.one(n))

    await asyncio.gather(*(produce() for _ in range(PRODUCERS)))


async def _bulk(system: System, numbers: range) -> None:
    assert system.bulk is not None
    for start in range(numbers.start, numbers.stop, BULK_JOBS):
        await system.bulk(range(start, min(start + BULK_JOBS, numbers.stop)))


def _with_keys(system: System) -> System:
    keyed = system.keyed
    assert keyed is not None

    async def one(n: int) -> None:
        await keyed(n)

    return system._replace(one=one)


async def _keyed(system: System, numbers: range) -> None:
    await _one(_with_keys(system), numbers)


async def _keyed_gathered(system: System, numbers: range) -> None:
    await _gathered(_with_keys(system), numbers)


WAYS = {
    "one": _one,
    "gathered": _gathered,
    "bulk": _bulk,
    "keyed": _keyed,
    "keyed gathered": _keyed_gathered,
}


def _in_turn(system: System, numbers: Iterable[int]) -> None:
    assert system.blocking is not None
    for n in numbers:
        system.blocking(n)


def _in_threads(system: System, numbers: range) -> None:
    left = iter(numbers)
    with ThreadPoolExecutor(THREADS) as pool:
        ended = [pool.submit(_in_turn, system, left) for _ in range(THREADS)]
    for thread in ended:
        thread.result()


BLOCKING_WAYS: dict[str, Callable[[System, range], None]] = {
    "blocking": _in_turn,
    "threads": _in_threads,
}


async def _pickup(system: System, jobs: int, gap_s: float) -> list[int]:
    sent = [0]
    for n in range(1, jobs):
        await asyncio.sleep(gap_s)
        sent.append(time.monotonic_ns())
        await _one(system, range(n, n + 1))
    return sent


async def _paced(system: System, jobs: int, rate: float, *, mixed: bool) -> list[int]:
    """Start each job at its time, never waiting for those before: return the times (an open loop).

    A job with a delay is due when that has passed.
    """
    begin, running, due = time.monotonic_ns(), set[asyncio.Future[Any]](), [0]
    for n in range(1, jobs):
        intended = begin + int(n / rate * 1e9)
        if (early := intended - time.monotonic_ns()) > 0:
            await asyncio.sleep(early / 1e9)
        delay = workloads.delay_s(n) if mixed else 0.0
        due.append(intended + int(delay * 1e9))
        sending = asyncio.ensure_future(_send(system, n, delay))
        running.add(sending)
        sending.add_done_callback(running.discard)
        if len(running) >= 10_000:  # a server that is gone must not fill the memory
            raise RuntimeError(
                f"{len(running):,} enqueues wait for an answer: the rate is too high"
            )
    await asyncio.gather(*running)
    return due


async def _send(system: System, n: int, delay: float) -> None:
    if delay:
        assert system.delayed is not None
        await system.delayed(n, delay)
    elif inspect.iscoroutinefunction(system.one):
        await system.one(n)
    else:
        await asyncio.to_thread(system.one, n)
