"""One process: claim -> execute -> settle, until it is told to stop."""

import asyncio
import os
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial

import anyio

from qcore.app import App
from qcore.broker.contract import Turn
from qcore.broker.outage import Outage
from qcore.context import Lifecycle
from qcore.errors import BrokerError
from qcore.runtime.host.memory import rss_bytes
from qcore.runtime.ipc.messages import Beat
from qcore.runtime.job_context import clean_context
from qcore.runtime.services import kept
from qcore.runtime.worker.capacity import Capacity, ClaimBudget
from qcore.runtime.worker.code_version import digest_of
from qcore.runtime.worker.execution import Executor
from qcore.runtime.worker.leases import LeaseKeeper
from qcore.runtime.worker.maintenance import Maintenance
from qcore.runtime.worker.process_pool import ProcessPool
from qcore.runtime.worker.record_writer import RecordWriter
from qcore.runtime.worker.running_job import Stop
from qcore.runtime.worker.running_jobs import RunningJobs
from qcore.runtime.worker.session import Session
from qcore.runtime.worker.stacks import dump
from qcore.runtime.worker.threads import Thread, Threads
from qcore.runtime.worker.timeouts import Timeouts
from qcore.runtime.worker.wakeup import WakeupListener
from qcore.settings import WorkerConfig, cleanup_s
from qcore.telemetry import log

#: A leaving worker wakes another one if Redis answers within this.
_PASS_ON_S = 0.5
#: Pause between the last tries of a stopping worker to reach Redis.
_LAST_TRIES_S = 0.2
#: Idle workers spread out over this when a scheduled job becomes due.
_SPREAD_S = (0.02, 0.05)
#: A quarantine process looks for the next job so often, and leaves when none came for so long.
_NEXT_QUARANTINED_S, _NO_QUARANTINED_S = 0.1, 2.0
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

    #: There may be more to claim.
    _more: bool = True
    _due: asyncio.TimerHandle | None = None
    #: Loop time by which this process must be done.
    _stop_at: float = 0.0
    _quarantined: int = 0
    #: Loop time since when this quarantine process has had none.
    _unused_since: float | None = None
    _is_quiet: bool = False
    _ready: bool = False
    _stopped: bool = False
    #: Loop time at which a claim was answered, or there was no room for one.
    _claimed_at: float | None = None

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
        broker = app.broker
        self._pool = ProcessPool(
            config.pool_size, app.config, pool_command, memory_bytes=config.memory_bytes
        )
        self._threads = Threads(config.threads, freed=self._look_again)
        self._session = Session(broker, config, owner, wake=self._look_again)
        self._capacity = Capacity(config, app.tasks.values())
        executor = self._executor()
        #: Something happened: a job ended, a wakeup came, a time has come.
        self._turn = asyncio.Event()
        self.jobs = RunningJobs(
            config,
            executor,
            self._session,
            self._capacity,
            turn=self._turn,
            look_again=self._look_again,
            emptied=self.drain,
        )
        self._leases = LeaseKeeper(
            broker,
            config,
            held=self.jobs.leases,
            renewed=self.jobs.trust,
            lost=self.jobs.lose,
            unwanted=partial(self.jobs.cancel, why=Stop.CANCELLED),
        )
        self._listener = self._new_listener()
        self._outage = Outage(broker.shown_url)
        self._stop, self._stop_now = asyncio.Event(), asyncio.Event()
        self._code = digest_of(app.tasks.values())

    def _executor(self) -> Executor:
        broker = self._app.broker
        return Executor(
            self._app.tasks,
            self._lifecycle,
            threads=self._threads,
            pool=self._pool,
            write_record=RecordWriter(broker, self._config).write,
            result_limit_bytes=broker.config.payload_limit_bytes,
        )

    def _new_listener(self) -> WakeupListener:
        return WakeupListener(
            self._app.broker,
            self._session,
            self._config,
            claimable=self._claimable,
            accept=self._hear,
            look=self._look_again,
        )

    # -- from outside ---------------------------------------------------------------------------

    async def run(self) -> None:
        """Work until `drain` or `stop_now`, and until everything has ended or the time is up.

        Raises:
            Exception: whatever the app's lifespan raises.
        """
        config = self._config
        log.info(
            "worker.started",
            owner=self._owner,
            queues=list(config.queues),
            concurrency=config.concurrency,
        )
        async with self._app.lifespan_state() as state:
            self._lifecycle.state = state
            try:
                async with anyio.create_task_group() as group:
                    group.start_soon(kept, "end", partial(self._wind_down, group.cancel_scope))
                    self._ready = True
                    services = self._services() | {"turns": partial(self._work, group.cancel_scope)}
                    # each job gets a copy of the context of whoever starts it
                    clean = clean_context()
                    for name, service in services.items():
                        clean.run(group.start_soon, kept, name, service)
            finally:
                await self._pool.close()
                await self._pass_on()
        self._stopped = self._stop.is_set()
        log.info("worker.stopped", done=self._session.done, unsettled=self._session.owed)

    def _services(self) -> dict[str, Callable[[], Awaitable[None]]]:
        """Return what goes on beside the turns, by the names that the log has for it."""
        maintenance = Maintenance(
            self._app.broker,
            self._config,
            self._claimable,
            self._see_quarantined,
            self._leases.renew,
        )
        return {
            "leases": self._leases.run,
            "cancels": self._leases.heed,
            "maintenance": maintenance.run,
            "timeouts": Timeouts(self.jobs).run,
            "wakeups": self._listener.run,
            "ends of waits": self._listener.end_waits,
        }

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
        self._listener.end()
        self._turn.set()
        log.info("worker.draining", running=len(self.jobs), timeout_s=limit_s)

    def stop_now(self) -> None:
        """Cancel what runs and release it uncharged, without waiting for it to finish."""
        self.drain()
        self._stop_now.set()

    def quiet(self) -> None:
        """Claim nothing until `resume`; what runs goes on, under renewed leases."""
        self._is_quiet = True
        self._listener.end()

    def resume(self) -> None:
        """Claim again after `quiet`."""
        self._is_quiet = False
        self._look_again()

    def dump(self) -> None:
        """Log the stacks of all jobs, tasks and threads."""
        dump(self.jobs.all(), asyncio.get_running_loop())

    def hung_threads(self) -> list[Thread]:
        """Return the threads of jobs that go on past their kill timeout; any thread may ask."""
        return self._threads.hung()

    def beat(self, loop_lag_s: float = 0.0) -> Beat:
        """Return the state of this process."""
        quarantined, self._quarantined = self._quarantined, 0
        return Beat(
            pid=os.getpid(),
            ready=self._ready,
            draining=self._stop.is_set(),
            stopped=self._stopped,
            running=len(self.jobs),
            done=self._session.done,
            rss_bytes=self._pool.shed(rss_bytes(os.getpid())),
            loop_lag_ms=round(loop_lag_s * 1000, 1),
            quarantined=quarantined,
            holding=bool(self.jobs) or not self._session.is_clear,
            unheard=not self.jobs and self._session.owes_only_waits,
            quiet=self._is_quiet,
            oldest=tuple(job.shown() for job in self.jobs.all()[:_OLDEST]),
            cpu_s=round(time.process_time(), 3),
            code=self._code,
            hung=len(self.hung_threads()),
            claim_age_s=self._claim_age_s(),
            taken=round(self._taken(), 3),
            settled=self._session.settled,
        )

    def _taken(self) -> float:
        slots = len(self.jobs) / self._config.concurrency
        return max(slots, self._threads.taken, self._pool.taken)

    def _claim_age_s(self) -> float | None:
        now = asyncio.get_running_loop().time()
        held = self.jobs or self._threads.hanging or self._is_quiet or self._stop.is_set()
        if held and self._budget() is None:
            self._claimed_at = now  # when there is room again, the next claim is not late yet
        return None if self._claimed_at is None else round(now - self._claimed_at, 3)

    # -- the turn -------------------------------------------------------------------------------

    async def _work(self, scope: anyio.CancelScope) -> None:
        """Take turns until stopped and everything is settled; then cancel what else goes on."""
        config, broker = self._config, self._app.broker
        backoff = broker.backoff(config.reconnect_min_s, config.reconnect_max_s)
        while not self._is_over():
            self._turn.clear()
            budget = self._budget()
            if budget and not (self._more or config.quarantined):
                self._listener.listen(budget)
            if self._listener.is_claiming:
                # one claim at a time: where it is time for one, that behind the wait is made
                if budget and self._more:
                    self._more = False
                    self._listener.end()
                budget = None
            if not (self._session.is_due or (budget and self._more)):
                await self._turn.wait()
                continue
            self._more = False
            try:
                turn = await self._session.take(budget)
            except BrokerError as e:
                self._more = True
                self._outage.goes_on(e)
                await self._rest(backoff.next_s())
            else:
                backoff.reset()
                self._outage.is_over()
                self._accept(turn, turn.sent_at)
                # what a lost claim had taken came first: the claim is yet to be made
                self._more = self._more or turn.postponed
        scope.cancel()

    def _is_over(self) -> bool:
        if not self._stop.is_set() or self._listener.is_claiming:
            return False
        # what a lost wait may have claimed has not run: whoever sees this process end takes it back
        return not self.jobs and self._session.owes_only_waits

    def _budget(self) -> ClaimBudget | None:
        """Return what may be claimed now."""
        if self._stop.is_set() or self._is_quiet:
            return None
        return self._capacity.budget(self._threads.hanging)

    async def _rest(self, limit_s: float) -> None:
        """Wait before the next try to reach Redis; while stopping there is little time to wait."""
        if self._stop.is_set():
            await anyio.sleep(min(limit_s, _LAST_TRIES_S))
        else:
            with anyio.move_on_after(limit_s):
                await self._stop.wait()

    def _hear(self, turn: Turn) -> None:
        """Take in what the claim behind a wait has brought: just now, and not when it was sent."""
        self._accept(turn, asyncio.get_running_loop().time())
        self._turn.set()

    def _accept(self, turn: Turn, claimed_at: float) -> None:
        self._leases.heard(turn.sent_at)
        unwanted = self._stop.is_set() or self._is_quiet
        self.jobs.start(turn.leases, turn.sent_at, claimed_at, unwanted=unwanted)
        if not turn.claimed:
            return
        self._claimed_at = asyncio.get_running_loop().time()
        self._see_quarantined(turn.quarantined)
        if self._due is not None:
            self._due.cancel()
        if self._config.quarantined:
            self._await_quarantined()
            return
        if turn.again_ms == 0:
            self._more = True
        elif turn.again_ms is not None:
            # the worker that was woken for a scheduled job is exact, the others let it go first
            spread_s = 0.0 if self._listener.woken else random.uniform(*_SPREAD_S)
            loop = asyncio.get_running_loop()
            self._due = loop.call_later(turn.again_ms / 1000 + spread_s, self._look_again)
        self._listener.woken = False

    def _await_quarantined(self) -> None:
        """Look again soon; leave when there has been nothing to do for a while."""
        loop = asyncio.get_running_loop()
        self._unused_since = None if self.jobs else self._unused_since or loop.time()
        if self._unused_since and loop.time() - self._unused_since > _NO_QUARANTINED_S:
            self.drain()
        else:
            wait_s = _NO_QUARANTINED_S if self.jobs else _NEXT_QUARANTINED_S
            self._due = loop.call_later(wait_s, self._look_again)

    def _see_quarantined(self, count: int) -> None:
        self._quarantined = max(self._quarantined, count)

    def _look_again(self) -> None:
        self._more = True
        self._turn.set()

    # -- waiting for work -----------------------------------------------------------------------

    def _claimable(self) -> set[str]:
        budget = self._budget()
        return set(budget.queues) if budget else set()

    async def _pass_on(self) -> None:
        """Set the wakeups again: this process may just have taken one that it cannot follow."""
        # a Redis that has let the time run out has no more of it: the supervisor is waiting
        is_late = self._stop.is_set() and asyncio.get_running_loop().time() >= self._stop_at
        with anyio.move_on_after(_PASS_ON_S / (10 if is_late else 1)), suppress(BrokerError):
            await self._app.broker.wakeups.pass_on(self._config.queues)

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
        self.jobs.cancel_all()
        await anyio.sleep(last_s / 2)
        self.jobs.abandon()
        self._turn.set()
        await anyio.sleep(stop_at - loop.time())
        scope.cancel()
