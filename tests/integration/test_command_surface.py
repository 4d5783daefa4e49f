"""What an operator sees of odd data, of the wrong place, and of many queues."""

import asyncio
import json
import os
import re
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

import msgspec
import pytest
import typer

from qcore import App
from qcore.broker.identity import new_id
from qcore.broker.redis.broker import Broker
from qcore.model.codec import Envelope, encode
from qcore.model.job import Job
from qcore_cli import main
from qcore_cli.options import BOLD
from tests.support.commands import Command, one_line
from tests.support.content import forget_namespace

NASTY = "\x1b[2J\u202e[/b]\n"


async def put(app: App, args: bytes, *, task: str = "t", queue: str = "default") -> str:
    """Enqueue whatever somebody wrote; return its reference."""
    id = new_id()
    envelope = encode(Envelope(version=1, task=task, args=msgspec.Raw(args)))
    await app.broker.enqueue([Job(id, queue, envelope)])
    return f"{queue}/{id}"


ARGS = {
    "nesting": b"\x91" * 1500 + b"\x90",
    "tuple keys": msgspec.msgpack.encode({(1, 2): {(3,): "x"}}),
    "year above 9999": msgspec.msgpack.encode([2**62, 1e300, float("nan")]),
    "escapes": msgspec.msgpack.encode([NASTY]),
    "no msgpack": b"\xc1",
}


@pytest.mark.parametrize("kind", ARGS)
@pytest.mark.parametrize("form", [(), ("--json",)])
async def test_odd_arguments_are_shown_without_a_traceback(
    app: App, qcore: Command, kind: str, form: tuple[str, ...]
):
    ref = await put(app, ARGS[kind], task=NASTY)
    said = await qcore("jobs", "show", ref, *form)
    assert (said.code, said.err) == (0, "")
    assert "\x1b" not in said.out
    assert "\u202e" not in said.out
    if form:
        assert json.loads(said.out)["ref"] == ref


@pytest.mark.parametrize("at_ms", [10**15, 10**30, -(10**15)])
async def test_times_that_no_calendar_has_are_shown(app: App, qcore: Command, at_ms: int):
    ref = await put(app, msgspec.msgpack.encode([]))
    queue, _, id = ref.partition("/")
    keys = app.broker._keys_of(queue).names
    await app.broker._ask([(b"LREM", keys["ready"], 0, id), (b"ZADD", keys["dead"], at_ms, id)])
    for words in (("jobs", "show", ref), ("dead", "show", ref), ("dead", "list", queue)):
        said = await qcore(*words)
        assert (said.code, said.err) == (0, ""), words


@pytest.mark.parametrize("words", ["jobs show {}", "dead list default", "queues", "status", "top"])
async def test_terminal_of_another_encoding_is_no_mistake(app: App, qcore: Command, words: str):
    ref = await put(app, msgspec.msgpack.encode(["été 語"]), task="tâche.語")
    said = await qcore(*words.format(ref).split(), PYTHONIOENCODING="ascii:strict")
    assert said.code in (0, 4)
    assert said.err == ""


@pytest.mark.parametrize("closed", [0, 1, 2])
async def test_closed_streams_are_no_mistake(
    app: App, environment: dict[str, str], tmp_path: Path, closed: int
):
    shell = f'exec {closed}>&-; exec "$0" -m qcore_cli queues'
    process = await asyncio.create_subprocess_exec(
        *("sh", "-c", shell, sys.executable),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
        cwd=tmp_path,
    )
    _, err = await asyncio.wait_for(process.communicate(), 60)
    assert (process.returncode, err) == (0, b"")


@pytest.mark.parametrize(("words", "code"), [("queues", 0), ("worker tasks:app", 1)])
async def test_folder_that_was_removed_is_no_traceback(
    app: App, environment: dict[str, str], tmp_path: Path, words: str, code: int
):
    folder = tmp_path / "gone"
    folder.mkdir()
    shell = f'rmdir "$PWD"; exec "$0" -m qcore_cli {words}'
    process = await asyncio.create_subprocess_exec(
        *("sh", "-c", shell, sys.executable),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
        cwd=folder,
    )
    _, err = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == code, err
    assert b"Traceback" not in err


async def test_arguments_that_are_no_text_are_one_line(
    app: App, environment: dict[str, str], tmp_path: Path
):
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "qcore_cli", "jobs", "show", b"default/\xff\xfe"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
        cwd=tmp_path,
    )
    _, err = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 1
    assert len(err.splitlines()) == 1
    assert err.startswith(b"qcore: ")


@pytest.mark.parametrize("path", ["tasks.py:app", "./tasks.py:app", "tasks.py"])
async def test_file_in_place_of_a_module_is_explained(qcore: Command, path: str):
    said = one_line(await qcore("worker", path))
    assert "tasks:app" in said


@pytest.mark.parametrize(
    "typo", ["claer", "restat", "pasue", "resme", "bnch", "dead purg", "unique fre"]
)
async def test_mistyped_command_is_not_answered_with_one_that_changes_anything(
    qcore: Command, typo: str
):
    said = await qcore(*typo.split())
    assert said.code == 2
    for word in ("clear", "restart", "pause", "resume", "purge", "revive", "cancel", "free"):
        assert word not in said.err, said.err
    assert "queues" in (await qcore("qeues")).err


#: Options without a value that a slip of the finger may well lead to.
HARMLESS = {"--help", "--json", "--wait", "--version", "--verify", "--print-stop-timeout"}


def flags(command: Any) -> set[str]:
    """Return the options without a value of a command and of those below it."""
    found = {name for p in command.params if getattr(p, "is_flag", False) for name in p.opts}
    return found.union(*map(flags, getattr(command, "commands", {}).values()))


def test_each_option_that_asks_for_more_is_known_as_such():
    assert flags(typer.main.get_command(main.app)) - {"--help"} == (HARMLESS | BOLD) - {
        "--help",
        "--all-of",
    }


@pytest.mark.parametrize(
    ("typo", "bold"),
    [
        ("pause --al", "--all"),
        ("resume --alll", "--all"),
        ("dead purge --al-of x", "--all-of"),
        ("dead revive --all-off x", "--all-of"),
        ("clear default --ye", "--yes"),
        ("restart --exi", "--exit"),
        ("doctor --repar", "--repair"),
    ],
)
async def test_mistyped_option_is_not_answered_with_one_that_does_more(
    qcore: Command, typo: str, bold: str
):
    said = await qcore(*typo.split())
    assert said.code == 2
    assert "No such option: --" in said.err
    suggested = said.err.partition("(Possible options: ")[2]
    assert bold not in re.findall(r"--[\w-]+", suggested)


async def test_mistyped_option_that_is_harmless_is_answered(qcore: Command):
    assert "--limit" in (await qcore("dead", "list", "default", "--limt", "3")).err


async def test_nothing_here_names_the_namespace_and_the_redis(app: App, qcore: Command):
    where = app.inspector.where
    assert where in (await qcore("queues")).out
    assert where in (await qcore("status")).out
    await app.broker.register(["default"])
    assert where in (await qcore("dead", "list", "default")).out
    assert where in (await qcore("dead", "list", "nowhere")).err
    assert where in (await qcore("jobs", "show", "default/nobody")).err


@pytest.mark.parametrize(
    "words",
    [
        "jobs cancel default/nobody",
        "dead revive default/nobody",
        "dead revive --all-of default --yes",
        "dead revive --all-of nowhere --yes",
        "dead purge default/nobody --yes",
        "dead purge --all-of default --yes",
        "clear default --yes",
        "clear nowhere --yes",
        "restart",
        "pause nowhere",
        "pause --all",
        "resume default",
        "resume nowhere",
        "resume --all",
        "wait-empty default",
        "wait-empty nowhere",
        "queues forget nowhere",
        "unique free default p1",
        "unique free nowhere p1",
    ],
)
async def test_repair_of_nothing_names_the_namespace_and_the_redis(
    app: App, qcore: Command, words: str
):
    if words != "pause --all":
        await app.broker.register(["default"])
    said = await qcore(*words.split())
    assert app.inspector.where in said.out + said.err


async def test_status_names_the_namespaces_in_which_jobs_wait(app: App, qcore: Command):
    other = f"t{uuid.uuid4().hex[:12]}"
    broker = Broker(msgspec.structs.replace(app.broker.config, namespace=other))
    try:
        await broker.enqueue([Job(new_id(), "q", b"\x00")])
        near = json.loads((await qcore("status", "--json")).out)["elsewhere"]
        assert {"namespace": other, "supervisors": 0, "waiting": 1} in near
        assert f"namespace {other}: 0 supervisors, 1 waiting" in (await qcore("status")).out
    finally:
        await broker.close()
        await forget_namespace(app.broker.config.url, other)


async def test_doctor_says_that_nobody_serves_a_queue_with_jobs(app: App, qcore: Command):
    await put(app, msgspec.msgpack.encode([]))
    findings = json.loads((await qcore("doctor", "--json")).out)
    (found,) = [f for f in findings if f["check"] == "queue default"]
    assert found["level"] == "warning"
    assert "1 jobs wait, and no worker in" in found["said"]


async def test_many_queues_stay_readable(app: App, qcore: Command):
    await app.broker.register([f"q{n}" for n in range(60)])
    await put(app, msgspec.msgpack.encode([]), queue="q7")
    for _ in range(3):
        await put(app, msgspec.msgpack.encode([]), queue="q50")
    lines = (await qcore("queues")).out.splitlines()
    assert [line.split()[0] for line in lines[1:3]] == ["q50", "q7"]
    assert lines[3] == "60 queues, 58 of them empty; --json lists all."
    said = one_line(await qcore("queues", "nowhere"))
    assert "and 52 more" in said
    assert len((await qcore("queues", "--json")).json) == 60


async def test_dead_list_fits_80_columns_and_counts(app: App, qcore: Command):
    keys = app.broker._keys_of("default").names
    for n in range(7):
        ref = await put(app, msgspec.msgpack.encode([]), task="a.long.module.name." * 5 + NASTY)
        id = ref.partition("/")[2]
        await app.broker._ask([(b"LREM", keys["ready"], 0, id), (b"ZADD", keys["dead"], n, id)])
    lines = (await qcore("dead", "list", "default", "--limit", "3", COLUMNS="80")).out.splitlines()
    assert lines[-1] == "3 of 7; see --limit, --skip and --all."
    assert len(lines) == 7
    assert max(map(len, lines)) <= 80
    all_of_them = (await qcore("dead", "list", "default", "--limit", "3", "--all", "--json")).json
    assert len({row["ref"] for row in all_of_them}) == 7


async def test_prompts_name_the_count(app: App, qcore: Command):
    keys = app.broker._keys_of("default").names
    for n in range(3):
        ref = await put(app, msgspec.msgpack.encode([]))
        id = ref.partition("/")[2]
        await app.broker._ask([(b"LREM", keys["ready"], 0, id), (b"ZADD", keys["dead"], n, id)])
    for _ in range(2):
        await put(app, msgspec.msgpack.encode([]))
    said = one_line(await qcore("dead", "revive", "--all-of", "default"))
    assert "Revive all 3 dead jobs of default?" in said
    assert "all 3 dead jobs" in one_line(await qcore("dead", "purge", "--all-of", "default"))
    assert "Cancel all 2 waiting jobs" in one_line(await qcore("clear", "default"))


async def test_purge_of_nothing_is_a_mistake(app: App, qcore: Command):
    said = await qcore("dead", "purge", "default/nobody", "--yes")
    assert said.code == 1
    assert one_line(said) == f"qcore: 1 of 1 were not dead in {app.inspector.where}"
    assert os.linesep in said.out
