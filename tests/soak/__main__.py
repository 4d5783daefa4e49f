"""A soak: the real command under all faults at random. `scripts/soak` runs it.

Two hosts (a `qcore worker` with two processes each), three producers and one server on loopback.
Three lanes of faults run at the same time: on hosts, on the server, and on the ways in between.
The seed repeats the choices, not the moments at which the machine lets them happen.
"""

import argparse
import asyncio
import json
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from contextlib import AsyncExitStack
from pathlib import Path

import msgspec

from tests.soak.lanes import Hosts, Lane, lane_of_hosts, lane_of_server, lane_of_ways
from tests.support.checker import Findings, Orphaned, Run, check
from tests.support.fleet import Fleet, fleet_on
from tests.support.load import load_on
from tests.support.nemesis import Nemesis
from tests.support.proxy import Proxy
from tests.support.servers import Server

DURABLE = {"appendonly": "yes", "appendfsync": "always"}
PAUSE_S = (0.2, 3.0)
#: After the last fault, beside two leases: reconnecting, and the pauses of jobs that crashed.
CALM_S = 90.0


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/soak", description=__doc__)
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--minutes", type=float, default=30.0, help="how long faults happen")
    length.add_argument("--seconds", type=float, help="the same in seconds")
    parser.add_argument("--seed", default=str(random.SystemRandom().randrange(10**9)))
    parser.add_argument(
        "--lease", type=float, default=30.0, help="a shorter lease means more faults a minute"
    )
    return parser.parse_args()


class Soak:
    """One run; what it says to the operator goes to standard error, the verdict to output."""

    def __init__(self, fleet: Fleet, server: Server, seed: str, lease_s: float) -> None:
        self.fleet = fleet
        self.server = server
        self.lease_s = lease_s
        self.dice = random.Random(seed)
        self.hosts = Hosts(fleet, lease_s)
        self._began = time.monotonic()

    async def run(self, for_s: float) -> bool:
        """Do harm for so long, then wait until everything has ended; say whether it has."""
        async with AsyncExitStack() as stack:
            ways = [await stack.enter_async_context(Proxy(self.server.port)) for _ in range(3)]
            self.hosts.start_all(ways[:2])
            reporting = asyncio.create_task(self._report(min(60.0, max(5.0, for_s / 4))))
            producing = load_on(
                self.fleet,
                random.Random(self.dice.random()),
                producers=3,
                seconds=(0.0, 0.0, 0.02, 0.1, 0.5, 2.0, 5.0),
                delays_s=(0.0,) * 9 + (0.5, 3.0),
                pause_s=0.025,
                url=ways[2].url,
            )
            async with producing:
                await self._harm(for_s, ways)
            self._say("no more faults: waiting until every job has ended")
            try:
                await self.fleet.emptied(2 * self.lease_s + CALM_S)
                return True
            except AssertionError:
                return False
            finally:
                await self.hosts.stop_all()
                reporting.cancel()
                self._progress()

    async def _harm(self, for_s: float, ways: list[Proxy]) -> None:
        enough = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            for lane in (lane_of_hosts, lane_of_server, lane_of_ways):
                dice = random.Random(self.dice.random())
                nemesis = Nemesis(self.fleet, self.server, dice)
                faults = lane(Lane(nemesis, self.hosts, ways, dice, self.lease_s))
                group.create_task(nemesis.at_random(faults, enough, PAUSE_S))
            await asyncio.sleep(for_s)
            enough.set()

    async def _report(self, every_s: float) -> None:
        while True:
            await asyncio.sleep(every_s)
            self._progress()

    def _progress(self) -> None:
        told = Counter(self.fleet.history.outcomes.values())
        done = self.fleet.journal.done_count()
        self._say(
            f"enqueued {told['ok']:,} (unanswered {told['unknown']}, refused {told['fail']}), "
            f"done {done:,}, faults {len(self.fleet.faults)}"
        )

    def _say(self, text: str) -> None:
        print(f"{(time.monotonic() - self._began) / 60:5.1f} min: {text}", file=sys.stderr)


async def condemned(fleet: Fleet, runs: dict[int, list[Run]]) -> set[int]:
    """Return the jobs that are dead for ends of their processes, all of them faults."""
    by_faults = Orphaned(fleet.faults)
    async with fleet.producer() as producer:
        records = [
            record for q in producer.app.queues for record in await producer.app.inspector.dead(q)
        ]
    numbers = [
        msgspec.msgpack.decode(record.payload or b"")["n"]
        for record in records
        if record.errors and record.errors[-1].kind == "ProcessDied"
    ]
    return {n for n in numbers if all(run in by_faults for run in runs.get(n, ()))}


def verdict(
    soak: Soak, findings: Findings, condemned: set[int], seed: str, *, emptied: bool
) -> tuple[bool, str]:
    """Return whether all is well, and the line that says it."""
    ran_again = findings.runs - len(soak.fleet.runs())
    said = {
        "seed": seed,
        "enqueued": len(soak.fleet.history.having("ok")),
        "done": findings.done,
        "lost": len(findings.lost - condemned),
        "dead_after_faults": len(findings.lost & condemned),
        "unexpected": len(findings.unexpected),
        "duplicates": ran_again,
        "completed_twice": len(findings.duplicated),
        "runs_orphaned_by_faults": findings.orphaned,
        "unexplained": len(findings.unexplained),
        "recovered": len(findings.recovered),
        "emptied": emptied,
        "hosts_that_ended": soak.hosts.ended_by_themselves,
        "faults": dict(sorted(Counter(f.kind for f in soak.fleet.faults).items())),
    }
    wrong = ("lost", "unexpected", "unexplained", "hosts_that_ended")
    good = emptied and ran_again <= findings.orphaned and not any(said[what] for what in wrong)
    return good, json.dumps(said)


async def main() -> int:
    given = options()
    for_s = given.seconds if given.seconds is not None else 60 * given.minutes
    folder = Path(tempfile.mkdtemp(prefix="qcore-soak-"))
    print(f"seed {given.seed}, {for_s:g} s of faults, files in {folder}", file=sys.stderr)
    with (
        Server(folder / "server", DURABLE) as server,
        fleet_on(folder, server.url, "soak") as fleet,
    ):
        soak = Soak(fleet, server, given.seed, given.lease)
        emptied = await soak.run(for_s)
        runs = fleet.runs()
        findings = check(fleet.history, runs, faults=fleet.faults)
        dead = await condemned(fleet, runs)
        good, line = verdict(soak, findings, dead, given.seed, emptied=emptied)
        print(line, flush=True)
    if good:
        shutil.rmtree(folder)
        return 0
    for what in ("lost", "unexpected", "unexplained"):
        for n in sorted(getattr(findings, what))[:10]:
            print(f"{what}: job {n}: {runs.get(n)}", file=sys.stderr)
    with (folder / "faults").open("w") as file:
        file.writelines(f"{fault}\n" for fault in fleet.faults)
    print(f"FAILED: the journal, the logs and the faults are in {folder}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
