"""How one job is found and shown, by `qcore jobs` and `qcore dead`."""

from typing import Any

import msgspec

from qcore import ConfigError
from qcore.broker.redis.broker import Broker
from qcore.broker.redis.fleet import Fleet
from qcore.broker.redis.inspector import Inspector
from qcore.environment import broker_config
from qcore.model.job import Death
from qcore.model.reading import shown_time
from qcore.model.reference import reference
from qcore.model.views import JobRecord, RunsOn, UniqueKeyView
from qcore_cli.format import print_json, short_age
from qcore_cli.options import split_refs, with_broker
from qcore_cli.terminal import echo, printable


def find(ref: str, url: str | None, namespace: str | None) -> tuple[JobRecord, RunsOn | None]:
    """Return what is known of the job QUEUE/ID, and who runs it.

    Raises:
        ConfigError: there is none.
    """
    ((queue, ids),) = split_refs([ref]).items()

    async def read(broker: Broker) -> tuple[JobRecord | None, RunsOn | None, str]:
        record = await Inspector(broker).job(queue, ids[0])
        owner = (record.token or "").partition(":")[0] if record else ""
        runs_on = await Fleet(broker).runs_on(owner, ref) if owner else None
        return record, runs_on, Inspector(broker).where

    record, runs_on, where = with_broker(broker_config(url, namespace), read)
    if record is None:
        raise ConfigError(
            f"there is no job {ref} in {where}: the id, --url or --namespace is wrong, or the job "
            "has ended and its outcome is no longer kept"
        )
    return record, runs_on


def show(record: JobRecord, runs_on: RunsOn | None, as_json: bool) -> None:
    """Print everything known about a job."""
    plain = plain_of(record) | {"runs_on": msgspec.to_builtins(runs_on)}
    if as_json:
        print_json(plain)
        return
    rows = [
        ("job", plain["ref"]),
        ("status", record.status),
        ("task", record.task),
        ("arguments", plain["arguments"]),
        ("enqueued", time_of(record.enqueued_ms)),
        (
            {"scheduled": "due", "active": "lease until"}.get(record.status, "died"),
            time_of(record.at_ms),
        ),
        ("runs", None if runs_on is None else _runs(runs_on)),
        ("lease", record.token),
        ("attempts", record.attempts or None),
        ("crashes", record.crashes or None),
        ("reason", record.reason),
        ("result", plain["result"]),
        *(() if record.unique is None else _key_rows(record.unique)),
    ]
    for name, value in rows:
        if value not in (None, "-"):
            echo(f"{name:<12} {printable(value)}")
    for death in record.deaths:
        echo(f"{'crash':<12} {printable(_crash(death))}")
    for error in record.errors:
        when = f"{time_of(error.started_ms)}, {error.ended_ms - error.started_ms} ms"
        where = f"{when}, {error.host} pid {error.pid}"
        echo()
        echo(printable(f"attempt {error.attempt}  {error.kind}  {where}"))
        echo("  " + error.text.rstrip().replace("\n", "\n  "))


def _key_rows(key: UniqueKeyView) -> list[tuple[str, object]]:
    return [
        ("key", f"{key.value}  {key.kind}, until {key_end(key)}"),
        ("asked first", time_of(key.first_ms)),
        ("times asked", key.times),
    ]


def key_end(key: UniqueKeyView) -> str:
    """Return until when a key is held: "done", "started", or the end of its window."""
    return key.until if key.until_ms is None else shown_time(key.until_ms)


def _runs(on: RunsOn) -> str:
    since = "for a moment"
    if on.age_s is not None:
        since = f"for {short_age(on.age_s)}"
    elif on.max_s is not None:
        since = f"for less than {short_age(on.max_s)}"
    return f"on {on.host}, in {on.worker} (pid {on.pid}), {since}"


def _crash(death: Death) -> str:
    beside = "alone"
    if death.beside:
        more = "" if len(death.beside) == death.jobs - 1 else ", ..."
        beside = f"beside {death.jobs - 1}: {', '.join(death.beside)}{more}"
    return (
        f"{death.how}, pid {death.pid} of {death.worker} on {death.host}, memory at its "
        f"peak {death.peak_rss_bytes / 1e6:.0f} MB, {beside}"
    )


def plain_of(record: JobRecord) -> dict[str, Any]:
    """Return a record as the JSON documents have it."""
    plain = msgspec.to_builtins(msgspec.structs.replace(record, payload=None, result=None))
    del plain["payload"]
    return plain | {
        "ref": reference(record.queue, record.id),
        # in Redis these are arrays, to save their keys
        "errors": [msgspec.structs.asdict(error) for error in record.errors],
        "deaths": [msgspec.structs.asdict(death) for death in record.deaths],
        "arguments": _readable(record.payload),
        "result": _readable(None if record.result is None else bytes(record.result)),
    }


def _readable(raw: bytes | None) -> Any:
    """Return encoded arguments as they read, or bytes that are none as hexadecimal digits."""
    if raw is None:
        return None
    try:
        return msgspec.to_builtins(msgspec.msgpack.decode(raw))
    except (msgspec.MsgspecError, ValueError, TypeError, RecursionError):
        return raw.hex()


def time_of(ms: int | None) -> str:
    """Return a time as operators read it; `-` for none."""
    return "-" if ms is None else shown_time(ms)
