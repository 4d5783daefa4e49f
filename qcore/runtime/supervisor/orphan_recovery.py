"""Workers whose supervisor was killed: when they are gone too, what they held is taken back."""

from collections import Counter
from collections.abc import Sequence
from contextlib import suppress

import anyio

from qcore.broker.redis.broker import Broker
from qcore.broker.redis.fleet import Fleet
from qcore.environment import host_name
from qcore.errors import BrokerError
from qcore.model.views import Member
from qcore.runtime.host.machine import is_there, is_working, machine
from qcore.settings import WorkerConfig
from qcore.telemetry import log, log_reclaimed

#: Between two looks at who is gone; a claim that was on its way is found by the second one.
_LOOK_S = 1.0
_LOOKS = 2


class OrphanRecovery:
    """Takes over from supervisors of this machine that could not say that they end.

    They and their workers are known from the registry. A worker that nobody saw end is charged as
    the end of its leases would, only sooner: its job may have been the cause. One that still
    finishes its jobs keeps them.

    Args:
        broker: Where the registry and the leases are.
        worker: Reconnect times and the crash limit.
    """

    def __init__(self, broker: Broker, worker: WorkerConfig) -> None:
        self._broker = broker
        self._worker = worker
        self._fleet = Fleet(broker)
        #: Looks for what each owner held in each queue, after it was gone.
        self._looks = Counter[tuple[str, str]]()

    async def run(self) -> None:
        """Look once for dead supervisors, and see to the end of all their workers."""
        config, left = self._worker, None
        backoff = self._broker.backoff(config.reconnect_min_s, config.reconnect_max_s)
        while left is None or left:
            try:
                left = await self._find() if left is None else left
                left = [member for member in left if not await self._succeed(member)]
            except BrokerError:
                await anyio.sleep(backoff.next_s())
            else:
                backoff.reset()
                await anyio.sleep(_LOOK_S)

    async def _find(self) -> list[Member]:
        near = machine(), host_name()
        if not machine():
            return []
        found = [m for m in await self._fleet.members() if (m.view.machine, m.view.host) == near]
        gone = [member for member in found if not is_there(member.view.pid)]
        for member in gone:
            view = member.view
            log.warning("supervisor.lost", name=view.name, pid=view.pid, workers=len(view.workers))
        return gone

    async def _succeed(self, member: Member) -> bool:
        """Take back what workers that are gone held; when all are, forget their supervisor."""
        # one of an older version names no owners: its leases end by themselves
        workers = [worker for worker in member.view.workers if worker.owner]
        held = [(worker.owner, queue) for worker in workers for queue in member.view.queues]
        for worker in workers:
            if not is_working(worker.pid):
                await self._look(worker.owner, member.view.queues)
        if any(self._looks[each] < _LOOKS for each in held):
            return False
        await self._fleet.forget([member.id])
        return True

    async def _look(self, owner: str, queues: Sequence[str]) -> None:
        """Take back what it held, in each queue that was not looked at often enough."""
        looks = {queue: self._looks[owner, queue] for queue in queues}
        for looked in range(_LOOKS):
            due = [queue for queue in queues if looks[queue] == looked]
            for group in self._broker.groups(due) if due else ():
                with suppress(BrokerError):  # the node of another queue may answer
                    taken = await self._broker.reclaim_owner(
                        group,
                        owner,
                        charge=not looked,  # what is found later only has never run
                        crash_limit=self._worker.crash_limit,
                    )
                    for queue, reclaimed in taken.items():
                        log_reclaimed(queue, reclaimed)
                        self._looks[owner, queue] += 1
