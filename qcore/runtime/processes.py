"""Processes for `run_in="process"` tasks: a pool whose members can be killed one by one."""

import asyncio
import os
import signal
import subprocess
import sys
from collections import deque
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager

import msgspec

from qcore.config import BrokerConfig, child_environment
from qcore.context import Facts
from qcore.errors import Parked, ProcessDied, ResultError
from qcore.model.retry import GiveUp, RetryLater
from qcore.runtime.memory import BY_THE_KERNEL, children_peak_bytes, oom_kills, rss_bytes

#: The environment variable in which a process of the pool finds its worker's BrokerConfig.
POOL_BROKER = "QCORE_POOL"
_LENGTH_BYTES = 4


class Request(msgspec.Struct, array_like=True):
    """One call of a task, which the process finds by its name in the facts."""

    facts: Facts
    args: msgspec.Raw
    #: Of the encoded result; -1: it is not kept, and not sent.
    result_limit_bytes: int


class Reply(msgspec.Struct, array_like=True):
    """How it ended: a result, or an exception described."""

    result: msgspec.Raw = msgspec.Raw(b"\xc0")
    kind: str = ""
    text: str = ""
    #: For RetryLater.
    delay_s: float = 0.0
    charge: bool = True


class RemoteError(Exception):
    """An exception that was raised in another process; it carries that one's kind and trace."""

    def __init__(self, kind: str, trace: str) -> None:
        super().__init__(trace.rstrip().rpartition("\n")[2])
        self.kind = kind
        self.trace = trace


encode = msgspec.msgpack.Encoder().encode
_reply = msgspec.msgpack.Decoder(Reply)


def frame(message: bytes) -> bytes:
    """Return a message with its length in front, as both directions of the pipe carry it."""
    return len(message).to_bytes(_LENGTH_BYTES) + message


def signal_name(number: int) -> str:
    """Return the name of a signal; real-time signals have none of their own."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


class PoolProcess:
    """One process of the pool; runs one job at a time."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.pid = process.pid
        self._oom_kills = oom_kills()
        #: What its worker has killed it for, whether it had a job or not.
        self._killed_for = ""

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
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        try:
            stdin.write(frame(encode(request)))
            await stdin.drain()
            length = int.from_bytes(await stdout.readexactly(_LENGTH_BYTES))
            reply = _reply.decode(await stdout.readexactly(length))
        except (asyncio.IncompleteReadError, ConnectionError, RuntimeError):
            # the last is what a write to a closed pipe raises on uvloop
            raise ProcessDied(await self._epitaph()) from None
        except BaseException:
            await self.kill()
            raise
        return _unpack(reply)

    def kill_for(self, why: str) -> None:
        """Kill the process; a job that it runs has failed with this reason."""
        self._killed_for = why
        self._process.kill()

    async def kill(self) -> None:
        """End the process at once, and see it gone."""
        if self.is_alive:
            self._process.kill()
        await self._process.wait()

    async def _epitaph(self) -> str:
        code = await self._process.wait()
        how = f"was ended by {signal_name(-code)}" if code < 0 else f"exited with {code}"
        if self._killed_for or (code == -signal.SIGKILL and oom_kills() > self._oom_kills):
            how += f", {self._killed_for or BY_THE_KERNEL}"
        most = f"at most {children_peak_bytes() / 1e6:.0f} MB"
        return f"the process of the task (pid {self.pid}, {most} of memory) {how}"


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
            raise RemoteError(kind, reply.text)


class ProcessPool:
    """At most `size` processes, started when needed and used again.

    They leave when their worker is gone: they see the end of the pipe. Their tasks enqueue where
    the worker works, whatever its flags said.

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
        """Wait for a free process and hold it; one that died or was killed is not used again."""
        async with self._slots:
            process = self._idle.pop() if self._idle else None
            while process is not None and not process.is_alive:  # it died while it was idle
                self._all.discard(process)
                process = self._idle.pop() if self._idle else None
            process = process or await self._start()
            try:
                yield process
            finally:
                if process.is_alive:
                    self._idle.append(process)
                else:
                    self._all.discard(process)

    async def _start(self) -> PoolProcess:
        process = await asyncio.create_subprocess_exec(
            *self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=child_environment(
                {
                    "PYTHONPATH": os.pathsep.join(p for p in sys.path if p),
                    POOL_BROKER: msgspec.json.encode(self._broker).decode(),
                }
            ),
        )
        member = PoolProcess(process)
        self._all.add(member)
        return member

    @property
    def taken(self) -> float:
        """The share of the processes that has a job."""
        return (len(self._all) - len(self._idle)) / self._size

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
        self._all.clear()
        self._idle.clear()
