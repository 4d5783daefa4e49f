"""The supervisors of a namespace: where they say that they live, and read what they are told."""

from collections.abc import Iterable, Iterator

import msgspec

from qcore.broker.contract import Contact, Order
from qcore.broker.redis import scripts
from qcore.broker.redis.broker import Broker
from qcore.broker.redis.keys import namespace_keys, queues_key
from qcore.errors import BrokerError
from qcore.model.fleet import SupervisorView
from qcore.model.reading import natural, text_of
from qcore.model.views import Member, RunsOn
from qcore.settings import NAME

#: A record that was not renewed for so long is dropped; an order of so long ago, or so far ahead.
FORGET_MS, OLD_ORDER_MS = 3600 * 1000, 7 * 24 * 3600 * 1000

_encode = msgspec.msgpack.Encoder().encode
_view = msgspec.msgpack.Decoder(SupervisorView)


class Fleet:
    """The registry of the supervisors of one namespace."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._keys = namespace_keys(broker.config.namespace)
        self._cursor: object = 0

    async def beat(self, id: str, view: SupervisorView) -> Contact:
        """Write what a supervisor says of itself; return the orders to all of them.

        Redis: heartbeat.lua, one round trip; goes on at `maxmemory`.
        """
        call = scripts.HEARTBEAT.call(self._keys, b"", id, _encode(view), FORGET_MS, self._cursor)
        ((now, self._cursor, control),) = await self._broker._ask([call])
        return Contact(int(now), tuple(_orders(control)))

    async def forget(self, ids: Iterable[str]) -> None:
        """Forget supervisors that are gone."""
        await self._broker._ask([(b"HDEL", self._keys.names["fleet"], *ids)])

    async def members(self) -> list[Member]:
        """Return the supervisors that were heard within an hour, by host and name.

        One whose record this version cannot read is left out.
        """
        # the time of the same node: it follows a command with a key
        commands = [(b"HGETALL", self._keys.names["fleet"]), (b"TIME",)]
        (flat, now) = await self._broker._ask(commands)
        now_ms = int(now[0]) * 1000 + int(now[1]) // 1000
        found = [
            member
            for id, raw in zip(flat[::2], flat[1::2], strict=True)
            if (member := _member(id, raw, now_ms)) is not None
        ]
        return sorted(found, key=lambda m: (m.view.host, m.view.name, m.view.pid))

    async def runs_on(self, owner: str, ref: str) -> RunsOn | None:
        """Return which worker has the leases of `owner`; None when no supervisor knows it."""
        for member in await self.members():
            for worker in member.view.workers:
                if worker.owner == owner:
                    ages = {job.ref: job.age_s + member.silent_s for job in worker.oldest}
                    age_s = ages.get(ref)
                    return RunsOn(
                        host=member.view.host,
                        supervisor=member.view.name,
                        worker=worker.name,
                        pid=worker.pid,
                        age_s=age_s,
                        max_s=min(ages.values(), default=None) if age_s is None else None,
                    )
        return None

    async def restart(self, *, host: str = "", queue: str = "", leave: bool = False) -> int:
        """Order a rolling restart, or with `leave` the end after a drain; return its generation.

        Only supervisors that were started before it obey, also those that are cut off now.
        """
        call = scripts.RESTART.call(
            self._keys, b"", f"restart:{host}:{queue}", int(leave), OLD_ORDER_MS
        )
        (generation,) = await self._broker._ask([call])
        return int(generation)


#: Namespaces are looked for in so many steps over the keys, and so many of them looked into.
_SCANS, _SCAN_KEYS, _NAMESPACES = 30, 1000, 20


async def namespaces_near(broker: Broker) -> list[str]:
    """Return names of other namespaces of the same database; of many keys not all are looked at.

    Redis: SCAN, 30 times at most. Nothing is found where this user may not call it.
    """
    found: set[str] = set()
    cursor: object = b"0"
    for _ in range(_SCANS):
        command = (b"SCAN", cursor, b"MATCH", queues_key("*"), b"COUNT", _SCAN_KEYS)
        try:
            ((cursor, keys),) = await broker._ask([command])
        except BrokerError:
            break
        names = (text_of(key).removesuffix(":queues") for key in keys)
        found.update(name for name in names if NAME.fullmatch(name))
        if cursor == b"0":
            break
    return sorted(found - {broker.config.namespace})[:_NAMESPACES]


def _orders(control: list[bytes]) -> Iterator[Order]:
    for field, value in zip(control[::2], control[1::2], strict=True):
        match text_of(field).split(":"), value.split():
            case ["restart", host, queue], [raw, exit] if generation := natural(raw):
                yield Order(host, queue, generation, exit == b"1")
            case _:
                pass  # of another version


def _member(id: bytes, raw: bytes, now_ms: int) -> Member | None:
    heard_ms = int.from_bytes(raw[:8])
    try:
        view = _view.decode(raw[8:])
    except msgspec.MsgspecError:
        return None
    silent_s = max(0, now_ms - heard_ms) / 1000
    return Member(text_of(id), silent_s, heard_ms - round(view.age_s * 1000), view)
