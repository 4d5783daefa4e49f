"""What a supervisor learns of an app before it starts workers, whatever the app does at import."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from qcore import ConfigError
from qcore_cli import describe as describing
from tests.support.fleet import Fleet
from tests.support.waiting import eventually

APP = "import os, sys, threading, time, qcore\napp = qcore.App('redis://127.0.0.1:1')\n"
ODD = {
    "prints": "print('{}' * 1000); os.write(1, b'[]')",
    "closes": "sys.stdout.close(); sys.stderr.close(); os.close(1); os.close(2)",
    "threads": "threading.Thread(target=time.sleep, args=(3600,)).start()",
    "forks": "if os.fork() == 0: time.sleep(3600)",
}
MISTAKES = {
    "raise KeyboardInterrupt('enough')": "KeyboardInterrupt: enough",
    "os._exit(3)": "exited with 3",
    "os.kill(os.getpid(), 11)": "was ended by SIGSEGV",
    "app.configure = None": "TypeError",
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", ODD)
def test_app_that_does_odd_things_at_import_is_described(folder: Path, name: str):
    (folder / "odd.py").write_text(APP + ODD[name])
    began_at = time.monotonic()
    assert describing.describe("odd:app", None, "mine").broker.namespace == "mine"
    assert time.monotonic() - began_at < 60, "it was waited for"


@pytest.mark.parametrize("code", MISTAKES)
def test_app_that_cannot_be_described_is_one_line(folder: Path, code: str):
    (folder / "odd.py").write_text(APP + code)
    with pytest.raises(ConfigError) as caught:
        describing.describe("odd:app", None, None)
    assert MISTAKES[code] in str(caught.value)
    assert "\n" not in str(caught.value)


def test_import_that_fails_shows_the_frames_of_the_user(folder: Path):
    (folder / "odd.py").write_text("import deep\n")
    (folder / "deep.py").write_text("def read():\n    {}['DB']\n\nread()\n")
    command = (sys.executable, "-m", "qcore_cli", "worker", "odd:app")
    said = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    first, *trace = said.stderr.splitlines()
    assert said.returncode == 1
    assert first == (f"qcore: importing odd failed: KeyError: 'DB' ({folder / 'deep.py'}, line 2)")
    assert [line.split()[1:4:2] for line in trace if line.startswith("  File ")] == [
        [f'"{folder / "odd.py"}",', "1,"],
        [f'"{folder / "deep.py"}",', "4,"],
        [f'"{folder / "deep.py"}",', "2,"],
    ]


def test_import_that_does_not_end_is_told_of_and_given_up(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(describing, "_SLOW_IMPORT_S", 0.1)
    monkeypatch.setattr(describing, "_IMPORT_S", 0.2)
    (folder / "odd.py").write_text(APP + "time.sleep(3600)")
    with pytest.raises(ConfigError, match="importing odd:app took more than"):
        describing.describe("odd:app", None, None)
    assert capfd.readouterr().err == "qcore: odd:app is still being imported after 0.1 s\n"


MANY = "app = App(queues=[f'{n:060}' for n in range(2500)])\n"


@pytest.mark.skipif(sys.platform != "linux", reason="the limit of Linux")
async def test_settings_of_a_worker_may_be_longer_than_a_variable_of_the_environment(fleet: Fleet):
    fleet.write_tasks("shop", MANY)
    command = fleet.start(processes=1, app="shop:app", lease=30)
    await eventually(lambda: command.events("worker.started"), 60)
    assert not command.events("worker.failed")
