"""Reads Lua scripts as text: their headers, the names they give to KEYS and ARGV, their calls."""

import re
from pathlib import Path
from typing import NamedTuple

import qcore.broker.redis
from qcore.broker.redis.keys import NAMESPACE_KEYS, QUEUE_KEYS

FOLDER = Path(next(iter(qcore.broker.redis.__path__))) / "lua"
MAX_LINES = 80
KEYS = QUEUE_KEYS | NAMESPACE_KEYS

READS = {
    "EXISTS",
    "HEXISTS",
    "HGET",
    "HGETALL",
    "HLEN",
    "HMGET",
    "HSCAN",
    "HSTRLEN",
    "LINDEX",
    "LLEN",
    "LPOS",
    "TIME",
    "ZCARD",
    "ZCOUNT",
}
READS |= {"ZMSCORE", "ZRANGE", "ZRANGEBYSCORE", "ZRANK", "ZSCAN", "ZSCORE"}
WRITES = {"HDEL", "HSET", "HSETNX", "LPOP", "LPUSH", "PUBLISH", "RPUSH", "UNLINK", "ZADD", "ZREM"}

_INCLUDE = re.compile(r"^-- @include (.+)$", re.MULTILINE)
_KEY_LINE = re.compile(r"^--(?: KEYS|     )  (\w+) +(list|zset|hash|set) +(\S.*)$")
#: Names of a rest of arguments.
_RESTS = ("items", "tokens", "ids", "limits")
_ARGV_LINE = re.compile(r"^--(?: ARGV|     )  (\w+)(?:\.\.\.)? +\S")
_ASSIGNMENT = re.compile(r"^ *(?:local )?([\w.]+(?:, [\w.]+)*) = ((?:.*,\n)*.*)$", re.MULTILINE)
_CALL = re.compile(r"redis\.p?call\(\s*'(\w+)'\s*(?:,\s*([^,()]+(?:\[[^]]*\])?[^,()]*))?")
_GUARD = re.compile(
    r"^redis\.call\((?:'ZREM', (?:\w+(?:\[1\])?\.)?active|'HDEL', (?:fleet|control)), ''\)$",
    re.MULTILINE,
)
_FUNCTION = re.compile(
    r"^local function \w+\([^)]*\)(?:.* end$|\n(?:(?!end$).*\n)*end$)", re.MULTILINE
)


class Header(NamedTuple):
    """The comment at the top of a script."""

    summary: str
    keys: dict[str, tuple[str, str]]
    argv: tuple[str, ...]
    reply: str


def header_of(source: str) -> Header:
    """Read the header; a part that is missing is empty."""
    head = re.match(r"(?:--.*\n)*", source)
    lines = head[0].splitlines() if head else []
    part, keys, argv, reply = "", dict[str, tuple[str, str]](), list[str](), ""
    for line in lines[1:]:
        part = line[3:8].strip() or part
        if part == "KEYS" and (found := _KEY_LINE.match(line)):
            keys[found[1]] = (found[2], found[3].strip())
        elif part == "ARGV" and (found := _ARGV_LINE.match(line)):
            argv.append(found[1])
        elif part == "reply":
            reply += line[8:].strip() + " "
    return Header(lines[0] if lines else "", keys, tuple(argv), reply.strip())


def included(source: str) -> list[str]:
    """Return the names of the included files."""
    return [name for found in _INCLUDE.finditer(source) for name in found[1].split()]


def expanded(source: str) -> str:
    """Return the script as the server gets it, read without the loader of the library."""
    library = {path.stem: path.read_text() for path in (FOLDER / "lib").glob("*.lua")}
    return _INCLUDE.sub(
        lambda found: "\n".join(library.get(name, "") for name in found[1].split()), source
    )


def main_body(source: str) -> str:
    """Return the script without comments and without its local functions."""
    return _FUNCTION.sub("", _bare(source))


def named_slots(source: str, table: str) -> dict[int, str]:
    """Return the variable that stands for each slot of KEYS or ARGV, by its number from 1.

    The first of a rest of arguments is named by an index: `local a, items = ARGV[1], 2`.
    """
    slots: dict[int, str] = {}
    for found in _ASSIGNMENT.finditer(_bare(source)):
        names = [name.strip().removeprefix("k.") for name in found[1].split(",")]
        values = re.sub(r"\s+", " ", found[2])
        whole = re.fullmatch(rf"unpack\({table}, (?:at \+ )?(\d+), (?:at \+ )?(\d+)\)", values)
        if whole:
            numbers = range(int(whole[1]), int(whole[2]) + 1)
            slots |= dict(zip(numbers, names, strict=True))
            continue
        for name, value in zip(names, values.split(", "), strict=False):
            one = re.fullmatch(rf"{table}\[(\d+)\]", value)
            if one:
                slots[int(one[1])] = name
            elif table == "ARGV" and value.isdigit() and name in _RESTS:
                slots[int(value)] = name
    return slots


def mistakes(source: str, keys: tuple[str, ...], *, guarded: bool, reads_only: bool) -> list[str]:
    """Return what is wrong with a script, by what its Python entry says; empty when all is well.

    Args:
        source: The file.
        keys: The names of KEYS in order.
        guarded: Whether its first write must be the removal of nothing, which a full Redis allows.
        reads_only: Whether it may not write at all.
    """
    header, found = header_of(source), list[str]()
    if tuple(header.keys) != keys:
        found.append(f"header has KEYS {tuple(header.keys)}, the entry {keys}")
    found += [
        f"header says {name} is {said}, keys.py says {KEYS.get(name)}"
        for name, said in header.keys.items()
        if KEYS.get(name) != said
    ]
    if not header.reply:
        found.append("header has no reply")
    for table, names in (("KEYS", keys), ("ARGV", header.argv)):
        if named_slots(source, table) != dict(enumerate(names, 1)):
            found.append(f"variables for {table} are {named_slots(source, table)}")
    lines = len(source.splitlines())
    if lines > MAX_LINES:
        found.append(f"{lines} lines")
    found += _wrong_includes(source) + _wrong_calls(expanded(source), keys)
    found += _wrong_writes(source, guarded=guarded, reads_only=reads_only)
    return found


def _wrong_includes(source: str) -> list[str]:
    library = {path.stem: _bare(path.read_text()) for path in (FOLDER / "lib").glob("*.lua")}
    names = included(source)
    found = [f"includes {name}, which is not there" for name in names if name not in library]
    for name, text in library.items():
        others = [library[other] for other in names if other in library and other != name]
        functions = re.findall(r"^local function (\w+)", text, re.MULTILINE)
        calls = rf"\b(?:{'|'.join(functions)})\("
        used = any(re.search(calls, other) for other in (_bare(source), *others))
        if name in names and not used:
            found.append(f"includes {name} and does not use it")
        if name not in names and used:
            found.append(f"uses {name} and does not include it")
    return found


def _bare(source: str) -> str:
    return re.sub(r"--.*", "", source)


def _wrong_calls(source: str, keys: tuple[str, ...]) -> list[str]:
    found = []
    for command, key in _CALL.findall(_bare(source)):
        if command not in READS | WRITES:
            found.append(f"calls {command}")
        elif command not in ("TIME", "PUBLISH") and not _is_declared(key.strip(), keys):
            found.append(f"{command} on {key.strip()!r}, which is no declared key")
    return found


def _is_declared(key: str, keys: tuple[str, ...]) -> bool:
    # `key` is a parameter, or runs through declared keys; `list` is one of two of them
    path = re.fullmatch(r"(?:\w+(?:\[\d+\])?\.)?(\w+)", key)
    return path is not None and path[1] in (*keys, "key", "list")


def _wrong_writes(source: str, *, guarded: bool, reads_only: bool) -> list[str]:
    if reads_only:
        commands = [command for command, _ in _CALL.findall(_bare(expanded(source)))]
        return [f"{name} in a script that reads only" for name in commands if name in WRITES]
    if not guarded:
        return []
    body = main_body(source)
    guard = _GUARD.search(body)
    if guard is None:
        return ["its main body does not begin with the removal of nothing"]
    before = body[: guard.start()]
    writers = re.findall(r"\b(?:forget|give_back|promote_due|lease|fitting)\(", before)
    writers += [c for c, _ in _CALL.findall(before) if c in WRITES]
    return [f"{writer} before the removal of nothing" for writer in writers]
