"""Processes for `run_in="process"` tasks: a pool whose members can be killed one by one."""

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections import deque
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager

import msgspec

from qcore.environment import child_environment
from qcore.errors import Parked, ProcessDied, ResultError
from qcore.model.retry import GiveUp, RetryLater
from qcore.runtime.host.inheritance import keep_private, no_longer_private
from qcore.runtime.host.memory import BY_THE_KERNEL, children_peak_bytes, oom_kills, rss_bytes
from qcore.runtime.host.signals import ending
from qcore.runtime.ipc.pool import (
    LENGTH_BYTES,
    POOL_START,
    REMEDY,
    PoolStart,
    RemoteError,
    Reply,
    Request,
    encode,
    frame,
)
from qcore.settings import BrokerConfig
from qcore.telemetry import log

#: How long a process may take to load the app.
LOAD_S = 60.0
_reply = msgspec.msgpack.Decoder(Reply)


class PoolProcess:
    """One process of the pool; runs one job at a time.

    It leads a session of its own: what its jobs start is killed with it.

    Args:
        process: It was started in a session of its own.
        reader: Its replies.
        writer: Its requests.
        lifeline_fd: When this end of the pipe is closed, the process and its session are killed.
    """

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        lifeline_fd: int,
    ) -> None:
        self._process = process
        self._reader, self._writer, self._lifeline_fd = reader, writer, lifeline_fd
        self._requests_fd = writer.get_extra_info("socket").fileno()
        keep_private(self._requests_fd, self._lifeline_fd)
        self.pid = process.pid
        self._oom_kills = oom_kills()
        #: What its worker has killed it for, whether it had a job or not.
        self._killed_for = ""
        #: Done with its exit code when it is gone, with all that it has started.
        self.gone = asyncio.get_running_loop().create_task(self._see_out())

    async def _see_out(self) -> int:
        code = await self._process.wait()
        # its number is not given again while there is anybody in its group
        self._kill_group()
        no_longer_private(self._requests_fd, self._lifeline_fd)
        self._writer.close()
        os.close(self._lifeline_fd)
        return code

    def _kill_group(self) -> None:
        # refused where only another account's are left, as what `sudo` has started
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)

    @property
    def is_alive(self) -> bool:
        """Whether it can take another job."""
        return self._process.returncode is None and not self._killed_for

    async def call(self, request: Request) -> bytes:
        """Run the task and return its encoded result. Cancelling kills the process.

        Raises:
            ProcessDied: the process ended by itself.
            GiveUp, RetryLater: as raised by the task.
            ResultError: what it returned cannot be kept.
            Parked: the process has no code for the job.
            RemoteError: any other exception of the task.
        """
        try:
            self._writer.write(frame(encode(request)))
            await self._writer.drain()
            reply = await self._read()
        except (asyncio.IncompleteReadError, ConnectionError, RuntimeError):
            # the last is what a write to a closed socket raises on uvloop
            raise ProcessDied(await self._exit_report()) from None
        except BaseException:
            await self.kill()
            raise
        if reply.left:
            log.info("process.recycled", pid=self.pid, task=request.facts.task, left=reply.left)
            self.kill_for(reply.left)
        return _unpack(reply)

    async def loaded(self) -> None:
        """Wait until the process has loaded the app. Cancelling kills it.

        Raises:
            Parked: it could not, ended meanwhile, or took too long; it is gone.
        """
        try:
            async with asyncio.timeout(LOAD_S):
                _unpack(await self._read())
        except (asyncio.IncompleteReadError, ConnectionError):
            raise Parked(f"{await self._exit_report()} while it loaded the app: {REMEDY}") from None
        except TimeoutError:
            await self.kill()
            text = f"the process of the task did not load the app within {LOAD_S:g} s: {REMEDY}"
            raise Parked(text) from None
        except BaseException:
            await self.kill()
            raise

    async def _read(self) -> Reply:
        length = int.from_bytes(await self._reader.readexactly(LENGTH_BYTES))
        return _reply.decode(await self._reader.readexactly(length))

    def kill_for(self, why: str) -> None:
        """Kill the process; a job that it runs has failed with this reason."""
        self._killed_for = why
        self._kill_group()

    async def kill(self) -> None:
        """End the process at once, and see it gone."""
        if self.is_alive:
            self.kill_for("by its worker")  # and is lost at once, also if this is cancelled
        await asyncio.shield(self.gone)

    async def _exit_report(self) -> str:
        code = await asyncio.shield(self.gone)
        how = ending(code)
        if self._killed_for or (code == -signal.SIGKILL and oom_kills() > self._oom_kills):
            how += f", {self._killed_for or BY_THE_KERNEL}"
        most = f"at most {children_peak_bytes() / 1e6:.0f} MB"
        return f"the process of the task (pid {self.pid}, {most} of memory) {how}"


def _not_started(error: OSError) -> Parked:
    return Parked(f"no process of the task could be started: {error}: {REMEDY}")


def _unpack(reply: Reply) -> bytes:
    match reply.kind:
        case "":
            return bytes(reply.result)
        case "qcore.GiveUp":
            raise GiveUp(reply.text)
        case "qcore.RetryLater":
            raise RetryLater(reply.delay_s, charge=reply.charge)
        case "qcore.ResultError":
            raise ResultError(reply.text)
        case "qcore.Parked":
            raise Parked(reply.text)
        case kind:
            raise RemoteError(kind, reply.text, reply.reason)


class ProcessPool:
    """At most `size` processes, started when needed and used again.

    They are killed when their worker is gone, with what their tasks have started. Their tasks
    enqueue where the worker works, whatever its flags said.

    Args:
        size: How many at most.
        broker: Where their tasks enqueue.
        command: What starts one.
        memory_bytes: What they and the worker may take together.
    """

    def __init__(
        self,
        size: int,
        broker: BrokerConfig,
        command: Sequence[str] = (),
        *,
        memory_bytes: int | None = None,
    ) -> None:
        self._broker = broker
        self._size = size
        self._slots = asyncio.Semaphore(size)
        self._command = command
        self._memory_bytes = memory_bytes
        self._idle: deque[PoolProcess] = deque()
        self._all: set[PoolProcess] = set()

    @asynccontextmanager
    async def process(self) -> AsyncGenerator[PoolProcess, None]:
        """Wait for a free process and hold it; one that died or was killed is not used again.

        Raises:
            Parked: a new one could not be started, or not load the app.
        """
        async with self._slots:
            process = self._idle.pop() if self._idle else None
            while process is not None and not process.is_alive:  # it died while it was idle
                process = self._idle.pop() if self._idle else None
            process = process or await self._start()
            try:
                yield process
            finally:
                if process.is_alive:
                    self._idle.append(process)

    async def _start(self) -> PoolProcess:
        try:
            ours, theirs = socket.socketpair()
            lifeline, lifeline_fd = os.pipe()
        except OSError as e:
            raise _not_started(e) from e
        theirs.setblocking(True)  # whatever default the app has set
        start = PoolStart(self._broker, theirs.fileno(), lifeline)
        try:
            process = await asyncio.create_subprocess_exec(
                *self._command,
                stdin=subprocess.DEVNULL,
                stdout=2,  # what a task prints goes where its log goes
                env=child_environment(
                    {
                        "PYTHONPATH": os.pathsep.join(p for p in sys.path if p),
                        POOL_START: msgspec.json.encode(start).decode(),
                    }
                ),
                pass_fds=(start.requests_fd, start.lifeline_fd),
                start_new_session=True,
            )
            reader, writer = await asyncio.open_unix_connection(sock=ours)
        except BaseException as e:
            ours.close()
            os.close(lifeline_fd)  # by which it is killed, if it was started
            if isinstance(e, OSError):
                raise _not_started(e) from e
            raise
        finally:
            theirs.close()
            os.close(lifeline)
        member = PoolProcess(process, reader, writer, lifeline_fd)
        self._all.add(member)
        member.gone.add_done_callback(lambda _: self._all.discard(member))
        await member.loaded()
        return member

    @property
    def taken(self) -> float:
        """The share of the processes that has a job."""
        return sum(p.is_alive and p not in self._idle for p in self._all) / self._size

    def shed(self, own_bytes: int) -> int:
        """Kill the largest members while they and the worker take more memory than they may.

        A worker that takes more than each of them is left to its supervisor.

        Args:
            own_bytes: What the worker takes.

        Returns:
            What it and the members that are left take.
        """
        sizes = {process: rss_bytes(process.pid) for process in self._all if process.is_alive}
        total = own_bytes + sum(sizes.values())
        for process in sorted(sizes, key=sizes.__getitem__, reverse=True):
            if self._memory_bytes is None or total <= self._memory_bytes:
                break
            if sizes[process] >= own_bytes:
                process.kill_for(
                    f"by its worker: {sizes[process] / 1e6:.0f} MB of memory, "
                    f"{total / 1e6:.0f} with the worker, allowed are {self._memory_bytes / 1e6:.0f}"
                )
                total -= sizes[process]
        return total

    async def close(self) -> None:
        """Kill every member."""
        for process in list(self._all):
            await process.kill()
        self._idle.clear()
