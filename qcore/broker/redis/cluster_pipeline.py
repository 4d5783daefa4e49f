"""Pipelines that route by key to the nodes of a Cluster; and what all pipelines are asked for."""

import asyncio
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from redis.crc import key_slot

from qcore.broker.redis.call_limits import MAX_TIMEOUTS
from qcore.broker.redis.cluster import Cluster
from qcore.broker.redis.pipeline import Heard, NotAsked, Pipeline
from qcore.broker.redis.scripts import Call, Moved
from qcore.broker.redis.urls import Address
from qcore.broker.redis.wire import Command
from qcore.errors import BrokerError, BrokerUnavailable, ConfigError

#: A command may be sent on so often because its slot has moved; then its caller repeats.
_MOVES = 2


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
