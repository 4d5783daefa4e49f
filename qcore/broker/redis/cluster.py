"""A Cluster: which node has which slot, and which nodes are away."""

import asyncio
import random
from collections import Counter
from collections.abc import Collection, Iterable

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import RedisError

from qcore.broker.redis.connectors import STEP_S, Server
from qcore.broker.redis.scripts import Moved
from qcore.broker.redis.urls import Address, Hosts, bad_url, shown_url
from qcore.errors import BrokerError, BrokerUnavailable

#: Looks for a node that is away follow each other within this, at random.
_LOOK_MAX_S = 0.5
#: The first and the last of some slots, and their master.
_Range = tuple[int, int, Address]


class Node(Server):
    """One node; another may take over its slots."""

    fails_over = True

    def __init__(self, cluster: "Cluster", address: Address, url: str, *, timeout_s: float) -> None:
        super().__init__(url, timeout_s=timeout_s)
        self._cluster = cluster
        self._address = address

    async def has_successor(self, connection: AbstractConnection) -> bool:
        """Say whether it has no slot any more."""
        try:
            await self._cluster.look()
        except BrokerError:
            return False
        return not self._cluster.has_slots(self._address)


class Cluster:
    """The nodes of a Cluster and their slots, for all pipelines of a process.

    A node that failed counts as away until it answers again or has lost its slots: what is meant
    for it fails at once, so that a node that hangs holds up the queues of the others once only.
    """

    fails_over = True

    def __init__(self, url: str, *, timeout_s: float) -> None:
        hosts = Hosts.parse(url, port=6379)
        if hosts.path not in ((), ("0",)):
            raise bad_url(url, "a Cluster has only database 0, and no service name")
        self.shown = shown_url(url)
        self._hosts = hosts
        self._timeout_s = timeout_s
        self._servers: dict[Address, Node] = {}
        self._seeds = hosts.addresses
        for seed in self._seeds:
            self.server(seed)
        #: Slot -> its master.
        self._slots: dict[int, Address] = {}
        self._looking: asyncio.Task[None] | None = None
        self._away: dict[Address, asyncio.Task[None]] = {}

    def server(self, address: Address) -> Node:
        """Return the node that listens there."""
        if address not in self._servers:
            url = self._hosts.url(address)
            self._servers[address] = Node(self, address, url, timeout_s=self._timeout_s)
        return self._servers[address]

    async def open(self) -> None:
        """Do nothing: the Cluster is asked for its slots when they are needed."""

    async def close(self) -> None:
        """Stop looking for nodes."""
        tasks = [*self._away.values(), *([self._looking] if self._looking else [])]
        self._away.clear()
        self._looking = None
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def connect(self) -> AbstractConnection:
        """Return a new open connection to any node.

        Raises:
            BrokerUnavailable: no node can be reached.
        """
        nodes, failures = [*self._known()], list[str]()
        random.shuffle(nodes)
        for node in nodes:
            try:
                async with asyncio.timeout(STEP_S):
                    return await self.server(node).connect()
            except (RedisError, OSError) as e:
                failures.append(str(e))
        raise BrokerUnavailable(f"no node of {self.shown} answers: {'; '.join(failures)}")

    async def has_successor(self, connection: AbstractConnection) -> bool:
        """Say no: any node will do."""
        return False

    # -- slots ----------------------------------------------------------------------------------

    async def cover(self, slots: Collection[int | None]) -> None:
        """Look, at most once, if it is not known who has all of these slots.

        Raises:
            BrokerUnavailable: no node says.
        """
        if not self._slots or any(s is not None and s not in self._slots for s in slots):
            await self.look()

    def node_of(self, slot: int | None) -> Address | None:
        """Return the master of a slot, as far as is known; any master for None."""
        if slot is not None:
            return self._slots.get(slot)
        masters = set(self._slots.values())
        return min(masters - self._away.keys() or masters, default=None)

    def has_slots(self, node: Address) -> bool:
        """Whether a node is master of any slot, as far as is known."""
        return node in self._slots.values()

    def note_move(self, moved: Moved, sender: Address) -> None:
        """Remember where a slot has gone; others may have gone with it, so look, too."""
        # a node that does not know its own name leaves it out
        self._slots[moved.slot] = Address(moved.host or sender.host, moved.port)
        self._look()

    def note_refusal(self) -> None:
        """Look: a node does nothing at the moment, perhaps since another has its slots."""
        self._look()

    async def look(self) -> None:
        """Ask the nodes for their slots; callers of the moment share one look.

        Raises:
            BrokerUnavailable: no node says.
        """
        await asyncio.shield(self._look())

    def _look(self) -> "asyncio.Task[None]":
        if self._looking is None or self._looking.done():
            self._looking = asyncio.get_running_loop().create_task(self._ask_all())
            # nobody may wait for it
            self._looking.add_done_callback(lambda task: task.cancelled() or task.exception())
        return self._looking

    async def _ask_all(self) -> None:
        """Ask all nodes at once and believe most: one that is cut off tells what was before."""
        nodes = [n for n in self._known() if n not in self._away] or [*self._known()]
        asking = [asyncio.create_task(self._ask(node)) for node in nodes]
        failures: list[Exception] = []
        votes: Counter[frozenset[_Range]] = Counter()
        try:
            for answer in asyncio.as_completed(asking):
                try:
                    ranges = await answer
                except (RedisError, OSError) as e:
                    failures.append(e)
                    continue
                votes[ranges] += 1
                if 2 * votes[ranges] > len(nodes):
                    break
        finally:
            for task in asking:
                task.cancel()
            await asyncio.gather(*asking, return_exceptions=True)
        if votes:
            ((believed, _),) = votes.most_common(1)
            self._slots = {slot: at for a, b, at in believed for slot in range(a, b + 1)}
            return
        said = "; ".join(dict.fromkeys(str(f) or type(f).__name__ for f in failures))
        raise BrokerUnavailable(f"no node of {self.shown} tells the slots: {said}; check the URL")

    async def _ask(self, node: Address) -> frozenset[_Range]:
        return frozenset(
            # a node that does not know its own name leaves it out
            (first, last, Address((master[0] or b"").decode() or node.host, master[1]))
            for first, last, master, *_ in await self.server(node).ask("CLUSTER", "SLOTS")
        )

    def _known(self) -> Iterable[Address]:
        return dict.fromkeys((*self._slots.values(), *self._seeds))

    # -- nodes that are away --------------------------------------------------------------------

    def is_away(self, node: Address) -> bool:
        """Whether a node failed and has not answered since."""
        return node in self._away

    def note_failure(self, node: Address) -> None:
        """Hold a node for away, and look for it, and for who has its slots."""
        if node not in self._away:
            task = asyncio.get_running_loop().create_task(self._await_back(node))
            self._away[node] = task

    async def _await_back(self, node: Address) -> None:
        while True:
            try:
                await self.look()
                if self.has_slots(node):
                    await self._ask(node)  # it answers; what it says may be old
                break
            except (RedisError, OSError, BrokerError):
                await asyncio.sleep(random.uniform(0, _LOOK_MAX_S))
        self._away.pop(node, None)
