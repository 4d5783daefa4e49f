"""The `qcore` command, as a user runs it: every subcommand, every mistake."""

from pathlib import Path

import pytest

from qcore import App, __version__
from tests.support.commands import Command, one_line
from tests.support.fleet import fleet_on
from tests.support.servers import free_port
from tests.support.waiting import eventually

# -- mistakes --------------------------------------------------------------------------------------


MODULES = {
    "good": "import qcore\napp = qcore.App(queues=['default'])\nnumber = 5\n",
    "none": "",
    "raises": "import qcore\nraise RuntimeError('no licence')\n",
    "imports": "import nothing_of_this_name\n",
    "wrong": "def app(:\n",
    "clash": (
        "import qcore\napp = qcore.App()\n"
        "@app.task(name='x')\nasync def a(): ...\n"
        "@app.task(name='x')\nasync def b(): ...\n"
    ),
}

MISTAKES = {
    "queues nowhere": "there is no queue 'nowhere'",
    "jobs show default/nobody": "there is no job default/nobody",
    "jobs show nonsense": "'nonsense' is no job reference",
    "jobs cancel nonsense": "'nonsense' is no job reference",
    "dead list nowhere": "there is no queue 'nowhere'",
    "dead show default/nobody": "there is no job default/nobody",
    "dead show nonsense": "'nonsense' is no job reference",
    "dead revive": "name the jobs as QUEUE/ID",
    "dead revive default/a --all-of default": "name the jobs as QUEUE/ID",
    "dead revive nonsense": "'nonsense' is no job reference",
    "dead revive default/nobody": ", or without payload: default/nobody",
    "dead revive --all-of default": "Give --yes",
    "dead revive --all-of nowhere --yes": "there is no queue 'nowhere'",
    "dead purge": "name the jobs as QUEUE/ID",
    "dead purge default/a": "Give --yes",
    "dead purge --all-of nowhere --yes": "there is no queue 'nowhere'",
    "unique list nowhere": "there is no queue 'nowhere'",
    "unique show nowhere p1": "there is no queue 'nowhere'",
    "unique show default p1": "no job of default holds the key 'p1' in ",
    "unique free default p1 --task pay": "`qcore unique list default` shows those that are held",
    "clear default": "Give --yes",
    "clear nowhere --yes": "there is no queue 'nowhere'",
    "queues --url ftp://localhost": "is no Redis URL",
    "queues --url localhost:6379": "is no Redis URL",
    "queues --url redis://localhost:nan/0": "is no Redis URL",
    "queues --url embedded://": "needs a folder",
    "queues --namespace a{b": "is not a name",
    "worker good": "is no app path",
    "worker nowhere:app": "there is no module 'nowhere'",
    "worker good:nobody": "'nobody' in good does not exist: it has good:app",
    "worker good:number": "'number' in good is no App: it has good:app",
    "worker none:app": "it holds no App at all",
    "worker raises:app": "RuntimeError: no licence",
    "worker imports:app": "nothing_of_this_name",
    "worker wrong:app": "wrong.py, line 1",
    "worker clash:app": "task x is registered twice",
    "worker good:app --processes 0": "--processes is '0'",
    "worker good:app --processes many": "--processes is 'many'",
    "worker good:app --processes 100000": "processes",
    "worker good:app --concurrency 0": "--concurrency is 0",
    "worker good:app --queues nowhere": "'nowhere', which the app does not declare",
    "worker good:app --queues default,default": "twice",
    "worker good:app --queues ,": "queue",
    "worker good:app --queues default:0": "queue default: weight is 0, allowed is 1 to 1000",
    "worker good:app --queues default:many": "give a weight as a whole number: default:5",
    "worker good:app --queues default:": "give a weight as a whole number: default:5",
    f"worker good:app --queues default:{'9' * 5000}": "give a weight as a whole number: default:5",
    "worker good:app --lease 0.1": "lease",
    "worker good:app --shutdown-timeout 0": "shutdown",
    "worker good:app --shutdown-timeout 0 --print-stop-timeout": "shutdown",
    "worker good:app --max-jobs 0": "--max-jobs is 0",
    "worker good:app --max-time 0.5": "--max-time is 0.5",
    "worker good:app --target-wait 5": "--target-wait needs a range of processes",
    "worker good:app --processes 3 --target-wait 5": "--processes is 3",
    "dead purge default/a --older-than 1d": "--older-than needs --all-of",
    "restart --host ": "--host is empty",
    "restart --queue ": "--queue is empty",
    "restart --timeout 5": "--timeout needs --wait",
    "worker good:app --url ftp://localhost": "is no Redis URL",
}


@pytest.mark.parametrize("words", MISTAKES)
async def test_mistake_is_one_line_and_exit_code_1(
    app: App, qcore: Command, tmp_path: Path, words: str
):
    for name, text in MODULES.items():
        (tmp_path / f"{name}.py").write_text(text)
    await app.broker.register(["default"])
    said = await qcore(*words.split(" "))
    assert said.code == 1, said.err
    assert MISTAKES[words] in one_line(said)
    assert said.out == "" or words == "dead revive default/nobody"


async def test_time_to_stop_is_printed_for_process_managers_without_loading_the_app(
    qcore: Command,
):
    said = await qcore("worker", "nowhere:app", "--print-stop-timeout")
    assert (said.code, said.out, said.err) == (0, "35\n", "")
    words = ("--shutdown-timeout", "90.5", "--print-stop-timeout")
    assert (await qcore("worker", "nowhere:app", *words)).out == "96\n"


@pytest.mark.parametrize(
    ("time", "printed"),
    [("90", "95"), ("90s", "95"), ("1.5m", "95"), ("2h", "7205"), ("1d", "86405")],
)
async def test_times_have_units_and_are_seconds_without(qcore: Command, time: str, printed: str):
    words = ("--shutdown-timeout", time, "--print-stop-timeout")
    assert (await qcore("worker", "nowhere:app", *words)).out == f"{printed}\n"


async def test_dead_show_of_a_living_job_says_where_to_look(app: App, qcore: Command):
    @app.task
    async def nothing() -> None: ...

    job = await nothing.enqueue()
    said = await qcore("dead", "show", job.ref)
    assert said.code == 1
    assert one_line(said).endswith("is not dead, it is ready: use `qcore jobs show`")


@pytest.mark.parametrize("words", ["queues", "worker tasks:app"])
async def test_no_url_away_from_a_terminal_is_a_mistake(qcore: Command, tmp_path: Path, words: str):
    (tmp_path / "tasks.py").write_text("import qcore\napp = qcore.App()\n")
    said = await qcore(*words.split(), QCORE_URL="")
    assert said.code == 1
    assert "no Redis URL: set QCORE_URL" in one_line(said)


async def test_redis_that_is_not_there_is_one_line(qcore: Command):
    said = await qcore("queues", "--url", f"redis://:secret@127.0.0.1:{free_port()}/0")
    assert said.code == 1
    assert "cannot be reached" in one_line(said)
    assert "secret" not in said.err


async def test_folder_that_cannot_be_made_is_one_line(qcore: Command, tmp_path: Path):
    (tmp_path / "file").write_text("")
    said = await qcore("redis", "file/data")
    assert said.code == 1
    assert "cannot use the folder" in one_line(said)


USAGE = (
    "nonsense",
    "worker",
    "worker tasks:app --nonsense",
    "worker tasks:app --concurrency many",
    "dead",
    "dead list",
    "dead list default --limit 0",
    "jobs show",
    "jobs cancel",
    "clear",
    "queues --url",
    "worker tasks:app --lease soon",
    "worker tasks:app --stall -3",
    "worker tasks:app --shutdown-timeout 1h30m",
    "doctor --lease 5x",
    "dead purge --all-of default --older-than old",
)


@pytest.mark.parametrize("words", USAGE)
async def test_wrong_usage_is_explained_with_exit_code_2(qcore: Command, words: str):
    said = await qcore(*words.split())
    assert said.code == 2, said.err
    assert "Usage:" in said.out + said.err or "Error" in said.err
    assert "Traceback" not in said.err


@pytest.mark.parametrize(
    "words", ["", "worker", "queues", "jobs", "jobs show", "dead", "dead list", "clear", "redis"]
)
async def test_help_is_there(qcore: Command, words: str):
    said = await qcore(*words.split(), "--help")
    assert said.code == 0
    assert "Usage:" in said.out


async def test_version_is_that_of_the_package(qcore: Command):
    said = await qcore("--version")
    assert (said.code, said.err) == (0, "")
    assert said.out.startswith(f"qcore {__version__}, Python 3.")


async def test_worker_whose_redis_is_away_says_so_and_goes_on(tmp_path: Path):
    with fleet_on(tmp_path, f"redis://127.0.0.1:{free_port()}/0", "away") as fleet:
        command = fleet.start(processes=1, shutdown_timeout=3.0)
        # it is not said to be ready before Redis has answered it
        await eventually(lambda: command.events("broker.lost"), 40)
        assert not command.events("worker.ready")
        assert command.process.poll() is None
        command.signal()
        assert await command.ended(10) == 0
