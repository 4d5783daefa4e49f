"""The code on the pages compiles, and what the pages say it prints is what it prints."""

import ast
import asyncio
import os
import re
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.docs.pages import DOCS, PAGES, ROOT, Block, blocks, name_of

PYTHON = [block for page in PAGES for block in blocks(page) if block.language == "python"]
#: Pages with a `tasks.py` and programs that use it.
WITH_PROGRAMS = [
    ROOT / "README.md",
    DOCS / "tutorial/first-job.md",
    DOCS / "how-to/sync-producers.md",
]
RUNNABLE = [block for block in PYTHON if block.runnable]
#: A log event of a program that has not configured structlog.
LOG_LINE = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d \[")
JOB_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def place(block: Block) -> str:
    return f"{name_of(block.page)}:{block.line}"


def environment(url: str, namespace: str) -> dict[str, str]:
    return {**os.environ, "QCORE_URL": url, "QCORE_NAMESPACE": namespace}


async def run(script: Path, env: dict[str, str]) -> list[str]:
    """Run a program as a reader would; return the lines it prints, without log and job ids."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        script.name,
        cwd=script.parent,
        env=env,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 0, err.decode()
    return without_noise(out.decode())


def without_noise(text: str) -> list[str]:
    lines = [line for line in text.splitlines() if not LOG_LINE.match(line)]
    return [JOB_ID.sub("ID", line) for line in lines]


def printed(page: Path) -> dict[str, list[str]]:
    """Return what a page says that each `$ python NAME` prints."""
    found: dict[str, list[str]] = {}
    for block in blocks(page):
        if block.language == "console" and block.text.startswith("$ python "):
            head, _, output = block.text.partition("\n")
            found[head.removeprefix("$ python ")] = without_noise(output)
    return found


def write_files(page: Path, folder: Path) -> None:
    """Write each Python block that begins with `# NAME.py` under that name."""
    for block in blocks(page):
        named = re.match(r"# (\w+\.py)\n", block.text)
        if block.language == "python" and named:
            (folder / named[1]).write_text(block.text, encoding="utf-8")


@asynccontextmanager
async def worker(folder: Path, env: dict[str, str]) -> AsyncIterator[None]:
    command = (sys.executable, "-m", "qcore_cli", "worker", "tasks:app", "--processes", "1")
    with (folder / "worker.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *command, cwd=folder, env=env, stdout=log, stderr=log
        )
    try:
        yield
    finally:
        process.terminate()
        code = await asyncio.wait_for(process.wait(), 40)
    assert code == 0, (folder / "worker.log").read_text()


@pytest.mark.parametrize("block", PYTHON, ids=place)
def test_block_compiles(block: Block):
    compile(block.text, place(block), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


@pytest.mark.parametrize("block", RUNNABLE, ids=place)
async def test_runnable_block_prints_what_the_page_says(
    block: Block, redis_url: str, namespace: str, tmp_path: Path
):
    script = tmp_path / "program.py"
    script.write_text(block.text, encoding="utf-8")
    outputs = [b for b in blocks(block.page) if b.line > block.line and not b.language]

    lines = await run(script, environment(redis_url, namespace))

    assert lines == outputs[0].text.splitlines()


@pytest.mark.parametrize("page", WITH_PROGRAMS, ids=name_of)
async def test_programs_of_a_page_print_what_it_says(
    page: Path, redis_url: str, namespace: str, tmp_path: Path
):
    env, said = environment(redis_url, namespace), printed(page)
    said.pop("resting.py", None)  # it waits until the reader kills its worker
    write_files(page, tmp_path)

    async with worker(tmp_path, env):
        seen = {name: await run(tmp_path / name, env) for name in said}

    assert seen == said
    assert seen
