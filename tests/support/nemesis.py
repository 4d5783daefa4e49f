"""Who does harm to a fleet, and writes down which runs that may have orphaned."""

import asyncio
import os
import random
import signal
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress

import redis

from qcore.broker.redis import scripts
from qcore.broker.redis.scripts import Script
from tests.support.checker import Fault
from tests.support.fleet import Command, Fleet
from tests.support.proxy import Proxy
from tests.support.servers import Server

#: Until a worker is back after an outage: the longest pause of its reconnecting, and one call.
RECONNECT_S = 11.0
#: Until a call that was held for a moment is answered.
ANSWER_S = 2.0
#: What workers and producers send all the time.
FREQUENT = (
    scripts.ENQUEUE,
    scripts.CLAIM,
    scripts.ACK,
    scripts.SETTLE,
    scripts.EXTEND,
    scripts.RECLAIM,
)


class Nemesis:
    """Faults on one server and the commands that use it; `fleet.faults` tells the checker.

    Args:
        fleet: Where the faults are written down.
        server: The server of the fleet.
        dice: Chooses victims and durations.
    """

    def __init__(self, fleet: Fleet, server: Server, dice: random.Random) -> None:
        self.fleet = fleet
        self.server = server
        self.dice = dice

    def _note(
        self, kind: str, began_at: float, back_s: float = 0.0, pids: Sequence[int] = ()
    ) -> None:
        now = time.monotonic()
        over_at = now + min(back_s, ANSWER_S)
        self.fleet.faults.append(Fault(kind, began_at, over_at, now + back_s, frozenset(pids)))

    async def at_random(
        self,
        faults: Sequence[Callable[[], Awaitable[object]]],
        until: asyncio.Event,
        pause_s: tuple[float, float],
    ) -> None:
        """Apply one fault after another, with pauses, until told to stop."""
        while not until.is_set():
            await self.dice.choice(faults)()
            await asyncio.sleep(self.dice.uniform(*pause_s))

    # -- workers --------------------------------------------------------------------------------

    def kill_worker(self, command: Command) -> None:
        """SIGKILL for one worker; its supervisor lives."""
        if workers := command.workers():
            pid = self.dice.choice(workers)
            _signal_group(pid, signal.SIGKILL, alone=True)
            self._note("worker killed", time.monotonic(), pids=[pid])

    def kill_group(self, command: Command) -> None:
        """SIGKILL for the supervisor, its workers and their pools: a host that is lost."""
        began_at, pids = time.monotonic(), command.living()
        for pid in (command.pid, *pids):
            _signal_group(pid, signal.SIGKILL)
        command.process.wait(5)
        self._note("group killed", began_at, pids=pids)

    def kill_supervisor(self, command: Command) -> None:
        """SIGKILL for the supervisor: its workers finish what they run, and leave."""
        command.signal(signal.SIGKILL)
        command.process.wait(5)
        self._note("supervisor killed", time.monotonic())

    def note_drain(self, began_at: float, unsettled: Sequence[int]) -> None:
        """Write down a drain, with the workers that left without telling Redis everything."""
        self._note("drained", began_at, pids=unsettled)

    async def stop_worker(
        self, command: Command, for_s: float, *, unseen: bool = False
    ) -> int | None:
        """SIGSTOP for one worker, and SIGCONT; return its pid.

        Its supervisor kills it when that takes long, unless that is stopped as well.
        """
        if not (workers := command.workers()):
            return None
        pid, began_at = self.dice.choice(workers), time.monotonic()
        pids = [pid, command.pid] if unseen else [pid]
        for one in pids:
            _signal_group(one, signal.SIGSTOP, alone=True)
        try:
            await asyncio.sleep(for_s)
        finally:
            for one in pids:
                _signal_group(one, signal.SIGCONT, alone=True)
            self._note("worker stopped", began_at, ANSWER_S, [pid])
        return pid

    # -- the server -----------------------------------------------------------------------------

    async def kill_server(self, for_s: float) -> None:
        began_at = time.monotonic()
        self.server.kill()
        await asyncio.sleep(for_s)
        await asyncio.to_thread(self.server.start)
        self._note("server killed", began_at, RECONNECT_S)

    async def hang_server(self, for_s: float) -> None:
        began_at = time.monotonic()
        self.server.signal(signal.SIGSTOP)
        try:
            await asyncio.sleep(for_s)
        finally:
            self.server.signal(signal.SIGCONT)
            self._note("server hung", began_at, RECONNECT_S)

    async def pause_server(self, for_s: float) -> None:
        """CLIENT PAUSE, which holds every command of every client."""
        began_at = time.monotonic()
        await self._ask("CLIENT", "PAUSE", round(for_s * 1000), "ALL")
        await asyncio.sleep(for_s)
        self._note("server paused", began_at, RECONNECT_S)

    async def kill_connections(self, every_s: float, times: int) -> None:
        """Close every connection of a client, again and again."""
        await self._repeat("connections killed", every_s, times, "CLIENT", "KILL", "TYPE", "normal")

    async def flush_scripts(self, every_s: float, times: int) -> None:
        await self._repeat("scripts flushed", every_s, times, "SCRIPT", "FLUSH")

    async def _repeat(self, kind: str, every_s: float, times: int, *words: str) -> None:
        began_at = time.monotonic()
        for _ in range(times):
            await self._ask(*words)
            await asyncio.sleep(every_s)
        self._note(kind, began_at, ANSWER_S)

    async def _ask(self, *words: str | int) -> None:
        # another fault may have taken the server away
        with suppress(redis.RedisError):
            await asyncio.to_thread(self.server.ask, *words)

    # -- the way --------------------------------------------------------------------------------

    async def lose_replies(
        self, proxy: Proxy, script: Script, times: int = 1, within_s: float = 10.0
    ) -> int:
        """Cut the connection instead of the next replies of a script; return how many it were."""
        end = time.monotonic() + within_s
        for lost in range(times):
            began_at = time.monotonic()
            proxy.lose_reply(script.sha)
            while not proxy.lost_all:
                if time.monotonic() > end:
                    proxy.lose_reply(script.sha, 0)
                    return lost
                await asyncio.sleep(0.005)
            self._note(f"{script.name} reply lost", began_at, ANSWER_S)
        return times

    async def blackhole(
        self, proxy: Proxy, commands: Sequence[Command], way: str, for_s: float
    ) -> None:
        """Hold what goes to the server (`asks`), to the clients (`answers`), or both (`open`)."""
        began_at = time.monotonic()
        passing: asyncio.Event = getattr(proxy, way)
        passing.clear()
        try:
            await asyncio.sleep(for_s)
        finally:
            passing.set()
            pids = [pid for command in commands for pid in command.spawned()]
            self._note(f"blackhole of {way}", began_at, RECONNECT_S, pids)

    async def slow_down(self, proxy: Proxy, delay_s: float, slice_bytes: int, for_s: float) -> None:
        """Let bytes pass late and in small pieces."""
        began_at = time.monotonic()
        proxy.delay_s, proxy.slice_bytes = delay_s, slice_bytes
        try:
            await asyncio.sleep(for_s)
        finally:
            proxy.delay_s, proxy.slice_bytes = 0.0, 0
            self._note("slow way", began_at, ANSWER_S)

    def reset(self, proxy: Proxy) -> None:
        proxy.cut(reset=True)
        self._note("connections reset", time.monotonic(), ANSWER_S)


def _signal_group(pid: int, number: signal.Signals, *, alone: bool = False) -> None:
    with suppress(ProcessLookupError):
        if alone:
            os.kill(pid, number)
        else:
            os.killpg(pid, number)
