"""Real `qcore worker` processes of one test, and the producers that feed them."""

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import time
import uuid
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec

import qcore
from qcore import App, BrokerUnavailable, NotConfirmed, QcoreError
from qcore.broker.redis.broker import Broker
from qcore.settings import BrokerConfig, SupervisorConfig, WorkerConfig
from qcore.task import Dispatch, Task
from tests.support import fleet_tasks, supervise
from tests.support.checker import Fault, History, Journal, Run
from tests.support.waiting import eventually

ROOT = Path(qcore.__file__).parents[1]
TASKS = "tests.support.fleet_tasks:app"
#: Everything that a test starts inherits this variable, by which what it left behind is found.
MARK = "QCORE_TEST_MARK"
#: The lease of the fault tests. A renewal is due after a third of it, a sweep after a quarter.
LEASE_S = 1.5
#: What the benchmarks drain with: the defaults of `qcore worker`.
BENCHMARK: dict[str, Any] = {"concurrency": 100, "lease": 30, "shutdown_timeout": 30}


class Command:
    """One `qcore worker` with its children, seen through its log and its exit code."""

    def __init__(self, words: list[str], env: dict[str, str], log: Path) -> None:
        self.log = log
        self._read_bytes = 0
        self._events: list[dict[str, Any]] = []
        self._named: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", *words],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=env,
                cwd=ROOT,
                start_new_session=True,
            )
        self.pid = self.process.pid

    def events(self, name: str) -> list[dict[str, Any]]:
        """Return the log lines of one event, of the supervisor and of its workers."""
        self._take()
        return list(self._named[name])

    def all_events(self) -> list[dict[str, Any]]:
        """Return all log lines, in their order."""
        self._take()
        return list(self._events)

    def _take(self) -> None:
        with self.log.open("rb") as file:
            file.seek(self._read_bytes)
            lines = file.read()
        whole = lines[: lines.rfind(b"\n") + 1]
        self._read_bytes += len(whole)
        for line in whole.splitlines():
            with suppress(ValueError):
                event = json.loads(line)
                if isinstance(event, dict) and "event" in event:
                    self._events.append(event)
                    self._named[event["event"]].append(event)

    def exit_codes(self) -> list[int | None]:
        """Return how its workers ended; one for quarantined jobs counts only if it ended badly."""
        ends = [(e["worker"], e["exit_code"]) for e in self.events("worker.exited")]
        return [code for worker, code in ends if code != 0 or ".quarantine." not in worker]

    def workers(self) -> list[int]:
        """Return the pids of the workers that are ready and not known to be gone."""
        gone = {event["pid"] for event in self.events("worker.exited")}
        return [e["pid"] for e in self.events("worker.ready") if e["pid"] not in gone]

    def least_working(self, count: int) -> int:
        """Return how many workers were ready and not draining, at the least, after so many were."""
        working, least, begun = set[int](), count, False
        for event in self.all_events():
            if event["event"] == "worker.ready":
                working.add(event["pid"])
            elif event["event"] in ("worker.replaced", "worker.exited"):
                working.discard(event["pid"])
            begun = begun or len(working) >= count
            least = min(least, len(working)) if begun else least
        assert begun
        return least

    def living(self) -> list[int]:
        """Return the pids of the workers that are not known to be gone, ready or not."""
        gone = {event["pid"] for event in self.events("worker.exited")}
        return sorted(self.spawned() - gone)

    def spawned(self) -> frozenset[int]:
        """Return the pids of all workers that there ever were."""
        return frozenset(event["pid"] for event in self.events("worker.spawned"))

    async def ready(self, count: int) -> list[int]:
        """Wait until so many workers are ready; return their pids."""

        def enough() -> list[int]:
            assert self.process.poll() is None, self.log.read_text()[-3000:]
            found = self.workers()
            return found if len(found) >= count else []

        return await eventually(enough, 30)

    def signal(self, number: signal.Signals = signal.SIGTERM) -> None:
        self.process.send_signal(number)

    async def ended(self, timeout_s: float) -> int:
        """Return the exit code; fail when the command has not ended in time."""
        end = time.monotonic() + timeout_s
        while (code := self.process.poll()) is None:
            assert time.monotonic() < end, f"still up after {timeout_s:g} s: {self.tail()}"
            await asyncio.sleep(0.01)
        return code

    def tail(self) -> str:
        return self.log.read_text()[-3000:]


class Fleet:
    """The workers, the journal and the producers of one test."""

    def __init__(self, folder: Path, url: str, namespace: str) -> None:
        self.folder = folder
        self.url = url
        self.namespace = namespace
        self.journal = Journal(folder / "journal")
        self.history = History()
        #: The pids of workers that this test killed, and what else it did to them.
        self.killed: set[int] = set()
        self.faults: list[Fault] = []
        self.mark = uuid.uuid4().hex
        self.env = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "cli"), str(folder))),
            "PYTHONDONTWRITEBYTECODE": "1",  # a module is rewritten within a second
            MARK: self.mark,
            fleet_tasks.JOURNAL: str(self.journal.path),
        }
        self.commands: list[Command] = []

    def start(
        self,
        *,
        processes: int | str = 2,
        lease: float = LEASE_S,
        shutdown_timeout: float = 10.0,
        app: str = TASKS,
        allow_eviction: bool = False,
        **options: object,
    ) -> Command:
        """Start one `qcore worker`; `options` are its other flags."""
        flags = {
            "url": self.url,
            "namespace": self.namespace,
            "processes": processes,
            "lease": lease,
            "shutdown-timeout": shutdown_timeout,
            "log-format": "json",
            **{name.replace("_", "-"): value for name, value in options.items()},
        }
        words = [str(word) for name, value in flags.items() for word in (f"--{name}", value)]
        words += ["--allow-eviction"] * allow_eviction
        return self.run(["qcore_cli", "worker", app, *words])

    def write_module(self, name: str, code: str = "") -> Path:
        """Write a module with the app of the fleet, and what else it does when it is imported."""
        return self._write(name, f"from tests.support.fleet_tasks import app\n{code}\n")

    def write_tasks(self, name: str, code: str) -> Path:
        """Write a module with an app of its own, and the tasks in `code`."""
        return self._write(name, f"from qcore import App\napp = App(queues=['default'])\n{code}")

    def _write(self, name: str, text: str) -> Path:
        path = self.folder / f"{name}.py"
        new = path.with_suffix(".new")
        new.write_text(text)
        return new.replace(path)

    def start_with(
        self, *, processes: int = 2, app: str = TASKS, url: str | None = None, **options: Any
    ) -> Command:
        """Start a supervisor with settings, its own and its workers', that have no flags."""
        own: dict[str, Any] = {
            n: options.pop(n) for n in SupervisorConfig.__struct_fields__ if n in options
        }
        defaults: dict[str, Any] = {
            "queues": fleet_tasks.app.queues,
            "lease_s": LEASE_S,
            "extend_s": LEASE_S / 3,
            "sweep_s": LEASE_S / 4,
            "heartbeat_s": LEASE_S / 10,
            "shutdown_timeout_s": 10.0,
        }
        worker = WorkerConfig(**defaults | options)
        own = {"processes": processes, "stall_s": worker.stall_s} | own
        settings = supervise.Settings(
            app,
            BrokerConfig(url=url or self.url, namespace=self.namespace),
            SupervisorConfig(**own),
            worker,
        )
        return self.run([supervise.__name__, msgspec.json.encode(settings).decode()])

    def run(self, words: list[str]) -> Command:
        """Start `python -m WORDS`, in the environment of the fleet."""
        log = self.folder / f"command-{len(self.commands)}.log"
        self.commands.append(Command(words, self.env, log))
        return self.commands[-1]

    def runs(self) -> dict[int, list[Run]]:
        return self.journal.runs()

    def done(self) -> set[int]:
        return self.journal.done()

    def blocked(self) -> set[int]:
        """Return the numbers of the jobs that hold their loop."""
        self.journal.runs()
        return self.journal.blocking

    def kill_worker(self, pid: int) -> float:
        """Kill one worker process; return when, on the monotonic clock."""
        self.killed.add(pid)
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        return time.monotonic()

    @asynccontextmanager
    async def producer(self, url: str | None = None) -> AsyncIterator["Producer"]:
        """Open an app with the tasks of the fleet: connections and call numbers of its own."""
        app = App(url or self.url, queues=fleet_tasks.app.queues, namespace=self.namespace)
        async with app:
            yield Producer(app, self.history)

    async def emptied(self, timeout_s: float) -> None:
        """Wait until nothing is ready, scheduled or active in any queue, and no key is held."""
        broker = Broker(BrokerConfig(url=self.url, namespace=self.namespace))
        names = fleet_tasks.app.queues
        words = [
            (q, kind)
            for q in names
            for kind in ("ready", "quarantine", "scheduled", "active", "unique")
        ]
        counts = {
            "unique": b"HLEN",
            "ready": b"LLEN",
            "quarantine": b"LLEN",
            "scheduled": b"ZCARD",
            "active": b"ZCARD",
        }

        left: object = "nothing is known"

        async def is_empty() -> bool:
            nonlocal left
            try:
                replies = await broker._ask(
                    [(counts[kind], broker._keys_of(q).names[kind]) for q, kind in words]
                )
            except QcoreError as e:
                left = e
                return False
            left = {word: count for word, count in zip(words, replies, strict=True) if count}
            return not left

        try:
            await eventually(is_empty, timeout_s)
        except AssertionError as e:
            e.add_note(f"left in {self.namespace}: {left}")
            raise
        finally:
            await broker.close()

    def left_behind(self) -> list[int]:
        """Return the pids of all living processes that this test started, however indirectly."""
        mark, found = f"{MARK}={self.mark}".encode(), list[int]()
        for entry in Path("/proc").iterdir() if sys.platform == "linux" else ():
            with suppress(OSError, ValueError):
                if mark in (entry / "environ").read_bytes() and int(entry.name) != os.getpid():
                    found.append(int(entry.name))
        return found

    def close(self) -> None:
        """Stop what still runs; fail if a process does not leave, or was left by its parent."""
        for command in self.commands:
            if command.process.poll() is None:
                command.signal()
                time.sleep(0.05)  # or the kernel would make one signal of both
                command.signal()
        end = time.monotonic() + 15
        while (left := self.left_behind()) and time.monotonic() < end:
            for command in self.commands:
                command.process.poll()
            time.sleep(0.02)
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for command in self.commands:
            command.process.wait(5)
        assert not left, f"processes were left behind: {left}"


class Producer:
    """Enqueues, and writes down what it was told about each try."""

    def __init__(self, app: App, history: History) -> None:
        self.app = app
        self._history = history

    def task(self, name: str) -> Task[Any, Any]:
        """Return a task of the fleet, enqueued through this producer's own connection."""
        full = f"{fleet_tasks.__name__}.{name}"
        if full not in self.app.tasks:
            known = fleet_tasks.app.tasks[full]
            place = known.settings.run_in
            self.app.task(
                name=full,
                queue=known.settings.queue,
                run_in=None if place == "loop" else place,
                unique=known.settings.unique,
            )(known.function)
        return self.app.tasks[full]

    async def send(self, task: str | Dispatch[Any, Any], *args: Any, **named: Any) -> int:
        """Enqueue one job, whose first argument is its number; return that."""
        n = self._history.invoke()
        dispatch = self.task(task) if isinstance(task, str) else task
        try:
            await dispatch.enqueue(n, *args, **named)
        except (BrokerUnavailable, NotConfirmed) as e:
            self._history.errors.append(e)
            self._history.outcomes[n] = "unknown" if e.sent else "fail"
        except QcoreError as e:
            self._history.errors.append(e)
            self._history.outcomes[n] = "fail"
        else:
            self._history.outcomes[n] = "ok"
        return n

    async def send_many(self, task: str, count: int) -> None:
        """Enqueue so many jobs in bulk, whose only argument is their number."""
        numbers = [self._history.invoke() for _ in range(count)]
        await self.task(task).enqueue_many((n,) for n in numbers)
        self._history.outcomes |= dict.fromkeys(numbers, "ok")


def new_random() -> random.Random:
    """Return the source of a test's random choices; its seed is printed, and can be given."""
    seed = os.environ.get("QCORE_TEST_SEED") or str(random.SystemRandom().randrange(10**9))
    print(f"QCORE_TEST_SEED={seed}")
    return random.Random(seed)


@contextmanager
def fleet_on(folder: Path, url: str, namespace: str) -> Iterator[Fleet]:
    fleet = Fleet(folder, url, namespace)
    try:
        yield fleet
    finally:
        fleet.close()
