"""A restart of many supervisors, seen from outside: who was told, and how far each of them is."""

import asyncio
import contextlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

import anyio
import msgspec
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from qcore import BrokerUnavailable
from qcore.broker.redis.fleet import Fleet
from qcore.model.fleet import RollState, WorkerState
from qcore.model.views import Member
from qcore_cli.format import short_age
from qcore_cli.terminal import printable

_LOOK_S = 0.3


class Outcome(StrEnum):
    """How far a supervisor is."""

    WAITING = "waiting"
    ROLLING = "rolling"
    DRAINING = "draining"
    RESTARTED = "restarted"
    #: It has ended. With `--exit` that is half of it: somebody must start it anew.
    LEFT = "left"
    #: Another one was started in its place, and has no worker that is ready.
    STARTING = "starting"
    BACK = "back"
    FAILED = "failed"
    #: It was not heard for a while: stopped, dead, or cut off from Redis.
    SILENT = "silent"


#: Its workers are not replaced one by one.
_LEAVING = (Outcome.DRAINING, Outcome.LEFT, Outcome.STARTING, Outcome.BACK)


@dataclass(frozen=True, slots=True)
class Target:
    """Who is to restart, and how."""

    host: str
    queue: str
    leave: bool

    @property
    def good(self) -> tuple[Outcome, ...]:
        """What is wanted: no worker is left that runs the old code."""
        return (Outcome.BACK,) if self.leave else (Outcome.RESTARTED, Outcome.LEFT)

    def concerns(self, member: Member) -> bool:
        """Whether a supervisor is meant."""
        view = member.view
        return self.host in ("", view.host) and (not self.queue or self.queue in view.queues)

    @property
    def words(self) -> str:
        """The supervisors that are meant, in words."""
        on = f"on host {self.host}" if self.host else ""
        serving = f"with queue {self.queue}" if self.queue else ""
        return " ".join(filter(None, (on, serving))) or "of this namespace"


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One supervisor that was told to restart."""

    id: str
    host: str
    name: str
    pid: int
    outcome: Outcome
    #: Workers that are new, of how many.
    replaced: int
    workers: int
    silent_s: float
    #: Why the next worker did not get ready; empty unless it has failed.
    error: str = ""

    @property
    def who(self) -> str:
        """The supervisor, in words."""
        return f"{self.host} {self.name} (pid {self.pid})"

    @property
    def said(self) -> str:
        """How far it is, in words."""
        match self.outcome:
            case Outcome.STARTING:
                return "left, started anew, no worker is ready yet"
            case Outcome.SILENT:
                return f"silent for {short_age(self.silent_s)}, it will obey when it is back"
            case Outcome.ROLLING | Outcome.FAILED:
                text = f"{self.outcome}, {self.replaced} of {self.workers} workers are new"
                why = f": {self.error or 'the log of the supervisor says why'}"
                return text + why if self.outcome is Outcome.FAILED else text
            case _:
                return str(self.outcome)


class Rollout:
    """One order to restart, and those who are to obey it.

    Args:
        fleet: The registry.
        target: Who is to restart.
    """

    def __init__(self, fleet: Fleet, target: Target) -> None:
        self._fleet = fleet
        self._target = target
        self._generation = 0
        #: Those that are to obey, as they were last seen.
        self._known: dict[str, Member] = {}

    @property
    def good(self) -> tuple[Outcome, ...]:
        """What is wanted of each."""
        return self._target.good

    async def begin(self) -> list[Entry]:
        """Give the order; return whom it concerns, which may be nobody."""
        if not any(self._target.concerns(member) for member in await self._fleet.members()):
            return []
        target = self._target
        self._generation = await self._fleet.restart(
            host=target.host, queue=target.queue, leave=target.leave
        )
        return await self.look()

    async def look(self) -> list[Entry]:
        """Return how far each supervisor is that was there when the order was given."""
        found = {member.id: member for member in await self._fleet.members()}
        for id, member in found.items():
            if not self._was_before(member):
                self._known.pop(id, None)
            elif self._target.concerns(member):
                self._known[id] = member
        left = {id: member for id, member in self._known.items() if id not in found}
        ends = dict.fromkeys(left, Outcome.LEFT)
        if self._target.leave:
            ends |= self._successions(left, found.values())
        return [
            self._entry(member, ends.get(id) or self._outcome(member))
            for id, member in self._known.items()
        ]

    def _was_before(self, member: Member) -> bool:
        """Say whether a supervisor was there before the order, so that it obeys it."""
        given_before = member.view.given_before
        if given_before is None:
            return member.started_ms < self._generation
        return given_before < self._generation

    def _successions(
        self, left: Mapping[str, Member], found: Iterable[Member]
    ) -> dict[str, Outcome]:
        """Return how far those are that took the place of one that left, each of one only."""
        new = [m for m in found if not (self._was_before(m) or m.is_silent)]
        ends: dict[str, Outcome] = {}
        # its flags may have changed, and with them its name or its queues
        for is_same in (_has_same_name, _shares_a_queue):
            for id, member in left.items():
                place = (m for m in new if m.view.host == member.view.host and is_same(m, member))
                if id not in ends and (successor := next(place, None)):
                    new.remove(successor)
                    ready = [
                        w for w in successor.view.workers if w.state is not WorkerState.STARTING
                    ]
                    ends[id] = Outcome.BACK if ready else Outcome.STARTING
        return ends

    def _entry(self, member: Member, outcome: Outcome) -> Entry:
        view = member.view
        return Entry(
            id=member.id,
            host=view.host,
            name=view.name,
            pid=view.pid,
            outcome=outcome,
            replaced=view.roll.replaced if view.roll.generation >= self._generation else 0,
            workers=view.roll.workers,
            silent_s=member.silent_s,
            error=view.roll.error,
        )

    def _outcome(self, member: Member) -> Outcome:
        view = member.view
        state = view.roll.state if view.roll.generation >= self._generation else RollState.NONE
        if state is RollState.DONE:
            return Outcome.RESTARTED
        if member.is_silent:
            return Outcome.SILENT
        if view.state == "draining":
            return Outcome.DRAINING
        known = {RollState.ROLLING: Outcome.ROLLING, RollState.FAILED: Outcome.FAILED}
        return known.get(state, Outcome.WAITING)


def _has_same_name(one: Member, other: Member) -> bool:
    return one.view.name == other.view.name


def _shares_a_queue(one: Member, other: Member) -> bool:
    return not set(one.view.queues).isdisjoint(other.view.queues)


async def shown_rollout(
    rollout: Rollout, entries: list[Entry], timeout_s: float, *, quiet: bool
) -> list[Entry]:
    """Wait until nothing will change any more, or the time is up; return how far each came.

    On a terminal a table is kept up to date, elsewhere a line is printed for each change. A Redis
    that is away for a while is waited for.
    """
    console = Console(quiet=quiet)
    said: dict[str, str] = {}
    final = (*rollout.good, Outcome.FAILED)
    with Live(console=console, auto_refresh=False) as live, anyio.move_on_after(timeout_s):
        while True:
            if console.is_terminal:
                live.update(drawn_rollout(entries), refresh=True)
            else:
                _print_changes(console, entries, said)
            if all(entry.outcome in final for entry in entries):
                break
            await asyncio.sleep(_LOOK_S)
            with contextlib.suppress(BrokerUnavailable):
                entries = await rollout.look()
    return entries


def drawn_rollout(entries: list[Entry]) -> Table:
    """Return the table of a rollout on a terminal."""
    table = Table("HOST", "SUPERVISOR", "PID", "RESTART", "NEW", box=None, pad_edge=False)
    for entry in entries:
        is_whole = entry.outcome not in _LEAVING
        new = f"{entry.replaced} of {entry.workers}" if is_whole else ""
        said = f"silent {short_age(entry.silent_s)}" if entry.outcome is Outcome.SILENT else ""
        cells = (entry.host, entry.name, entry.pid, said or entry.outcome, new)
        table.add_row(*(Text(printable(cell)) for cell in cells))
    return table


def _print_changes(console: Console, entries: list[Entry], said: dict[str, str]) -> None:
    for entry in entries:
        key = f"{entry.outcome} {entry.replaced}"
        if said.get(entry.id) != key:
            said[entry.id] = key
            console.print(Text(printable(f"{entry.who}: {entry.said}")), soft_wrap=True)
