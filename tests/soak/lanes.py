"""The faults of a soak, in lanes that run at the same time: no two of a lane ever overlap."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass

from tests.support.fleet import Command, Fleet
from tests.support.nemesis import FREQUENT, Nemesis
from tests.support.proxy import Proxy

PROCESSES, CONCURRENCY = 2, 50
SHUTDOWN_S = 20.0

Fault = Callable[[], Awaitable[object]]


@dataclass(slots=True)
class Host:
    """A `qcore worker` behind its own way to the server, started again when it is gone."""

    way: Proxy
    command: Command
    #: All that ran here: orphans of a killed supervisor may live for a while.
    commands: list[Command]


class Hosts:
    def __init__(self, fleet: Fleet, lease_s: float) -> None:
        self._fleet = fleet
        self._lease_s = lease_s
        self.all: list[Host] = []
        self.ended_by_themselves = 0

    def start_all(self, ways: list[Proxy]) -> None:
        for way in ways:
            command = self._start(way)
            self.all.append(Host(way, command, [command]))

    def _start(self, way: Proxy) -> Command:
        return self._fleet.start(
            processes=PROCESSES,
            concurrency=CONCURRENCY,
            lease=self._lease_s,
            shutdown_timeout=SHUTDOWN_S,
            url=way.url,
        )

    def start_again(self, host: Host) -> None:
        host.command = self._start(host.way)
        host.commands.append(host.command)

    def pick(self, dice: random.Random) -> Host:
        """Return a host whose command runs: one that ended by itself counts, and is replaced."""
        host = dice.choice(self.all)
        if host.command.process.poll() is not None:
            self.ended_by_themselves += 1
            self.start_again(host)
        return host

    async def stop_all(self) -> None:
        for host in self.all:
            if host.command.process.poll() is None:
                host.command.signal()
            else:
                self.ended_by_themselves += 1
        for host in self.all:
            with suppress(AssertionError):  # the fleet kills it, and complains
                await host.command.ended(SHUTDOWN_S + 15)


@dataclass(slots=True)
class Lane:
    nemesis: Nemesis
    hosts: Hosts
    ways: list[Proxy]
    dice: random.Random
    lease_s: float

    def shortly(self) -> float:
        """Return a time that is below a lease, or above it."""
        return self.dice.choice(
            (self.dice.uniform(0.1, 3), self.dice.uniform(0.5, 1.5) * self.lease_s)
        )

    def outage(self) -> float:
        return self.dice.choice((self.dice.uniform(0.1, 1), self.dice.uniform(1, 8)))


def lane_of_hosts(lane: Lane) -> list[Fault]:
    nemesis, hosts, dice = lane.nemesis, lane.hosts, lane.dice

    async def kill_worker() -> None:
        nemesis.kill_worker(hosts.pick(dice).command)

    async def kill_host() -> None:
        host = hosts.pick(dice)
        nemesis.kill_group(host.command)
        hosts.start_again(host)

    async def kill_supervisor() -> None:
        host = hosts.pick(dice)
        old, workers, began_at = host.command, host.command.living(), time.monotonic()
        nemesis.kill_supervisor(old)
        hosts.start_again(host)
        await _noted_drain(lane, old, workers, began_at)

    async def deploy() -> None:
        host = hosts.pick(dice)
        old, workers, began_at = host.command, host.command.living(), time.monotonic()
        old.signal()
        await old.ended(SHUTDOWN_S + 15)
        hosts.start_again(host)
        await _noted_drain(lane, old, workers, began_at)

    async def stop_worker() -> None:
        await nemesis.stop_worker(hosts.pick(dice).command, lane.shortly())

    return [kill_worker, kill_worker, kill_host, kill_supervisor, deploy, stop_worker]


async def _noted_drain(lane: Lane, command: Command, workers: list[int], began_at: float) -> None:
    """Note a drain that left jobs to their leases: Redis or the way to it was away."""
    fleet = lane.nemesis.fleet
    for _ in range(100):
        if not set(workers) & set(fleet.left_behind()):
            break
        await asyncio.sleep(0.25)
    told = [e["unsettled"] for e in command.events("worker.stopped")]
    in_good_order = len(told) >= len(workers) and not any(told)
    lane.nemesis.note_drain(began_at, [] if in_good_order else workers)


def lane_of_server(lane: Lane) -> list[Fault]:
    nemesis, dice = lane.nemesis, lane.dice
    return [
        lambda: nemesis.kill_server(lane.outage()),
        lambda: nemesis.hang_server(lane.outage()),
        lambda: nemesis.pause_server(lane.outage()),
        lambda: nemesis.kill_connections(dice.uniform(0.02, 0.3), dice.randint(1, 30)),
        lambda: nemesis.flush_scripts(dice.uniform(0.01, 0.1), dice.randint(10, 100)),
    ]


def lane_of_ways(lane: Lane) -> list[Fault]:
    nemesis, dice = lane.nemesis, lane.dice

    def lose() -> Awaitable[object]:
        script = dice.choice(FREQUENT)
        # only producers enqueue, and they have a way of their own
        way = lane.ways[2] if script is FREQUENT[0] else dice.choice(lane.ways[:2])
        return nemesis.lose_replies(way, script, dice.randint(1, 5), 10)

    def blackhole() -> Awaitable[object]:
        host, way = dice.choice(lane.hosts.all), dice.choice(("open", "asks", "answers"))
        return nemesis.blackhole(host.way, host.commands, way, lane.shortly())

    def slow() -> Awaitable[object]:
        way, size = dice.choice(lane.ways), dice.choice((0, 50, 1000))
        return nemesis.slow_down(way, dice.uniform(0, 0.05), size, dice.uniform(1, 5))

    async def reset() -> None:
        nemesis.reset(dice.choice(lane.ways))

    return [lose, lose, lose, blackhole, slow, reset]
