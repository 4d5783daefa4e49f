"""A Cluster: which node has which slot, which nodes are away, and pipelines that route by key."""

import asyncio
import random
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from redis.asyncio.connection import AbstractConnection
from redis.crc import key_slot
from redis.exceptions import RedisError

from qcore.broker.redis.call_limits import MAX_TIMEOUTS
from qcore.broker.redis.connectors import STEP_S, Server
from qcore.broker.redis.pipeline import Heard, NotAsked, Pipeline
from qcore.broker.redis.scripts import Call, Moved
from qcore.broker.redis.urls import Address, Hosts, bad_url, shown_url
from qcore.broker.redis.wire import Command
from qcore.errors import BrokerError, BrokerUnavailable, ConfigError

#: Looks for a node that is away follow each other within this, at random.
_LOOK_MAX_S = 0.5
#: A command may be sent on so often because its slot has moved; then its caller repeats.
_MOVES = 2
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


class ClusterPipeline:
    """Sends each command to the node of its key, over one `Pipeline` per node.

    The nodes are asked at the same time. What one of them does not answer is an error in the
    place of its commands; the others' replies stand.
    """

    def __init__(self, cluster: Cluster, timeout_s: float) -> None:
        self._cluster = cluster
        self.timeout_s = timeout_s
        self._pipelines: dict[Address, Pipeline] = {}

    async def send(
        self,
        commands: Sequence[Call | Command],
        *,
        timeout_s: float | None = None,
        blocks: bool = False,
    ) -> list[Any]:
        """Send all commands, those of one node in one write, and return their replies in order.

        Args:
            commands: Scripts or plain commands; the key of a plain one is its second word. One
                without goes where the one before it went. One that blocks is not sent on when its
                slot has moved: it has less time by then, so its reply is Moved.
            timeout_s: For everything together; see `Pipeline.send`.
            blocks: See `Pipeline.send`.

        Raises:
            ConfigError: a setting of the connection is wrong. Any other failure stands in the
                place of each command that it befell.
        """
        max_s = MAX_TIMEOUTS * self.timeout_s if timeout_s is None else timeout_s
        end = asyncio.get_running_loop().time() + max_s
        replies: list[Any] = [None] * len(commands)
        pending: list[int] = [*range(len(commands))]
        leaders = _leaders_of(commands)
        slots = [_slot_of(commands[i]) for i in leaders]
        for _ in range(_MOVES + 1):
            nodes = await self._nodes_of({i: slots[i] for i in pending}, replies, end)
            await asyncio.gather(
                *(
                    self._send_to(node, at, commands, replies, end, blocks=blocks)
                    for node, at in nodes.items()
                )
            )
            # what followed a command that moved, a WAIT, spoke of the wrong node
            moved = [i for i in pending if isinstance(replies[leaders[i]], Moved)]
            pending = [i for i in moved if not _blocks(commands[i])]
            if not pending:
                break
        return replies

    async def _nodes_of(
        self, slots: Mapping[int, int | None], replies: list[Any], end: float
    ) -> dict[Address, list[int]]:
        """Return the places of the commands by their nodes; an error is a reply already."""
        why: BrokerError | None = None
        try:
            async with asyncio.timeout_at(end), asyncio.timeout(self.timeout_s):
                await self._cluster.cover(slots.values())
        except BrokerError as e:
            why = e
        except TimeoutError:
            why = BrokerUnavailable(f"no node of {self._cluster.shown} answers")
        nodes: defaultdict[Address, list[int]] = defaultdict(list)
        for place, slot in slots.items():
            node = self._cluster.node_of(slot)
            if node is None:
                replies[place] = why or BrokerUnavailable(
                    f"no node of {self._cluster.shown} has slot {slot}: repair the Cluster"
                )
            else:
                nodes[node].append(place)
        return nodes

    async def _send_to(
        self,
        node: Address,
        places: list[int],
        commands: Sequence[Call | Command],
        replies: list[Any],
        end: float,
        *,
        blocks: bool,
    ) -> None:
        """Put the replies of one node, or its failure, into their places."""
        found: Sequence[Any]
        shown, left_s = self._cluster.shown, end - asyncio.get_running_loop().time()
        try:
            if self._cluster.is_away(node):
                raise NotAsked(f"the node {node} of {shown} is away")
            if left_s <= 0:
                raise NotAsked(f"no time was left to ask the node {node} of {shown}")
            asked = [commands[i] for i in places]
            found = await self._pipeline(node).send(asked, timeout_s=left_s, blocks=blocks)
        except ConfigError:
            raise
        except BrokerError as e:
            # neither one that was not asked, nor one that refuses this client
            if isinstance(e, BrokerUnavailable) and not isinstance(e, NotAsked):
                self._cluster.note_failure(node)
            found = [e] * len(places)
        for i, reply in zip(places, found, strict=True):
            replies[i] = reply
            if isinstance(reply, Moved):
                self._cluster.note_move(reply, node)
            elif isinstance(reply, BrokerUnavailable) and not isinstance(reply, NotAsked):
                self._cluster.note_refusal()

    def begin(self, commands: Sequence[Call | Command], heard: Heard, *, max_s: float) -> bool:
        """Send nothing: who has their slots may have to be asked."""
        return False

    def _pipeline(self, node: Address) -> Pipeline:
        if node not in self._pipelines:
            self._pipelines[node] = Pipeline(self._cluster.server(node), self.timeout_s)
        return self._pipelines[node]

    async def close(self) -> None:
        """Close all connections after the calls in flight."""
        for pipeline in list(self._pipelines.values()):
            await pipeline.close()

    def drop(self) -> None:
        """Close all connections at once; calls in flight fail."""
        for pipeline in list(self._pipelines.values()):
            pipeline.drop()


async def answers(
    pipeline: Pipeline | ClusterPipeline,
    commands: Sequence[Call | tuple[object, ...]],
    *,
    timeout_s: float | None = None,
) -> list[Any]:
    """Send commands over a pipeline; raise the first error among the replies."""
    replies = await pipeline.send(commands, timeout_s=timeout_s)
    if failures := [reply for reply in replies if isinstance(reply, BrokerError)]:
        raise failures[0]
    return replies


async def answered(
    pipeline: Pipeline | ClusterPipeline, queues: Sequence[str], calls: Sequence[Call]
) -> dict[str, Any]:
    """Send a call for each queue; return the replies of those that did not fail.

    Raises:
        BrokerError: all failed.
    """
    replies = dict(zip(queues, await pipeline.send(calls), strict=True))
    found = {queue: reply for queue, reply in replies.items() if not isinstance(reply, BrokerError)}
    if not found:
        raise next(iter(replies.values()))
    return found


def _leaders_of(commands: Sequence[Call | Command]) -> list[int]:
    """Return which command says where each goes: itself, or for one without a key the last with."""
    leaders: list[int] = []
    for i, command in enumerate(commands):
        keyed = isinstance(command, Call) or (len(command) > 1 and command[0] not in _KEYLESS)
        leaders.append(i if keyed or not leaders else leaders[-1])
    return leaders


def _blocks(command: Call | Command) -> bool:
    return not isinstance(command, Call) and command[0] == b"BZPOPMIN"


def _slot_of(command: Call | Command) -> int | None:
    """Return the slot of a command's key; None without one."""
    if isinstance(command, Call):
        return key_slot(command.keys[0])
    if len(command) < 2 or command[0] in _KEYLESS:
        return None
    return key_slot(command[1] if isinstance(command[1], bytes) else str(command[1]).encode())


#: Commands whose second word is no key.
_KEYLESS = frozenset((b"WAIT", b"CLIENT", b"CONFIG", b"INFO", b"SCAN", b"SCRIPT"))
