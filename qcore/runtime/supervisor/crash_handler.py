"""Takes back the jobs of a worker that ended, records how, and buries proven culprits."""

import asyncio
import signal
from collections.abc import Sequence
from contextlib import suppress

import anyio

from qcore.broker.redis.acquittal import acquit
from qcore.broker.redis.broker import Broker
from qcore.environment import host_name
from qcore.errors import BrokerError
from qcore.model.codec import decode_state, encode
from qcore.model.job import (
    ALONE,
    BESIDE_KEPT,
    AttemptError,
    Buried,
    Death,
    JobState,
    Lease,
    Outcome,
    Reclaimed,
)
from qcore.runtime.host.memory import BY_THE_KERNEL
from qcore.runtime.host.signals import signal_name
from qcore.runtime.supervisor.worker_process import WorkerProcess
from qcore.settings import WorkerConfig
from qcore.telemetry import log, log_reclaimed

#: Signals by which code ends its own process. Any other may have come from anywhere, and exit code
#: 1 is that of a worker which fails.
_OWN_SIGNALS = {
    signal.SIGABRT,
    signal.SIGBUS,
    signal.SIGFPE,
    signal.SIGILL,
    signal.SIGSEGV,
    signal.SIGSYS,
    signal.SIGTRAP,
}
#: Then the loss that makes so many leases, two of them in processes of its own, is the proof.
_LOSSES_PROVE = 5
#: A claim that was on its way when its process died is looked for again after this.
_SECOND_LOOK_S = 1.0
#: What nobody knows of is looked for so long by a supervisor that stops.
_UNHEARD_S = 2.0


class CrashHandler:
    """Takes back what worker processes held when they ended.

    Args:
        broker: Where the leases are.
        worker: What the processes were told to do.
    """

    def __init__(self, broker: Broker, worker: WorkerConfig) -> None:
        self._broker = broker
        self._worker = worker

    async def take_back(
        self, child: WorkerProcess, code: int, *, excused: bool, stopping: asyncio.Event
    ) -> None:
        """Reclaim what a gone child still held, now and later; wait for Redis.

        What is found later only was claimed by a call that outlived it. It never ran, so nothing
        is charged.

        Args:
            child: It is certainly gone.
            code: How it ended.
            excused: It was being stopped: nothing is charged, and nothing is concluded, unless it
                was killed for the sake of jobs that are known.
            stopping: This supervisor stops: it does not wait long for what is unlikely.
        """
        beat = child.beat if child.left_well else None
        if beat is not None and not beat.holding:
            return  # Redis may be away, and nothing is to be waited for
        # whoever it was killed for is charged also while it was being stopped
        charge = bool(child.culprits) or not (child.left_well or excused)
        is_unheard = beat is not None and beat.unheard
        with anyio.move_on_after(_UNHEARD_S if is_unheard and stopping.is_set() else None):
            await self._look(child, code, charge=charge)
            await anyio.sleep(_SECOND_LOOK_S)
            await self._look(child, code, charge=False)
            if beat is not None:
                # a wait of that process may go on at the server, with a claim behind it
                with anyio.move_on_after(self._worker.claiming_block_s):
                    await stopping.wait()
                await self._look(child, code, charge=False)

    async def _look(self, child: WorkerProcess, code: int, *, charge: bool) -> None:
        """Reclaim what it holds in every queue, as soon as Redis answers."""
        config, ids = self._worker, list[str]()
        left: Sequence[str] = config.queues
        backoff = self._broker.backoff(config.reconnect_min_s, config.reconnect_max_s)
        while True:
            if charge and not ids:
                ids = await self._ids_of(child)
            taken: dict[str, list[Reclaimed]] = {}
            for group in self._broker.groups(left):
                with suppress(BrokerError):  # the node of another queue may answer
                    if charge:
                        await self._write_down(child, code, group, ids)
                    taken |= await self._broker.reclaim_owner(
                        group,
                        child.owner,
                        charge=charge,
                        crash_limit=config.crash_limit,
                        culprits=child.culprits,
                    )
            for queue, reclaimed in taken.items():
                log_reclaimed(queue, reclaimed)
            left = [queue for queue in left if queue not in taken]
            if not left:
                return
            await anyio.sleep(backoff.next_s())

    async def _ids_of(self, child: WorkerProcess) -> list[str]:
        """Return the jobs that it ran, as far as Redis says now."""
        ids: list[str] = []
        for group in self._broker.groups(self._worker.queues):
            with suppress(BrokerError):  # what is not known of one job is missing beside the others
                ids += [lease.id for lease in await self._leases_of(child, group)]
        return ids

    async def _leases_of(self, child: WorkerProcess, queues: Sequence[str]) -> list[Lease]:
        lease_ms, prefix = round(self._worker.lease_s * 1000), f"{child.owner}:"
        return await self._broker.recover(queues, prefix, lease_ms, payloads=False)

    async def _write_down(
        self, child: WorkerProcess, code: int, queues: Sequence[str], ids: Sequence[str]
    ) -> None:
        """Add the end of the process to the records of its jobs; bury the one that is the cause."""
        guilty: list[tuple[Lease, Outcome]] = []
        others: list[tuple[Lease, bytes]] = []
        for lease in await self._leases_of(child, queues):
            death = _death_of(child, code, lease, ids)
            state = decode_state(lease.state).died(death)
            if _is_proven(child, code, lease, ids):
                guilty.append((lease, Buried(encode(_condemned(state, lease, death)))))
            else:
                others.append((lease, encode(state)))
        if others:
            await self._broker.update_records(others)
        if guilty:
            # first: once it is buried, nobody would find it here again
            await self._acquit_beside(guilty)
            lost = (await self._broker.turn(guilty, None)).lost
            for lease, _ in guilty:
                if lease.token not in lost:
                    how = _how(child, code, lease)
                    log.error(
                        "job.condemned", job=lease.id, queue=lease.queue, worker=child.name, how=how
                    )

    async def _acquit_beside(self, guilty: Sequence[tuple[Lease, Outcome]]) -> None:
        """Let those run together again that ran beside a culprit, each once."""
        for lease, _ in guilty:
            deaths = decode_state(lease.state).deaths
            for queue, id in await acquit(self._broker, self._worker.queues, deaths):
                log.info("job.acquitted", job=id, queue=queue, culprit=lease.id)


def _is_proven(child: WorkerProcess, code: int, lease: Lease, ids: Sequence[str]) -> bool:
    """Say whether this quarantined job ended its process: it was named, or was alone there."""
    if not child.is_quarantine:
        return False
    if child.culprits:
        return child.blames_jobs and lease.token in child.culprits
    if lease.crashes < ALONE or len(ids) > 1:
        return False
    if child.killed_for:
        return child.blames_jobs
    is_proof = -code in _OWN_SIGNALS if code < 0 else code != 1
    return is_proof or lease.crashes + 1 >= _LOSSES_PROVE


def _how(child: WorkerProcess, code: int, lease: Lease) -> str:
    """Say how a process ended, to whoever reads it beside one of its jobs."""
    if code >= 0:
        return f"exit {code}"
    how = signal_name(-code)
    if not child.killed_for:
        is_kernel = code == -signal.SIGKILL and child.lacked_memory
        return f"{how}, {BY_THE_KERNEL}" if is_kernel else how
    is_exempt = child.culprits and lease.token not in child.culprits
    for_whom = ", for another job" if is_exempt else ""
    return f"{how} by its supervisor{for_whom}: {child.killed_for}"


def _death_of(child: WorkerProcess, code: int, lease: Lease, ids: Sequence[str]) -> Death:
    others = [id for id in ids[: BESIDE_KEPT + 1] if id != lease.id]
    return Death(
        _how(child, code, lease),
        child.name,
        host_name(),
        child.process.pid,
        child.peak_rss_bytes,
        max(1, len(ids)),
        tuple(others[:BESIDE_KEPT]),
        child.is_quarantine,
    )


def _condemned(state: JobState, lease: Lease, death: Death) -> JobState:
    is_alone = death.jobs == 1
    whose = "had the process for itself" if is_alone else f"ran beside {death.jobs - 1} others"
    text = (
        f"{death.how}; it {whose}, after {lease.crashes} lost "
        f"leases ({death.worker}, pid {death.pid} on {death.host}, memory at "
        f"its peak {death.peak_rss_bytes / 1e6:.0f} MB)"
    )
    at_ms = lease.claimed_ms
    error = AttemptError(
        state.failures + 1, "ProcessDied", text, at_ms, at_ms, death.host, death.pid
    )
    return state.failed(error, charge=False)
