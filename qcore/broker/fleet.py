"""The supervisors of a namespace: where they say that they live, and read what they are told."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import msgspec

from qcore.broker import scripts
from qcore.broker.broker import Broker
from qcore.broker.keys import namespace_keys
from qcore.broker.reading import natural, text_of
from qcore.model.fleet import SupervisorView

#: A record that was not renewed for so long is dropped, and an order of so long ago.
FORGET_MS, OLD_ORDER_MS = 3600 * 1000, 7 * 24 * 3600 * 1000
#: A supervisor that was not heard for so long is called silent.
SILENT_S = 10.0

_encode = msgspec.msgpack.Encoder().encode
_view = msgspec.msgpack.Decoder(SupervisorView)


@dataclass(frozen=True, slots=True)
class Order:
    """A restart that somebody ordered; an empty host or queue means all."""

    host: str
    queue: str
    generation: int
    #: They are to end after a drain.
    leave: bool

    def concerns(self, host: str, queues: Iterable[str]) -> bool:
        """Whether a supervisor of that host, which serves these queues, is meant."""
        return self.host in ("", host) and (not self.queue or self.queue in queues)


@dataclass(frozen=True, slots=True)
class Contact:
    """What a heartbeat brought."""

    #: Unix ms on the Redis clock.
    now_ms: int
    orders: tuple[Order, ...]


@dataclass(frozen=True, slots=True)
class Member:
    """A supervisor as Redis knows it."""

    id: str
    #: Seconds since its last heartbeat.
    silent_s: float
    #: When it was started, unix ms on the Redis clock.
    started_ms: int
    view: SupervisorView

    @property
    def is_silent(self) -> bool:
        """Whether it is stopped, dead, or cut off from Redis."""
        return self.silent_s > SILENT_S


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
        ((now, self._cursor, control),) = await self._broker.ask([call])
        return Contact(int(now), tuple(_orders(control)))

    async def forget(self, ids: Iterable[str]) -> None:
        """Forget supervisors that are gone."""
        await self._broker.ask([(b"HDEL", self._keys.names["fleet"], *ids)])

    async def members(self) -> list[Member]:
        """Return the supervisors that were heard within an hour, by host and name.

        One whose record this version cannot read is left out.
        """
        # the time of the same node: it follows a command with a key
        commands = [(b"HGETALL", self._keys.names["fleet"]), (b"TIME",)]
        (flat, now) = await self._broker.ask(commands)
        now_ms = int(now[0]) * 1000 + int(now[1]) // 1000
        found = [
            member
            for id, raw in zip(flat[::2], flat[1::2], strict=True)
            if (member := _member(id, raw, now_ms)) is not None
        ]
        return sorted(found, key=lambda m: (m.view.host, m.view.name, m.view.pid))

    async def restart(self, *, host: str = "", queue: str = "", leave: bool = False) -> int:
        """Order a rolling restart, or with `leave` the end after a drain; return its generation.

        Only supervisors that were started before it obey, also those that are cut off now.
        """
        call = scripts.RESTART.call(
            self._keys, b"", f"restart:{host}:{queue}", int(leave), OLD_ORDER_MS
        )
        (generation,) = await self._broker.ask([call])
        return int(generation)


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
