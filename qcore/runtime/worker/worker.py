"""One process: claim -> execute -> settle, until it is told to stop."""

import asyncio
import os
import random
import time
from collections.abc import Sequence
from contextlib import suppress
from functools import partial

import anyio

from qcore.app import App
from qcore.broker.redis.script_codec import Turn
from qcore.config import WorkerConfig, cleanup_s
from qcore.context import Lifecycle
from qcore.errors import BrokerError
from qcore.model.job import Acked, Lease, Outcome, Released
from qcore.runtime.host.memory import rss_bytes
from qcore.runtime.ipc.messages import Beat
from qcore.runtime.ipc.run_counts import RunCounts
from qcore.runtime.job_context import clean_context
from qcore.runtime.services import kept
from qcore.runtime.worker.capacity import Room, Slots
from qcore.runtime.worker.code_version import digest_of
from qcore.runtime.worker.execution import Executor
from qcore.runtime.worker.leases import LeaseKeeper
from qcore.runtime.worker.maintenance import Maintenance
from qcore.runtime.worker.process_pool import ProcessPool
from qcore.runtime.worker.record_writer import Notes
from qcore.runtime.worker.running_job import Running, Stop
from qcore.runtime.worker.session import Exchange
from qcore.runtime.worker.stacks import dump
from qcore.runtime.worker.threads import Thread, Threads
from qcore.runtime.worker.timeouts import Deadlines
from qcore.runtime.worker.wakeup import Listener
from qcore.telemetry import current_job, log

#: A leaving worker wakes another one if Redis answers within this.
_PASS_ON_S = 0.5
#: Pause between the last tries of a stopping worker to reach Redis.
_LAST_TRIES_S = 0.2
#: Idle workers spread out over this when a scheduled job becomes due.
_SPREAD_S = (0.02, 0.05)
#: An exclusive job trusts its lease for this share of it; the rest is for its cleanup.
_TRUST_SHARE = 0.9
#: A process for suspects looks for the next one so often, and leaves when none came for so long.
_NEXT_SUSPECT_S, _NO_SUSPECT_S = 0.1, 2.0
#: A beat names so many of the jobs that run.
_OLDEST = 3


class Worker:
    """Runs the jobs of some queues of an app, `concurrency` at a time.

    One call on Redis is in flight at most: it settles everything that ended meanwhile and fills
    the free slots. A full or idle worker sends nothing but renewals and chores.

    Args:
        app: An open app.
        config: Queues, slots and clocks.
        owner: 16 hex digits, fresh for this process: every lease it takes begins with them.
        pool_command: What starts a process for `run_in="process"` tasks; none without such.
    """

    def __init__(
        self,
        app: App,
        config: WorkerConfig,
        *,
        owner: str,
        pool_command: Sequence[str] = (),
    ) -> None:
        self._app = app
        self._config = config
        self._owner = owner
        self._lifecycle = Lifecycle()
        self._pool = ProcessPool(
            config.pool_size, app.config, pool_command, memory_bytes=config.memory_bytes
        )
        self._threads = Threads(config.threads, freed=self._look_again)
        self._executor = Executor(
            app.tasks,
            self._lifecycle,
            threads=self._threads,
            pool=self._pool,
            note=Notes(app.broker, config).write,
            result_limit_bytes=app.broker.config.payload_limit_bytes,
        )
        self._exchange = Exchange(app.broker, config, owner, wake=self._look_again)
        self._keeper = LeaseKeeper(
            app.broker,
            config,
            held=self._held,
            renewed=self._trust,
            lost=self._lose,
            unwanted=partial(self._cancel, why=Stop.CANCELLED),
        )
        self._slots = Slots(config, app.tasks.values())
        self._running: dict[bytes, Running] = {}
        #: How long an exclusive job trusts its lease from the call that gave or renewed it.
        self._trust_s = config.lease_s * _TRUST_SHARE
        #: There may be more to claim.
        self._more = True
        #: Something happened: a job ended, a marker came, a time has come.
        self._turn = asyncio.Event()
        self._listener = Listener(
            app.broker, config, claimable=self._claimable, look=self._look_again
        )
        self._due: asyncio.TimerHandle | None = None
        self._stop = asyncio.Event()
        self._stop_now = asyncio.Event()
        #: Loop time by which this process must be done.
        self._stop_at = 0.0
        #: Jobs given up at the end that still run: only the end of the process ends them.
        self.abandoned = 0
        #: Runs that ended and were not told to the supervisor yet.
        self.run_counts = RunCounts()
        #: Loop time, once there is a loop.
        self._clock = time.monotonic
        self._suspects = 0
        #: Loop time since when this process for suspects has had none.
        self._unused_since: float | None = None
        self._is_quiet = False
        self._code = digest_of(app.tasks.values())
        self._ready = self._stopped = False
        self._away_since: float | None = None
        #: Loop time at which a claim was answered, or there was no room for one.
        self._claimed_at: float | None = None

    # -- from outside ---------------------------------------------------------------------------

    async def run(self) -> None:
        """Work until `drain` or `stop_now`, and until everything has ended or the time is up.

        Raises:
            Exception: whatever the app's lifespan raises.
        """
        self._clock = asyncio.get_running_loop().time
        config = self._config
        log.info(
            "worker.started",
            owner=self._owner,
            queues=list(config.queues),
            concurrency=config.concurrency,
        )
        services = {
            "leases": self._keeper.run,
            "wishes": self._keeper.heed,
            "maintenance": Maintenance(
                self._app.broker, config, self._claimable, self._see_suspects, self._keeper.renew
            ).run,
            "deadlines": Deadlines(self.jobs, self._end).run,
            "listener": self._listener.run,
        }
        async with self._app.lifespan_state() as state:
            self._lifecycle.state = state
            try:
                async with anyio.create_task_group() as group:
                    for name, service in services.items():
                        group.start_soon(kept, name, service)
                    group.start_soon(kept, "end", partial(self._wind_down, group.cancel_scope))
                    self._ready = True
                    # each job gets a copy of the context of whoever starts it
                    turns = partial(self._work, group.cancel_scope)
                    clean_context().run(group.start_soon, kept, "turns", turns)
            finally:
                await self._pool.close()
                await self._pass_on()
        self._stopped = self._stop.is_set()
        log.info("worker.stopped", done=self._exchange.done, unsettled=self._exchange.owed)

    def drain(self, timeout_s: float | None = None) -> None:
        """Stop claiming and finish what runs; what is left at the end is released uncharged.

        Args:
            timeout_s: Seconds for all of it, the configured shutdown timeout by default. A second
                call changes nothing.
        """
        if self._stop.is_set():
            return
        limit_s = self._config.shutdown_timeout_s if timeout_s is None else timeout_s
        self._stop_at = asyncio.get_running_loop().time() + limit_s
        self._lifecycle.shutdown_requested = True
        self._stop.set()
        self._turn.set()
        log.info("worker.draining", running=len(self._running), timeout_s=limit_s)

    def stop_now(self) -> None:
        """Cancel what runs and release it uncharged, without waiting for it to finish."""
        self.drain()
        self._stop_now.set()

    def quiet(self) -> None:
        """Claim nothing until `resume`; what runs goes on, under renewed leases."""
        self._is_quiet = True

    def resume(self) -> None:
        """Claim again after `quiet`."""
        self._is_quiet = False
        self._look_again()

    def dump(self) -> None:
        """Log the stacks of all jobs, tasks and threads."""
        dump(self.jobs(), asyncio.get_running_loop())

    def jobs(self) -> list[Running]:
        """Return the jobs that run now; any thread may ask."""
        return list(self._running.values())

    def hung_threads(self) -> list[Thread]:
        """Return the threads of jobs that go on past their kill timeout; any thread may ask."""
        return self._threads.hung()

    def beat(self, loop_lag_s: float = 0.0) -> Beat:
        """Return the state of this process."""
        suspects, self._suspects = self._suspects, 0
        return Beat(
            pid=os.getpid(),
            ready=self._ready,
            draining=self._stop.is_set(),
            stopped=self._stopped,
            running=len(self._running),
            done=self._exchange.done,
            rss_bytes=self._pool.shed(rss_bytes(os.getpid())),
            loop_lag_ms=round(loop_lag_s * 1000, 1),
            suspects=suspects,
            holding=bool(self._running) or not self._exchange.is_clear,
            quiet=self._is_quiet,
            oldest=tuple(job.shown() for job in self.jobs()[:_OLDEST]),
            cpu_s=round(time.process_time(), 3),
            code=self._code,
            hung=len(self.hung_threads()),
            claim_age_s=self._claim_age_s(),
            taken=round(self._taken(), 3),
            settled=self._exchange.settled,
        )

    def _taken(self) -> float:
        slots = len(self._running) / self._config.concurrency
        return max(slots, self._threads.taken, self._pool.taken)

    def _claim_age_s(self) -> float | None:
        now = asyncio.get_running_loop().time()
        held = self._running or self._threads.hanging or self._is_quiet or self._stop.is_set()
        if held and self._room() is None:
            self._claimed_at = now  # when there is room again, the next claim is not late yet
        return None if self._claimed_at is None else round(now - self._claimed_at, 3)

    # -- the turn -------------------------------------------------------------------------------

    async def _work(self, scope: anyio.CancelScope) -> None:
        """Take turns until stopped and everything is settled; then cancel what else goes on."""
        config, broker = self._config, self._app.broker
        backoff = broker.backoff(config.reconnect_least_s, config.reconnect_most_s)
        while not self._is_over():
            self._turn.clear()
            room = self._room()
            if not (self._exchange.is_due or (room and self._more)):
                if room and not config.suspects:
                    self._listener.listen()
                await self._turn.wait()
                continue
            self._more = False
            try:
                turn = await self._exchange.take(room)
            except BrokerError as e:
                self._more = True
                self._mark_away(e)
                await self._rest(backoff.next_s())
            else:
                backoff.reset()
                self._mark_back()
                self._accept(turn)
                # what a lost claim had taken came first: the claim is yet to be made
                self._more = self._more or turn.postponed
        scope.cancel()

    def _is_over(self) -> bool:
        return self._stop.is_set() and not self._running and self._exchange.is_clear

    def _room(self) -> Room | None:
        """Return what may be claimed now."""
        if self._stop.is_set() or self._is_quiet:
            return None
        return self._slots.room(self._threads.hanging)

    async def _rest(self, limit_s: float) -> None:
        """Wait before the next try to reach Redis; while stopping there is little time to wait."""
        if self._stop.is_set():
            await anyio.sleep(min(limit_s, _LAST_TRIES_S))
        else:
            with anyio.move_on_after(limit_s):
                await self._stop.wait()

    def _accept(self, turn: Turn) -> None:
        self._keeper.heard(turn.sent_at)
        self._start(turn.leases, turn.sent_at)
        if not turn.claimed:
            return
        self._claimed_at = asyncio.get_running_loop().time()
        self._see_suspects(turn.suspects)
        if self._due is not None:
            self._due.cancel()
        if self._config.suspects:
            self._await_suspects()
            return
        if turn.again_ms == 0:
            self._more = True
        elif turn.again_ms is not None:
            # the worker that was woken for a scheduled job is exact, the others let it go first
            spread_s = 0.0 if self._listener.woken else random.uniform(*_SPREAD_S)
            loop = asyncio.get_running_loop()
            self._due = loop.call_later(turn.again_ms / 1000 + spread_s, self._look_again)
        self._listener.woken = False

    def _await_suspects(self) -> None:
        """Look again soon; leave when there has been nothing to do for a while."""
        loop = asyncio.get_running_loop()
        self._unused_since = None if self._running else self._unused_since or loop.time()
        if self._unused_since and loop.time() - self._unused_since > _NO_SUSPECT_S:
            self.drain()
        else:
            wait_s = _NO_SUSPECT_S if self._running else _NEXT_SUSPECT_S
            self._due = loop.call_later(wait_s, self._look_again)

    def _see_suspects(self, count: int) -> None:
        self._suspects = max(self._suspects, count)

    def _look_again(self) -> None:
        self._more = True
        self._turn.set()

    # -- jobs -----------------------------------------------------------------------------------

    def _start(self, leases: Sequence[Lease], claimed_at: float) -> None:
        create_task = asyncio.get_running_loop().create_task
        trusted_until = claimed_at + self._trust_s
        for lease in leases:
            if self._stop.is_set() or (self._config.suspects and not self._slots.admit(lease)):
                # claimed while the order to stop came: back to the head of its queue
                self._exchange.add(lease, Released())
                continue
            running = Running(lease, claimed_at, trusted_until)
            self._running[lease.token] = running
            self._slots.take(lease)
            running.task = create_task(self._execute(running))

    async def _execute(self, running: Running) -> None:
        current_job.set(running)
        try:
            outcome = await self._executor.execute(running)
        except BaseException as e:  # noqa: BLE001 - whatever a task raises is its outcome
            # caught nowhere deeper: a GeneratorExit of a future closes all coroutines but this one
            outcome = self._executor.outcome_of(e, running)
        self._end(running, outcome)

    def _end(self, running: Running, outcome: Outcome | None) -> None:
        if self._running.pop(running.lease.token, None) is None:
            return  # given up at shutdown, its lease is released
        # its context holds the job for log lines: a circle, which only the collector would end
        running.task = None
        self._slots.give(running.lease)
        took_s = self._clock() - running.claimed_at
        self.run_counts.count(running.lease.queue, running.task_name, outcome, took_s)
        if outcome is None:
            self._look_again()  # a slot is free, and no settle brings a claim along
        else:
            self._exchange.add(running.lease, outcome)
        if self._config.suspects and not (running.stop is None and isinstance(outcome, Acked)):
            self._slots.closed = True
        if self._slots.closed and not self._running:
            self.drain()
        self._turn.set()

    def _held(self) -> list[Lease]:
        return [*(r.lease for r in self._running.values()), *self._exchange.leases()]

    def _trust(self, leases: Sequence[Lease], sent_at: float) -> None:
        """Let exclusive jobs trust leases that were renewed by a call of that time."""
        for lease in leases:
            if running := self._running.get(lease.token):
                running.trusted_until = sent_at + self._trust_s

    def _lose(self, token: bytes) -> None:
        if token in self._running:  # else it has ended, and its settle says what became of it
            lease = self._running[token].lease
            log.warning("lease.lost", job=lease.id, queue=lease.queue)
            self._cancel(token, Stop.LEASE_LOST)

    def _cancel(self, token: bytes, why: Stop) -> None:
        if token in self._running:
            self._running[token].cancel(why)

    # -- waiting for work -----------------------------------------------------------------------

    def _claimable(self) -> set[str]:
        room = self._room()
        return set(room.queues) if room else set()

    async def _pass_on(self) -> None:
        """Set the markers again: this process may just have taken one that it cannot follow."""
        # a Redis that has let the time run out has no more of it: the supervisor is waiting
        is_late = self._stop.is_set() and asyncio.get_running_loop().time() >= self._stop_at
        with anyio.move_on_after(_PASS_ON_S / (10 if is_late else 1)), suppress(BrokerError):
            await self._app.broker.pass_on(self._config.queues)

    # -- the end --------------------------------------------------------------------------------

    async def _wind_down(self, scope: anyio.CancelScope) -> None:
        """After the order to stop: let jobs finish, cancel them, give up on the rest, leave."""
        await self._stop.wait()
        loop = asyncio.get_running_loop()
        left_s = self._stop_at - loop.time()
        last_s = cleanup_s(left_s)
        with anyio.move_on_after(left_s - last_s):
            await self._stop_now.wait()
        stop_at = loop.time() + last_s
        for running in list(self._running.values()):
            # nobody can stop a thread: it may finish yet, and is given back as the last act
            if not running.in_thread:
                running.cancel(Stop.SHUTDOWN)
        await anyio.sleep(last_s / 2)
        for running in list(self._running.values()):
            # a thread, or a task that swallows its cancellation
            lease = running.lease
            log.warning("job.abandoned", job=lease.id, task=running.task_name, queue=lease.queue)
            self.abandoned += 1
            if running.exclusive:
                # nobody else may have it while it runs: its lease is renewed to the last, and the
                # supervisor takes it back, uncharged, when this process is gone
                continue
            del self._running[running.lease.token]
            self._exchange.add(running.lease, Released())
        self._turn.set()
        await anyio.sleep(stop_at - loop.time())
        scope.cancel()

    # -- Redis away and back --------------------------------------------------------------------

    def _mark_away(self, error: BrokerError) -> None:
        if self._away_since is None:
            self._away_since = time.monotonic()
            log.error("broker.lost", url=self._app.broker.shown_url, error=str(error))

    def _mark_back(self) -> None:
        if self._away_since is not None:
            away_s = round(time.monotonic() - self._away_since, 3)
            log.warning("broker.regained", url=self._app.broker.shown_url, away_s=away_s)
            self._away_since = None
