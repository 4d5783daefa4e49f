"""What `qcore status` says of a fleet: its state in one word, a table, and what is wrong."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from enum import StrEnum

import msgspec

from qcore.model.fleet import RollState, SupervisorState, SupervisorView, WorkerState, WorkerView
from qcore.model.views import SILENT_S, Member, QueueStats
from qcore_cli.format import counted, short_age, state_of, table


class FleetState(StrEnum):
    """What the supervisors of a namespace come to."""

    #: A worker claims jobs.
    RUNNING = "running"
    #: Workers are ready, and none claims: they are quiet, or all of their queues are paused.
    PAUSED = "paused"
    #: Supervisors are there, and no worker is ready.
    STARTING = "starting"
    #: All supervisors that are heard are about to leave.
    DRAINING = "draining"
    #: All are stopped, dead, or cut off from Redis.
    SILENT = "silent"
    NONE = "none"


_MEANING = {
    FleetState.PAUSED: "no worker claims jobs: they are quiet, or their queues are paused",
    FleetState.STARTING: "no worker is ready",
    FleetState.DRAINING: "no worker claims jobs, they finish what runs and leave",
    FleetState.SILENT: f"no supervisor was heard for {SILENT_S:.0f} s",
}


def state_of_fleet(members: Sequence[Member], paused: set[str]) -> FleetState:
    """Return the state of a fleet, while the queues in `paused` are so."""
    living = [member.view for member in members if not member.is_silent]
    if not living:
        return FleetState.SILENT if members else FleetState.NONE
    staying = [view for view in living if view.state is not SupervisorState.DRAINING]
    if not staying:
        return FleetState.DRAINING
    if any(_is_claiming(view, paused) for view in staying):
        return FleetState.RUNNING
    states = {worker.state for view in staying for worker in view.workers}
    is_ready = states & {WorkerState.RUNNING, WorkerState.QUIET}
    return FleetState.PAUSED if is_ready else FleetState.STARTING


def _is_claiming(view: SupervisorView, paused: set[str]) -> bool:
    has_queue = not set(view.queues) <= paused
    return has_queue and any(worker.state is WorkerState.RUNNING for worker in view.workers)


class Neighbour(msgspec.Struct, frozen=True, kw_only=True):
    """Another namespace, in which somebody works or jobs wait."""

    namespace: str
    supervisors: int
    waiting: int


def status_lines(
    state: FleetState,
    members: Sequence[Member],
    held: Sequence[QueueStats],
    where: str = "this namespace",
    near: Sequence[Neighbour] = (),
) -> Iterator[str]:
    """Yield what `qcore status` prints; what is wrong comes last, where it is seen."""
    if state is FleetState.NONE:
        yield f"No supervisor runs in {where}."
        for other in near:
            counts = f"{counted(other.supervisors, 'supervisor')}, {other.waiting:,} waiting"
            yield f"namespace {other.namespace}: {counts}; --namespace {other.namespace} shows it"
    else:
        workers = sum(len(member.view.workers) for member in members)
        counts = f"{counted(len(members), 'supervisor')}, {counted(workers, 'worker')}"
        yield f"{state}: {counts}" + (f"; {_MEANING[state]}" if state in _MEANING else "")
    for member in members:
        yield from _member_lines(member)
    for queue in held:
        yield f"queue {queue.name}: {state_of(queue)}, {queue.ready:,} ready"
    for member in members:
        for said in _troubles(member):
            yield f"! {member.view.host} {member.view.name} (pid {member.view.pid}) {said}"
    yield from _mixtures(members)


def _troubles(member: Member) -> Iterator[str]:
    view = member.view
    if member.is_silent:
        yield (
            f"was last heard {short_age(member.silent_s)} ago, and the above is of then: it is "
            "stopped, dead, or cut off from Redis"
        )
    if view.boot_failures:
        yield (
            f"gets no worker ready: {view.boot_failures} in a row ended before: "
            f"{view.boot_error or 'its log says why'}"
        )
    if view.roll.state is RollState.FAILED:
        yield (
            f"has {view.roll.replaced} of {counted(view.roll.workers, 'new worker')} after "
            f"{view.roll.why}, and the others stay: mend what failed, then `qcore restart`: "
            f"{view.roll.error or 'its log says why'}"
        )


def _mixtures(members: Iterable[Member]) -> Iterator[str]:
    """Yield a line where workers of the same queues run different code."""
    codes: defaultdict[tuple[str, ...], Counter[str]] = defaultdict(Counter)
    for member in members:
        if not member.is_silent:
            known = (worker.code for worker in member.view.workers if worker.code)
            codes[member.view.queues].update(known)
    for queues, counts in codes.items():
        if len(counts) > 1:
            said = ", ".join(f"{code} ({count})" for code, count in counts.most_common())
            yield f"! the workers of {','.join(queues)} run {len(counts)} versions of code: {said}"


# -- the table ---------------------------------------------------------------------------------


def _member_lines(member: Member) -> Iterator[str]:
    view = member.view
    state = f"silent for {short_age(member.silent_s)}" if member.is_silent else view.state
    yield (
        f"{view.host}  {view.name}  pid {view.pid}  {state}  up {short_age(view.age_s)}  "
        f"{','.join(view.queues)}"
    )
    counts = view.processes
    if counts.min < counts.max:
        yield f"  processes {counts.now} of {counts.min}..{counts.max}"
    if view.roll.why:
        roll = view.roll
        yield f"  {roll.why}: {roll.state}, {roll.replaced} of {roll.workers} workers are new"
    rows = [_cells(worker) for worker in view.workers]
    yield from (f"  {line}" for line in table(_HEAD, rows, right=_RIGHT))
    for worker in view.workers:
        for job in worker.oldest:
            task = job.task or "?"
            yield f"  {worker.name}  {short_age(job.age_s)}  {task}  {job.ref}"
        if worker.leaves_for:
            yield f"  {worker.name}  pid {worker.pid} is replaced, {worker.leaves_for}"


#: Of these all but names and states go to the right.
_HEAD = ("WORKER", "PID", "STATE", "JOBS", "DONE", "RSS", "CPU", "UP", "CODE")
_RIGHT = set(range(len(_HEAD))) - {0, 2}


def _cells(worker: WorkerView) -> tuple[str, ...]:
    return (
        worker.name,
        str(worker.pid),
        worker.state,
        str(worker.running),
        str(worker.done),
        f"{worker.rss_bytes / 1e6:.0f} MB",
        f"{100 * worker.cpu:.0f} %",
        short_age(worker.age_s),
        worker.code,
    )
