"""`qcore demo`, as a user runs it: a whole run, hostile input, verification, kills, resumption."""

import asyncio
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.support.fleet import ROOT
from tests.support.waiting import eventually

pytest.importorskip("reportlab")
COUNTS = ["students", "ok", "dead", "missing", "corrupt", "duplicates"]
KEYS = [*COUNTS, "seconds", "per_minute", "wait_p50_ms", "wait_p99_ms", "rss_max_mb"]
RUN_S = 90.0


class Demo:
    """One call of `qcore demo --json` on a folder, in a session of its own."""

    def __init__(self, folder: Path, *words: str, program: str = "") -> None:
        self.folder = folder
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("QCORE_")}
        command = ("-c", program) if program else ("-m", "qcore_cli")
        self.process = subprocess.Popen(
            [sys.executable, *command, "demo", "--folder", str(folder), "--json", *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=inherited | {"PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "cli")))},
            cwd=folder.parent,
            start_new_session=True,
        )
        self.out = self.err = ""

    async def end(self, code: int = 0) -> dict[str, Any]:
        """Wait for the end and return the JSON object of the last line."""
        try:
            out, err = await asyncio.to_thread(self.process.communicate, timeout=RUN_S)
        finally:
            self.kill()
        self.out, self.err = out.decode(), err.decode()
        log = self.folder / "demo.log"
        assert self.process.returncode == code, (
            self.out + self.err + (log.read_text() if log.exists() else "")
        )
        report = json.loads(self.out.splitlines()[-1])
        assert list(report) == KEYS
        return report

    async def error(self) -> str:
        """Wait for the end and return the one line of a refusal."""
        out, err = await asyncio.to_thread(self.process.communicate, timeout=RUN_S)
        assert (self.process.returncode, err.count(b"\n")) == (1, 1), out + err
        return err.decode()

    async def made(self, count: int) -> None:
        """Wait until so many documents are recorded."""

        def enough() -> bool:
            with suppress(sqlite3.OperationalError):
                path = f"file:{self.folder / 'results.sqlite'}?mode=ro"
                with closing(sqlite3.connect(path, uri=True)) as db:
                    return db.execute("SELECT count(*) FROM documents").fetchone()[0] >= count
            return False

        await eventually(enough, RUN_S)

    def workers(self) -> list[int]:
        """Return the pids of the worker processes."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        commands = {int(p): Path(f"/proc/{p}/cmdline").read_bytes() for p in children.split()}
        return [pid for pid, command in commands.items() if b"qcore_cli.child" in command]

    def kill(self) -> None:
        """End the command and nothing else; workers see the end of their pipes."""
        if self.process.poll() is None:
            self.process.kill()


def is_clean(report: dict[str, Any], students: int) -> bool:
    bad = ("dead", "missing", "corrupt")
    return report["ok"] == report["students"] == students and not any(report[k] for k in bad)


async def test_demo_audits_every_student_and_is_done_the_second_time(tmp_path: Path):
    report = await Demo(tmp_path / "demo", "--students", "80", "--processes", "1").end()
    assert is_clean(report, 80)
    assert report["duplicates"] == 0
    assert report["per_minute"] > 0
    assert 0 < report["wait_p50_ms"] <= report["wait_p99_ms"]
    assert report["rss_max_mb"] > 20
    assert len(list((tmp_path / "demo").glob("documents/2026-10/000/student-*.pdf"))) == 80
    second = Demo(tmp_path / "demo")
    assert is_clean(await second.end(), 80)
    assert "nothing to do" in second.out


async def test_hostile_rows_end_dead_with_their_reason(tmp_path: Path):
    students, ledger = tmp_path / "students.csv", tmp_path / "ledger.csv"
    students.write_text("student_id,name\n" + "".join(f"{i},Student {i}\n" for i in range(1, 21)))
    rows = [f"{i},2026-10-0{d},1100,{d}.50," for i in range(1, 21) for d in range(1, 6)]
    rows += ['17,2026-10-06,1100,"12,x0",', "999,2026-10-06,1100,1.00,"]
    ledger.write_text("student_id,date,account,debit,credit\n" + "\n".join(rows))
    demo = Demo(tmp_path / "demo", "--students-csv", str(students), "--ledger-csv", str(ledger))
    report = await demo.end()
    assert (report["students"], report["ok"], report["dead"], report["missing"]) == (20, 19, 2, 0)
    assert "dead: student 17: ledger line 102: amount '12,x0' is not a number" in demo.out
    assert "dead: student 999: ledger line 103 names a student who is not in the list" in demo.out


async def test_verify_names_and_remakes_just_the_bad_documents(tmp_path: Path):
    folder = tmp_path / "demo"
    await Demo(folder, "--students", "30", "--processes", "1").end()
    paths = sorted(folder.glob("documents/*/*/*.pdf"))
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in paths}
    paths[3].unlink()
    paths[7].write_bytes(b"%PDF-1.4 not what was recorded")
    demo = Demo(folder, "--verify", "--processes", "1")
    assert is_clean(await demo.end(), 30)
    assert f"missing: student 4: {paths[3].relative_to(folder)}" in demo.out
    assert f"corrupt: student 8: {paths[7].relative_to(folder)}" in demo.out
    assert "2 audits of 2026-10 to make" in demo.out
    assert [path.read_bytes() for path in paths] == [content for _, content in before.values()]
    untouched = [p for p in paths if p.stat().st_mtime_ns == before[p][0]]
    assert len(untouched) == 28


@pytest.mark.chaos
async def test_killed_workers_and_server_lose_nothing(tmp_path: Path):
    folder = tmp_path / "demo"
    demo = Demo(folder, "--students", "400", "--processes", "2")
    await demo.made(20)
    os.kill(demo.workers()[0], signal.SIGKILL)
    await demo.made(120)
    started = re.search(r"embedded.started .* pid=(\d+)", (folder / "demo.log").read_text())
    assert started is not None
    os.kill(int(started[1]), signal.SIGKILL)
    assert is_clean(await demo.end(), 400)
    log = (folder / "demo.log").read_text()
    assert "signal=SIGKILL" in log
    assert log.count("embedded.started") == 2


async def test_interrupted_demo_drains_and_resumes(tmp_path: Path):
    folder = tmp_path / "demo"
    demo = Demo(folder, "--students", "400", "--processes", "1")
    await demo.made(10)
    busy = Demo(folder)
    assert "another qcore demo is running" in await busy.error()
    demo.process.send_signal(signal.SIGINT)
    report = await demo.end(code=130)
    assert report["missing"] == 400 - report["ok"] > 0
    assert f"qcore demo --folder {folder}" in demo.out
    resumed = Demo(folder)
    report_2 = await resumed.end()
    assert is_clean(report_2, 400)
    assert report_2["duplicates"] == 0
    assert f"{report['missing']} audits of 2026-10 to make" in resumed.out


@pytest.mark.chaos
async def test_killed_demo_is_resumed_by_the_next(tmp_path: Path):
    folder = tmp_path / "demo"
    demo = Demo(folder, "--students", "300", "--processes", "1")
    await demo.made(10)
    demo.process.kill()
    demo.process.communicate()
    assert is_clean(await Demo(folder).end(), 300)


async def test_demo_says_what_to_do_about_a_mistake(tmp_path: Path):
    folder = tmp_path / "demo"
    assert "run qcore demo first" in await Demo(folder, "--verify").error()
    assert "give --students-csv and" in await Demo(folder, "--students-csv", "x").error()
    await Demo(folder, "--students", "3", "--processes", "1").end()
    assert "--fresh" in await Demo(folder, "--students", "4").error()
    assert is_clean(await Demo(folder, "--students", "4", "--fresh").end(), 4)
    nowhere = Demo(folder, "--students", "5", "--fresh", "--url", "redis://127.0.0.1:1/0")
    assert "127.0.0.1:1" in await nowhere.error()


async def test_demo_without_its_extra_says_what_to_install(tmp_path: Path):
    program = "import sys; sys.modules['reportlab'] = None; from qcore_cli.main import run; run()"
    refused = Demo(tmp_path / "demo", program=program)
    assert "pip install 'qcore-queue[demo,embedded]'" in await refused.error()
