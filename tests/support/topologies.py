"""Real Sentinels and Clusters for tests: on loopback, in a folder of the test, ended by pid."""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import redis
from redis.crc import key_slot

from tests.support.servers import START_S, Server

SERVICE = "qcore"
#: A server that does not answer for so long is taken for down.
DOWN_MS = 1000
DATA = {
    "appendonly": "yes",
    "repl-diskless-sync": "yes",
    "repl-diskless-sync-delay": "0",
    "repl-ping-replica-period": "1",
}


def until(what: str, check: Callable[[], object], limit_s: float = START_S) -> None:
    """Wait for a state of servers, which may refuse or fail to answer meanwhile."""
    end = time.monotonic() + limit_s
    while True:
        try:
            if check():
                return
        except (redis.RedisError, OSError, StopIteration):
            pass
        assert time.monotonic() < end, f"not within {limit_s:g} s: {what}"
        time.sleep(0.02)


def of_pairs(flat: list[Any]) -> dict[str, Any]:
    return dict(zip(flat[::2], flat[1::2], strict=True))


def is_replica_in_sync(server: Server) -> bool:
    return server.ask("INFO", "replication").get("master_link_status") == "up"


class Sentinel(Server):
    """One Sentinel of a service; its options stand in a file, which it rewrites itself."""

    def words(self, port: int) -> list[str]:
        file = self.folder / "conf"
        own = {
            "bind": "127.0.0.1",
            "port": port,
            "dir": self.folder,
            "logfile": self.folder / "log",
        }
        lines = [f"{name} {value}" for name, value in (own | self.options).items()]
        if not file.exists():
            file.write_text("\n".join(lines))
        return [str(file), "--sentinel"]


class SentinelSet:
    """One master, two replicas and three Sentinels that watch them."""

    def __init__(self, folder: Path, options: Mapping[str, str] | None = None) -> None:
        options = {**DATA, **(options or {})}
        self.servers = [Server(folder / f"data{i}", options) for i in range(3)]
        self.sentinels: list[Sentinel] = []
        self._folder = folder

    @property
    def url(self) -> str:
        hosts = ",".join(f"127.0.0.1:{s.port}" for s in self.sentinels)
        return f"redis+sentinel://{hosts}/{SERVICE}/0"

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _start(self) -> None:
        master, *replicas = self.servers
        master.start()
        for replica in replicas:
            replica.options["replicaof"] = f"127.0.0.1 {master.port}"
            replica.start()
        for replica in replicas:
            until("a replica in sync", lambda r=replica: is_replica_in_sync(r))
        for i in range(3):
            options = {
                f"sentinel monitor {SERVICE}": f"127.0.0.1 {master.port} 2",
                f"sentinel down-after-milliseconds {SERVICE}": str(DOWN_MS),
                f"sentinel failover-timeout {SERVICE}": "5000",
                f"sentinel parallel-syncs {SERVICE}": "2",
            }
            self.sentinels.append(Sentinel(self._folder / f"sentinel{i}", options).start())
        for sentinel in self.sentinels:
            until("Sentinels that know each other", lambda s=sentinel: self._knows_all(s), 30)

    def _knows_all(self, sentinel: Server) -> bool:
        state = of_pairs(sentinel.ask("SENTINEL", "MASTER", SERVICE))
        return (state["num-other-sentinels"], state["num-slaves"]) == ("2", "2")

    def master(self) -> Server:
        """Return the server that the Sentinels name as master."""
        for sentinel in self.sentinels:
            if sentinel.answers:
                _, port = sentinel.ask("SENTINEL", "GET-MASTER-ADDR-BY-NAME", SERVICE)
                return next(s for s in self.servers if s.port == int(port))
        raise AssertionError("no Sentinel answers")

    def successor(self, old: Server, limit_s: float = 30) -> Server:
        """Wait until another server is master, for the Sentinels and by its own word."""

        def is_another() -> bool:
            new = self.master()
            return new is not old and new.ask("ROLE")[0] == "master"

        until("another master", is_another, limit_s)
        return self.master()

    def __exit__(self, *_exc: object) -> None:
        for server in (*self.sentinels, *self.servers):
            server.kill()


class Nodes:
    """A Cluster of three masters, each with one or more replicas."""

    def __init__(
        self,
        folder: Path,
        options: Mapping[str, str] | None = None,
        *,
        replicas: Sequence[int] = (1, 1, 1),
    ) -> None:
        own = {
            **DATA,
            "cluster-enabled": "yes",
            "cluster-config-file": "nodes.conf",
            "cluster-node-timeout": str(DOWN_MS),
            # the slots of a dead master must not stop the others
            "cluster-require-full-coverage": "no",
            "cluster-replica-validity-factor": "0",
        }
        #: The number of its master, for each replica.
        self._masters = [i for i, count in enumerate(replicas) for _ in range(count)]
        self.servers = [
            Server(folder / f"node{i}", own | {**(options or {})})
            for i in range(3 + len(self._masters))
        ]

    @property
    def url(self) -> str:
        return "redis+cluster://" + ",".join(f"127.0.0.1:{s.port}" for s in self.servers)

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _start(self) -> None:
        first, *others = [server.start() for server in self.servers]
        for i, (low, high) in enumerate(((0, 5460), (5461, 10922), (10923, 16383))):
            self.servers[i].ask("CLUSTER", "SET-CONFIG-EPOCH", i + 1)
            self.servers[i].ask("CLUSTER", "ADDSLOTS", *range(low, high + 1))
        for other in others:
            first.ask("CLUSTER", "MEET", "127.0.0.1", other.port)
        for server in self.servers:
            until("nodes that know each other", lambda s=server: self._knows_all(s))
        for number, replica in zip(self._masters, self.servers[3:], strict=True):
            id = self.servers[number].ask("CLUSTER", "MYID")
            until("a replica", lambda r=replica, id=id: r.ask("CLUSTER", "REPLICATE", id))
        for server in self.servers:
            until("all replicas", lambda s=server: self._knows_replicas(s))
            until("a working state", lambda s=server: "state:ok" in s.ask("CLUSTER", "INFO"))
        for replica in self.servers[3:]:
            until("a replica in sync", lambda r=replica: is_replica_in_sync(r))

    def _knows_all(self, server: Server) -> bool:
        return len(self._lines(server)) == len(self.servers)

    def _knows_replicas(self, server: Server) -> bool:
        return sum("slave" in line[2] for line in self._lines(server)) == len(self._masters)

    def _lines(self, server: Server) -> list[list[str]]:
        """Return what a server knows of each node, handshakes left out."""
        lines = [line.split() for line in str(server.ask("CLUSTER", "NODES")).splitlines()]
        return [line for line in lines if "handshake" not in line[2]]

    def owners(self, slot: int) -> set[int]:
        """Return the ports of the masters of a slot, as all servers that answer say."""
        found: set[int] = set()
        for server in self.servers:
            if server.answers:
                slots = server.ask("CLUSTER", "SLOTS")
                found |= {m[1] for low, high, m, *_ in slots if low <= slot <= high}
        return found

    def master_of(self, slot: int) -> Server:
        """Wait until the servers agree on a master that answers; return it."""

        def is_one() -> bool:
            ports = self.owners(slot)
            return len(ports) == 1 and self._at(*ports).answers

        until(f"one master of slot {slot}", is_one, 30)
        return self._at(*self.owners(slot))

    def successor(self, old: Server, slot: int, limit_s: float = 30) -> Server:
        """Wait until another server says that it is the master of a slot."""

        def found() -> list[Server]:
            return [
                s
                for s in self.servers
                if s is not old
                and s.answers
                and any(
                    "myself,master" in line[2] and self._has(line, slot) for line in self._lines(s)
                )
            ]

        until("another master", found, limit_s)
        return found()[0]

    @staticmethod
    def _has(line: list[str], slot: int) -> bool:
        ranges = [part.partition("-") for part in line[8:] if not part.startswith("[")]
        return any(int(low) <= slot <= int(high or low) for low, _, high in ranges)

    def replicas_of(self, master: Server) -> list[Server]:
        id = master.ask("CLUSTER", "MYID")
        places = [line[1].partition("@")[0] for line in self._lines(master) if line[3] == id]
        return [self._at(int(place.rpartition(":")[2])) for place in places]

    def migrate(self, slot: int, target: Server) -> int:
        """Move a slot with its keys, as an operator does while it is in use; return how many."""
        source = self.master_of(slot)
        source_id, target_id = source.ask("CLUSTER", "MYID"), target.ask("CLUSTER", "MYID")
        target.ask("CLUSTER", "SETSLOT", slot, "IMPORTING", source_id)
        source.ask("CLUSTER", "SETSLOT", slot, "MIGRATING", target_id)
        moved = 0
        while keys := source.ask("CLUSTER", "GETKEYSINSLOT", slot, 2):
            source.ask("MIGRATE", "127.0.0.1", target.port, "", 0, 5000, "KEYS", *keys)
            moved += len(keys)
        masters = [s for s in self.servers if s.ask("ROLE")[0] == "master"]
        for server in (target, source, *(s for s in masters if s not in (source, target))):
            server.ask("CLUSTER", "SETSLOT", slot, "NODE", target_id)
        return moved

    def _at(self, port: int) -> Server:
        return next(s for s in self.servers if s.port == port)

    def __exit__(self, *_exc: object) -> None:
        for server in self.servers:
            server.kill()


def slot_of(namespace: str, queue: str) -> int:
    return key_slot(f"{{{namespace}:{queue}}}".encode())


def names_on_different_nodes(nodes: Nodes, namespace: str, count: int = 3) -> list[str]:
    """Return names of queues that lie on nodes of their own."""
    found: dict[int, str] = {}
    number = 0
    while len(found) < count:
        name = f"q{number}"
        found.setdefault(nodes.master_of(slot_of(namespace, name)).port, name)
        number += 1
    return list(found.values())
