"""What `qcore bench` shows: a line per measurement as it is taken, then what limits, and why."""

import textwrap
from collections.abc import Awaitable
from typing import TypeVar

import msgspec

from qcore_cli.bench.report import Alone, Drain, Millis, Report, Settings
from qcore_cli.bench.verdict import Bottleneck, Load
from qcore_cli.format import counted, print_json
from qcore_cli.terminal import echo

T = TypeVar("T")
_LABEL, _WIDTH = 25, 79
_NAMES = {
    Bottleneck.REDIS: "the CPU of Redis",
    Bottleneck.PYTHON: "the CPU of the worker processes",
    Bottleneck.CORES: "the cores of this machine",
    Bottleneck.NETWORK: "round trips to Redis",
    Bottleneck.WRITES: "the time that Redis takes to write",
    Bottleneck.SLOTS: "the slots of the workers",
    Bottleneck.PRODUCER: "the producer",
    Bottleneck.NONE: "none",
}


class Screen:
    """Prints for people."""

    def begin(self, url: str, server: str, namespace: str, settings: Settings) -> None:
        """Say what is about to be measured, and where."""
        task = f"wait {settings.task_ms} ms" if settings.task_ms else "do nothing"
        jobs = f"{task}, payload {settings.payload_bytes:,} bytes"
        if settings.queues > 1:
            jobs += f", {settings.queues} queues"
        each = (
            f"concurrency {settings.concurrency} each"
            if settings.processes > 1
            else (f"concurrency {settings.concurrency}")
        )
        workers = f"{counted(settings.processes, 'process', 'es')}, {each}"
        echo(f"server     {server} at {url}")
        echo(f"namespace  {namespace}, removed at the end")
        echo(f"workers    {workers}; {counted(settings.cores, 'core')} here")
        echo(f"jobs       {jobs}\n")

    async def step(self, label: str, measuring: Awaitable[T]) -> T:
        """Print the label, and behind it what was measured, once that is known."""
        echo(f"{label:<{_LABEL}}", end="")
        try:
            found = await measuring
        except BaseException:
            echo()
            raise
        echo(_shown(found))
        return found

    def end(self, report: Report) -> None:
        """Say where the time went, what limits, and what to try."""
        echo("\nwhile draining")
        for line in _usage(report.drain, report.settings):
            echo(f"  {line}")
        echo(f"\nBottleneck: {_NAMES[report.bottleneck]}.")
        _wrap(report.because, "")
        for advice in report.advice:
            setting = f"qcore worker APP {advice.setting}: " if advice.setting else ""
            _wrap(f"{setting}{advice.why}", "-> ")
        if not report.settings.task_ms:
            echo()
            _wrap("These jobs do nothing; for jobs that wait: qcore bench --task-ms 50", "")


class Silent(Screen):
    """Prints nothing: the report is for a program."""

    def begin(self, url: str, server: str, namespace: str, settings: Settings) -> None:
        """Say nothing."""

    async def step(self, label: str, measuring: Awaitable[T]) -> T:
        """Return what was measured."""
        return await measuring

    def end(self, report: Report) -> None:
        """Print one JSON document."""
        print_json(msgspec.to_builtins(report))


def _shown(found: object) -> str:
    match found:
        case Millis():
            return f"{'p50':>20} {found.p50:>7.2f} ms   p99 {found.p99:>7.2f} ms"
        case Alone(per_s=per_s, ms=ms):
            return f"{per_s:>9,.0f} jobs/s{_shown(ms)[15:]}"
        case Load(per_s=per_s) | float(per_s):
            return f"{per_s:>9,.0f} jobs/s"
        case _:
            return str(found)


def _usage(drain: Drain, settings: Settings) -> list[str]:
    python = f"of a core{' in each process' if settings.processes > 1 else ''}"
    rows = [
        ("worker CPU", drain.worker_cpu, f"{python}{_us(drain.python_us_per_job)}"),
        ("Redis CPU", drain.redis_cpu, f"of its one core{_us(drain.redis_us_per_job)}"),
        ("this machine", drain.machine, f"of its {counted(settings.cores, 'core')}, by all"),
        ("round trips", drain.round_trips, "of a job's time in its slot"),
    ]
    if settings.task_ms:
        rows.append(("waiting jobs", drain.slots, "of all slots"))
    if drain.throttled:
        rows.insert(3, ("CPU quota", drain.throttled, "of its periods used up"))
    return [
        f"{label:<{_LABEL}}{'unknown' if share is None else f'{share:>4.0%}  {what}'}"
        for label, share, what in rows
    ]


def _us(us: float | None) -> str:
    return "" if us is None else f"; {us:.0f} us a job"


def _wrap(text: str, mark: str) -> None:
    echo(textwrap.fill(text, _WIDTH, initial_indent=mark, subsequent_indent=" " * len(mark)))
