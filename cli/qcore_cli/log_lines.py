"""What a log line looks like: JSON for machines, text in a file, few columns on a terminal."""

import json
from collections.abc import Mapping
from typing import Any

from qcore_cli.terminal import printable

#: Fields that have their place, in the order in which structlog's own lines show them.
_PLACED = ("timestamp", "level", "event", "exception")
#: What nobody needs who watches a terminal; JSON has everything.
_UNSEEN = ("owner", "pid")
_COLORS = {"debug": "\x1b[2m", "warning": "\x1b[33m", "error": "\x1b[31m", "critical": "\x1b[31m"}
_RESET = "\x1b[0m"


def json_line(event: Mapping[str, Any]) -> str:
    """Return one JSON document; what JSON has no word for is shown as Python would."""
    try:
        return json.dumps(event, default=repr)
    except (TypeError, ValueError, RecursionError):  # keys that are no texts, or a circle
        return json.dumps({str(name): _shown(value) for name, value in event.items()})


def text_line(event: Mapping[str, Any]) -> str:
    """Return a line for a file, and the trace below it."""
    fields = " ".join(_fields(event))
    head = f"{event['timestamp']} [{event['level']:9}] {printable(event['event'])}"
    return f"{head:<60} {fields}".rstrip() + _below(event)


def terminal_line(event: Mapping[str, Any], columns: int, *, color: bool) -> str:
    """Return what fits the columns of a terminal, broken where it must be, and the trace below."""
    at, level = event["timestamp"][11:19], str(event["level"])
    if event["event"] == "job.acked":
        return _ack(event, at, columns)
    say = _SENTENCES.get(event["event"])
    words = say(event) if say else [printable(event["event"]), *_fields(_seen(event))]
    if level != "info":
        words.insert(0, level)
    lines = [at]
    for word in words:
        if len(lines[-1]) + 1 + len(word) > columns and lines[-1].strip():
            lines.append(" " * len(at))
        lines[-1] += f" {word}"
    text = "\n".join(line.rstrip() for line in lines)
    if color and level in _COLORS:
        text = f"{_COLORS[level]}{text}{_RESET}"
    return text + _below(event)


def _seen(event: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields for a terminal, a job by the name that commands take."""
    seen = {name: value for name, value in event.items() if name not in _UNSEEN}
    if "job" in seen and seen.get("queue"):
        seen = {"job": f"{seen.pop('queue')}/{seen.pop('job')}", **seen}
    return seen


def _ack(event: Mapping[str, Any], at: str, columns: int) -> str:
    ms = event["duration_ms"]
    took = f"{ms} ms" if ms < 1000 else f"{ms / 1000:.1f} s"
    line = printable(f"{at} done    {str(event['task']).rpartition('.')[2]}  {took}")
    whole = printable(f"{line}  {event['queue']}/{event['job']}")
    return whole if len(whole) <= columns else line[:columns]


def _draining(event: Mapping[str, Any]) -> list[str]:
    running = event["running"]
    if not running:
        return ["stopping:", "no", "job", "runs"]
    named = ", ".join(map(str, event["oldest"]))
    jobs = "1 job" if running == 1 else f"{running} jobs"
    return (
        f"stopping: waits for {jobs}, at most {event['timeout_s']:g} s: {printable(named)}. Ctrl-C "
        "again cancels what runs and gives it back"
    ).split()


_SENTENCES = {"supervisor.draining": _draining}


def _fields(event: Mapping[str, Any]) -> list[str]:
    return [f"{printable(k)}={_shown(v)}" for k, v in event.items() if k not in _PLACED]


def _below(event: Mapping[str, Any]) -> str:
    lines = str(event.get("exception") or "").splitlines()
    return "".join(f"\n    {printable(line)}" for line in lines)


def _shown(value: object) -> str:
    try:
        if not isinstance(value, str):
            return printable(repr(value))
        return value if value.isprintable() and value and " " not in value else repr(value)
    except Exception as e:  # noqa: BLE001 - a __repr__ of the user's that raises
        return f"<{type(value).__name__}, which cannot be shown: {type(e).__name__}>"
