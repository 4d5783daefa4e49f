"""One worker process as its supervisor sees it: orders go in, beats come out, and then it ends."""

import asyncio
import contextlib
import os
import random
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence

import anyio
import anyio.to_thread
import msgspec

from qcore.broker.identity import new_owner
from qcore.environment import child_environment
from qcore.model.fleet import WorkerState, WorkerView
from qcore.runtime.host.machine import stat_of
from qcore.runtime.host.memory import oom_kills, peak_bytes
from qcore.runtime.host.signals import ending
from qcore.runtime.ipc.messages import Alarm, Beat
from qcore.runtime.ipc.orders import CHILD_CONFIG, DRAIN, DUMP, ChildConfig
from qcore.runtime.ipc.settings_file import settings_file
from qcore.settings import BrokerConfig, WorkerConfig
from qcore.telemetry import log

#: A child that has not beaten for so long is taken for blocked.
_SILENT_S = 3.0
#: No line of a child is longer.
_LINE_BYTES = 65536
#: What a view shows of the last beat.
_SHOWN = ("running", "taken", "oldest", "done", "settled", "rss_bytes", "loop_lag_ms", "code")

_beat = msgspec.json.Decoder(Beat).decode
_alarm = msgspec.json.Decoder(Alarm).decode
_refusal = msgspec.json.Decoder(str).decode


class WorkerProcess:
    """One worker process with its pipes, until it is gone.

    Args:
        name: As logs show it.
        place: The number of its slot, from 0 on.
        broker: Where Redis is.
        worker: What it does.
        command: What starts it; it finds its ChildConfig in the environment.
        on_beat: Called with the newest beat.
    """

    #: What its supervisor killed it for; empty: it did not.
    killed_for: str = ""
    #: That was a deed of its jobs: its end is theirs.
    blames_jobs: bool = False
    #: Tokens of the jobs that did it, where that is known.
    culprits: frozenset[bytes] = frozenset()
    #: It is to go whatever its jobs do: they are not charged with its end.
    is_dismissed: bool = False
    #: It claims nothing more, and goes when it has nothing to do.
    is_spare: bool = False
    #: Why another one takes its place.
    leaves_for: str = ""
    #: How long its supervisor has waited for a beat: not the time in which that was stopped.
    silent_s: float = 0.0
    #: The token of the job that holds its event loop, which stands still; empty for none.
    blocked_by: str = ""
    #: Why it cannot work, in its own words; empty while it has said nothing of the kind.
    refusal: str = ""
    #: Loop time since when it leaves: it was told to, or has said so.
    leaving_since: float | None = None
    #: The most resident memory that was seen, that of its pool included.
    peak_rss_bytes: int = 0
    #: The kernel killed a process of this cgroup for lack of memory between the last beat and
    #: the end.
    lacked_memory: bool = False
    _cpu: float = 0.0
    beat: Beat | None = None
    _buffer: bytes = b""
    #: It has said what cannot be read, and that is logged.
    _spoke_oddly: bool = False
    _pidfd: int | None = None

    def __init__(
        self,
        name: str,
        broker: BrokerConfig,
        worker: WorkerConfig,
        command: Sequence[str],
        *,
        place: int,
        on_beat: Callable[[Beat], None],
    ) -> None:
        self.name = name
        self.place = place
        self.owner = new_owner()
        #: It runs quarantined jobs; where it has one for itself, its end tells that this ended it.
        self.is_quarantine = worker.quarantined
        #: What it bears, as a share of the limits: no two reach them at the same time.
        self.patience = random.uniform(0.9, 1.1)
        #: Tokens of jobs that run at their kill timeouts, with these.
        self.overdue: dict[str, float] = {}
        #: Loop time of the last beat.
        self.beat_at = asyncio.get_running_loop().time()
        self._oom_kills = oom_kills()
        self._on_beat = on_beat
        self.gone = asyncio.Event()
        self.ready = asyncio.Event()
        #: It is ready, and Redis has answered a claim of it.
        self.claiming = asyncio.Event()
        #: It is ready, or has ended before.
        self.booted = asyncio.Event()
        #: It is gone, its exit code is known and logged.
        self.ended = asyncio.Event()
        self._beats_fd, self._orders_fd, self.process = _launch(
            name, self.owner, broker, worker, command
        )
        self._loop = asyncio.get_running_loop()
        self.started_at = self._loop.time()
        self._loop.add_reader(self._beats_fd, self._read)
        # a Python that was built on an old system lacks it
        if sys.platform == "linux" and hasattr(os, "pidfd_open"):
            # the pipe alone would not do: what a task forked may hold its other end open
            with contextlib.suppress(OSError):  # an old kernel, or no descriptor to be had
                self._pidfd = os.pidfd_open(self.process.pid)
                self._loop.add_reader(self._pidfd, self.gone.set)

    def _read(self) -> None:
        """Take what it said; without a pidfd the end of the pipe is that of the child."""
        try:
            data = os.read(self._beats_fd, 65536)
        except BlockingIOError:
            return
        if not data:
            self._loop.remove_reader(self._beats_fd)
            if self._pidfd is None:
                self.gone.set()
            return
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        self._buffer = self._buffer[-_LINE_BYTES:]  # what never ends is no line of qcore
        for line in lines:
            try:
                if line.startswith(b"["):
                    self._hear(_alarm(line))
                elif line.startswith(b'"'):
                    self.refusal = _refusal(line)
                else:
                    self._note(_beat(line))
            except Exception as e:  # noqa: BLE001 - of another version, or a task wrote into the pipe
                if not self._spoke_oddly:
                    log.warning("beat.unreadable", worker=self.name, error=repr(e))
                self._spoke_oddly = True

    def catch_up(self) -> None:
        """Take note of what it has said and whether it is gone, before it is judged.

        A supervisor that goes on after SIGCONT finds its timers due before it has read anything.
        """
        if self.gone.is_set():
            return
        self._read()
        if self._pidfd is not None:
            end = select.poll()
            end.register(self._pidfd, select.POLLIN)
            if end.poll(0):
                self.gone.set()

    def _hear(self, alarm: Alarm) -> None:
        if alarm.kill_timeout_s:
            self.overdue[alarm.token] = alarm.kill_timeout_s
        else:
            self.blocked_by = alarm.token

    def _note(self, beat: Beat) -> None:
        self.silent_s, self.blocked_by = 0.0, ""
        now = self._loop.time()
        if self.beat is not None and now > self.beat_at:
            self._cpu = (beat.cpu_s - self.beat.cpu_s) / (now - self.beat_at)
        self.beat, self.beat_at = beat, now
        self.peak_rss_bytes = max(self.peak_rss_bytes, beat.rss_bytes)
        self._oom_kills = oom_kills()
        if beat.draining:
            self._note_leaving()
        if beat.ready:
            self.ready.set()
            self.booted.set()
            if beat.claim_age_s is not None and not beat.draining:
                self.claiming.set()
        self._on_beat(beat)

    def order(self, order: bytes) -> None:
        """Send an order; a child that is gone or deaf does not stop its supervisor."""
        with contextlib.suppress(OSError):
            os.write(self._orders_fd, order)

    def dismiss(self) -> None:
        """Let the child finish what it runs and end; its jobs are not charged with its end."""
        self.is_dismissed = True
        self._note_leaving()
        self.order(DRAIN)

    def _note_leaving(self) -> None:
        if self.leaving_since is None:
            self.leaving_since = self._loop.time()

    def dump(self) -> None:
        """Let the child log what it does; one whose loop is blocked prints its threads only."""
        self.order(DUMP)
        if self.ready.is_set() and self.silent_s > _SILENT_S:
            self.dump_threads()

    def dump_threads(self) -> None:
        """Let the child print the stacks of its threads, at once and also from a blocked loop."""
        # not by Popen, which would look first whether it has ended, and take its exit code away
        if not self.gone.is_set():
            os.kill(self.process.pid, signal.SIGUSR1)

    def kill(self, why: str, *, blames_jobs: bool = False, culprits: Iterable[str] = ()) -> None:
        """Kill the child and what it started.

        Args:
            why: As its jobs' records say it.
            blames_jobs: It is a deed of its jobs.
            culprits: The tokens of those that did it, where that is known.
        """
        self.killed_for = why
        self.blames_jobs = blames_jobs
        self.culprits = frozenset(token.encode() for token in culprits)
        self._kill_group()

    @property
    def is_stopped(self) -> bool:
        """Whether somebody has stopped the process with a signal; False where that is unknown."""
        return stat_of(self.process.pid)[:1] in ([b"T"], [b"t"])

    def _kill_group(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)

    async def wait(self) -> int:
        """Return the exit code once the process is gone, with everything in its group."""
        await self.gone.wait()
        if self._pidfd is not None:
            # the processes of its pool; a pid is not given away before it is waited for
            self._kill_group()
        code = await anyio.to_thread.run_sync(self._reap)
        for fd in (self._beats_fd, self._pidfd):
            if fd is not None:
                self._loop.remove_reader(fd)
                os.close(fd)
        os.close(self._orders_fd)
        # the number is given again, as that of the connection to Redis perhaps
        self._orders_fd = -1
        return code

    def _reap(self) -> int:
        """Wait for the process, which also tells how much memory it took."""
        _, status, usage = os.wait4(self.process.pid, 0)
        self.process.returncode = os.waitstatus_to_exitcode(status)
        self.peak_rss_bytes = max(self.peak_rss_bytes, peak_bytes(usage))
        self.lacked_memory = oom_kills() > self._oom_kills
        return self.process.returncode

    @property
    def left_well(self) -> bool:
        """Whether it has ended because it was told to.

        An exit code alone proves nothing: a task may call os._exit(0).
        """
        return self.process.returncode == 0 and self.beat is not None and self.beat.stopped

    @property
    def end(self) -> str:
        """Why it has ended, in one line."""
        code = self.process.returncode
        how = "it has not ended" if code is None else f"its process {ending(code)}"
        return self.refusal or self.killed_for or how

    @property
    def is_free(self) -> bool:
        """Whether it can take a quarantined job now, or as soon as it is ready."""
        beat = self.beat
        return self.is_quarantine and (beat is None or not (beat.running or beat.draining))

    @property
    def age_s(self) -> float:
        """Seconds since it was started."""
        return self._loop.time() - self.started_at

    @property
    def _state(self) -> WorkerState:
        if self.beat is None or not self.beat.ready:
            return WorkerState.STARTING
        if self.beat.draining or self.is_dismissed or self.is_spare:
            return WorkerState.DRAINING
        return WorkerState.QUIET if self.beat.quiet else WorkerState.RUNNING

    @property
    def view(self) -> WorkerView:
        """What to show of it."""
        beat = self.beat
        known = {} if beat is None else {name: getattr(beat, name) for name in _SHOWN}
        claim_age_s = None
        if beat is not None and beat.claim_age_s is not None:
            claim_age_s = round(beat.claim_age_s + self._loop.time() - self.beat_at, 3)
        return WorkerView(
            name=self.name,
            pid=self.process.pid,
            state=self._state,
            owner=self.owner,
            age_s=round(self.age_s, 3),
            cpu=round(max(0.0, self._cpu), 3),
            leaves_for=self.leaves_for,
            claim_age_s=claim_age_s,
            **known,
        )


def _launch(
    name: str, owner: str, broker: BrokerConfig, worker: WorkerConfig, command: Sequence[str]
) -> tuple[int, int, "subprocess.Popen[bytes]"]:
    """Start a process; return this side's ends of its pipes, for beats and for orders."""
    beats_in, beats_out = os.pipe()
    try:
        orders_in, orders_out = os.pipe()
    except OSError:
        os.close(beats_in)
        os.close(beats_out)
        raise
    told = ChildConfig(
        broker=broker,
        worker=worker,
        name=name,
        owner=owner,
        orders_fd=orders_in,
        beats_fd=beats_out,
    )
    try:
        # not on the command line: the URL may hold a password
        with settings_file(told) as settings_fd:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                env=child_environment({CHILD_CONFIG: str(settings_fd)}),
                pass_fds=(orders_in, beats_out, settings_fd),
                process_group=0,
            )
    except BaseException:
        os.close(beats_in)
        os.close(orders_out)
        raise
    finally:
        os.close(orders_in)
        os.close(beats_out)
    os.set_blocking(beats_in, False)
    os.set_blocking(orders_out, False)
    return beats_in, orders_out, process
