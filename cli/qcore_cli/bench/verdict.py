"""What limits a set-up, and which settings of `qcore worker` to try: readings in, a verdict out."""

import math
from enum import StrEnum

import msgspec

#: A share from which on something counts as saturated: what calls and is called in turn seldom
#: comes closer to 1, and a clock that ticks is read on both sides.
FULL = 0.85
#: From these shares on the cores of the machine are all in use, and a quota of CPU slows down.
_CORES_FULL, _THROTTLED = 0.95, 0.2
#: From this part of a slot's time on, round trips or late writes are what a worker waits for.
_MAX_WAITING, _LITTLE_WAITING = 0.4, 0.2
#: With so many slots taken by waiting jobs, no other remedy brings much. Where nothing else is
#: saturated slots are always taken: what the jobs leave of them goes into round trips.
_SLOTS_FULL, _SLOTS_MAX = 0.9, 0.5
#: Looks at the queue that found it empty, beyond which the producer was too slow.
_STARVED = 0.2
#: Below this a write is not late: a script takes its time, and so does the client.
_LATE_MS = 0.5
#: A call claims no more jobs than this; see `qcore.broker.redis.script_codec`.
_CALL_JOBS = 500
_DEFAULT_CONCURRENCY = 100
_LARGE_PAYLOAD = 10_000
_ROUND = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000)


class Bottleneck(StrEnum):
    """The side that was saturated."""

    REDIS = "redis_cpu"
    PYTHON = "python_cpu"
    CORES = "cores"
    NETWORK = "network"
    WRITES = "redis_writes"
    SLOTS = "slots"
    PRODUCER = "producer"
    NONE = "none"


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """What was measured while the workers drained. Shares are of 1; None is unknown."""

    processes: int
    concurrency: int
    payload_bytes: int
    task_ms: int
    #: Cores that this machine lets us use.
    cores: int
    #: Jobs a second.
    per_s: float
    #: Medians of a PING, and of an enqueue that is awaited alone.
    ping_ms: float
    write_ms: float
    #: Of a core, by the loop of each worker process.
    python: float | None
    #: Of the one core on which Redis executes commands.
    redis: float | None
    #: Of all cores of this machine, by whatever runs there.
    machine: float | None
    #: Of the periods of a container's quota, those in which it was used up.
    throttled: float | None
    #: Of the time, with nothing ready to be claimed.
    starved: float

    @property
    def slots(self) -> float:
        """The share of all slots that is taken by jobs that wait, as they are meant to."""
        return round(self.task_ms / self.cycle_ms, 3)

    @property
    def cycle_ms(self) -> float:
        """How long a slot takes for a job, from one claim to the next."""
        return 1000 * self.processes * self.concurrency / self.per_s

    @property
    def round_trips(self) -> float:
        """The share of that time which round trips take, each as full as can be."""
        ways_ms = self.ping_ms * math.ceil(self.concurrency / _CALL_JOBS)
        return min(1.0, round(ways_ms / self.cycle_ms, 3))

    @property
    def late_ms(self) -> float:
        """How much longer a write takes than a PING."""
        return self.write_ms - self.ping_ms

    @property
    def late_writes(self) -> float:
        """The share of a slot's time that Redis takes to answer writes, on top of the network."""
        return min(1.0, self.late_ms / self.cycle_ms) if self.late_ms > _LATE_MS else 0.0

    def us_per_job(self, share: float | None, of: int = 1) -> float | None:
        """Return the microseconds a job of something that was busy for `share`, `of` times."""
        return None if share is None else round(1e6 * share * of / self.per_s, 2)


class Advice(msgspec.Struct, frozen=True, kw_only=True):
    """Something to try."""

    #: An option of `qcore worker` with its value; empty where no option helps.
    setting: str = ""
    why: str


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What limits, by which evidence, and what to do."""

    bottleneck: Bottleneck
    because: str
    advice: tuple[Advice, ...]


def judge(load: Load) -> Verdict:
    """Return what limited the drain."""
    python, redis = load.python or 0.0, load.redis or 0.0
    waits = max(load.round_trips, load.late_writes)
    if redis >= FULL:
        return _redis(load, redis)
    if python >= FULL:
        return _python(load, python)
    if load.slots >= _SLOTS_FULL:
        return _slots(load)
    if (load.throttled or 0.0) >= _THROTTLED or (load.machine or 0.0) >= _CORES_FULL:
        return _cores(load)
    if load.starved > _STARVED:
        return _producer(load)
    if waits >= max(_MAX_WAITING, load.slots):
        return _network(load) if load.round_trips >= load.late_writes else _writes(load)
    if load.slots >= _SLOTS_MAX:
        return _slots(load)
    return _none(load)


def _redis(load: Load, redis: float) -> Verdict:
    advice = _fuller_calls(load)
    if load.python is not None:
        enough = max(1, math.ceil(load.processes * load.python / FULL))
        if enough < load.processes:
            why = "keeps Redis as busy, with jobs as light as these; tasks that compute need more."
            advice.append(Advice(setting=f"--processes {enough}", why=why))
    if load.payload_bytes >= _LARGE_PAYLOAD:
        advice.append(Advice(why="Store large arguments elsewhere, and pass their names."))
    if not advice:
        why = "No setting of workers helps: it takes a faster core for Redis, or a Cluster with "
        advice.append(Advice(why=f"{why}the queues on several nodes."))
    said = f"Redis executes commands on one core, and that core was {redis:.0%} busy."
    return Verdict(bottleneck=Bottleneck.REDIS, because=said, advice=tuple(advice))


def _python(load: Load, python: float) -> Verdict:
    advice = _fuller_calls(load)
    if more := _more_processes(load):
        why = f"there are {load.cores} cores{_room(load)}."
        advice.append(Advice(setting=f"--processes {more}", why=why))
    elif not advice:
        why = f"Every one of the {load.cores} cores has a process: more cores or hosts bring more"
        advice.append(Advice(why=f"{why}{_room(load)}."))
    each = "The worker process" if load.processes == 1 else "Each worker process"
    said = f"{each} computed for {python:.0%} of the time, which is all that one core gives."
    return Verdict(bottleneck=Bottleneck.PYTHON, because=said, advice=tuple(advice))


def _cores(load: Load) -> Verdict:
    if (load.throttled or 0.0) >= _THROTTLED:
        said = (
            f"The CPU quota of this container was used up in {load.throttled:.0%} of its periods."
        )
        advice = Advice(why="Raise the quota, or start only as many processes as it has cores.")
        return Verdict(bottleneck=Bottleneck.CORES, because=said, advice=(advice,))
    if load.processes > load.cores:
        why = f"there are {load.cores} cores: more processes than that take turns."
        advice = Advice(setting=f"--processes {load.cores}", why=why)
    else:
        why = "Give the workers more cores, or move what else runs here, such as Redis."
        advice = Advice(why=why)
    said = f"The cores of this machine were {load.machine:.0%} busy"
    if load.python is not None:
        each = "the worker process" if load.processes == 1 else "each worker process"
        said += f", {each} on one of them for {load.python:.0%} of the time"
    said += "."
    return Verdict(bottleneck=Bottleneck.CORES, because=said, advice=(advice,))


def _network(load: Load) -> Verdict:
    said = (
        f"A round trip takes {load.ping_ms:.2g} ms, {load.round_trips:.0%} of the time that a slot "
        "takes for a job."
    )
    advice = _overlap(load, load.round_trips)
    near = Advice(why="Run the workers nearer to Redis: on its host, or in its zone.")
    return Verdict(bottleneck=Bottleneck.NETWORK, because=said, advice=(*advice, near))


def _writes(load: Load) -> Verdict:
    said = (
        f"Redis answers a write {load.late_ms:.2g} ms later than a PING: it waits for its disk, as "
        "with appendfsync always, or for other clients."
    )
    advice = _overlap(load, load.late_writes)
    why = "appendfsync everysec does not wait; then a crash of its host may lose 2 s of jobs."
    return Verdict(bottleneck=Bottleneck.WRITES, because=said, advice=(*advice, Advice(why=why)))


def _slots(load: Load) -> Verdict:
    slots = load.processes * load.concurrency
    ideal = 1000 * slots / load.task_ms
    said = (
        f"Jobs that wait {load.task_ms} ms took {load.slots:.0%} of the time of all slots, round "
        f"trips {load.round_trips:.0%}; {slots:,} slots can do {ideal:,.0f} jobs a second."
    )
    most = _rounded_down(min(10.0, _headroom(load)) * load.concurrency)
    if most > load.concurrency:
        why = f"{_busy(load)}; mind what each job holds, such as a database connection."
        advice = Advice(setting=f"--concurrency {most}", why=why)
    elif more := _more_processes(load):
        advice = Advice(setting=f"--processes {more}", why=f"{_busy(load)}.")
    else:
        advice = Advice(why=f"These settings fit: {_busy(load)}.")
    return Verdict(bottleneck=Bottleneck.SLOTS, because=said, advice=(advice,))


def _producer(load: Load) -> Verdict:
    said = (
        f"The queue was empty for {load.starved:.0%} of the time: the workers are faster than this "
        "one producer, and drain more than is shown."
    )
    why = "Keep these settings; more producers would show what the workers can do."
    return Verdict(bottleneck=Bottleneck.PRODUCER, because=said, advice=(Advice(why=why),))


def _none(load: Load) -> Verdict:
    names = (("worker CPU", load.python), ("Redis CPU", load.redis))
    unknown = [name for name, share in names if share is None]
    said = "Nothing is saturated"
    if unknown:
        said = f"Nothing that could be measured is saturated; unknown: {', '.join(unknown)}"
    if load.python is not None:
        waited = max(0.0, 1 - load.python)
        said += f". A worker process computed for {load.python:.0%} of the time"
        said += f" and waited for {waited:.0%}, for Redis or its jobs"
    advice = _fuller_calls(load)
    if more := _more_processes(load):
        why = "while one process waits, another computes."
        advice.append(Advice(setting=f"--processes {more}", why=why))
    if not advice:
        advice.append(Advice(why="Keep these settings: no other one promises much more."))
    return Verdict(bottleneck=Bottleneck.NONE, because=f"{said}.", advice=tuple(advice))


# -- what to try -----------------------------------------------------------------------------------


def _fuller_calls(load: Load) -> list[Advice]:
    """Return the advice to let more jobs share a call, where jobs do not wait by themselves."""
    if load.task_ms or load.concurrency >= _DEFAULT_CONCURRENCY:
        return []
    why = f"a call carries at most as many jobs, now {load.concurrency}, and costs much the same."
    return [Advice(setting=f"--concurrency {_DEFAULT_CONCURRENCY}", why=why)]


def _overlap(load: Load, waiting: float) -> list[Advice]:
    """Return the advice by which waiting for Redis counts less: for more jobs, or in parallel."""
    wanted = min(load.concurrency * waiting / _LITTLE_WAITING, _CALL_JOBS)
    more = min(_ROUND, key=lambda n: abs(math.log(n / wanted)))
    if more > load.concurrency:
        why = "more jobs share each call."
        return [Advice(setting=f"--concurrency {more}", why=why)]
    if more := _more_processes(load):
        return [Advice(setting=f"--processes {more}", why="their calls overlap.")]
    return []


def _more_processes(load: Load) -> int | None:
    """Return how many processes the cores and Redis have room for, if that is more than now."""
    if (load.machine or 0.0) >= FULL:
        return None
    room = 2.0 if load.redis is None else FULL / max(load.redis, 0.01)
    most = min(load.cores, math.ceil(load.processes * min(room, 8.0)))
    return most if most > load.processes else None


def _headroom(load: Load) -> float:
    """Return how many times as much the CPUs bear; 2 where nothing is known."""
    bounds = [FULL / max(s, 0.01) for s in (load.python, load.redis) if s is not None]
    if load.machine is not None and load.python is not None:
        # only our part of it grows, Redis included: it may be on this machine
        ours = (load.processes * load.python + (load.redis or 0.0)) / load.cores
        bounds.append(1 + max(0.0, FULL - load.machine) / max(ours, 0.01))
    return min(bounds, default=2.0)


def _room(load: Load) -> str:
    if load.redis is None:
        return ""
    return f", and Redis has room for about {FULL / max(load.redis, 0.01):.1f} times as much"


def _busy(load: Load) -> str:
    shares = (("worker CPU", load.python), ("Redis CPU", load.redis))
    said = [f"{name} is {'unknown' if s is None else f'at {s:.0%}'}" for name, s in shares]
    if load.machine is not None and load.machine >= FULL:
        said.append(f"this machine at {load.machine:.0%}")
    return ", ".join(said)


def _rounded_down(value: float) -> int:
    return max((n for n in _ROUND if n <= value), default=1)
