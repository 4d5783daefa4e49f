"""The page about the four clocks quotes what the command says."""

import asyncio
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.pages import DOCS, blocks

PAGE = blocks(DOCS / "explanation" / "four-clocks.md")
QUOTES = [
    pair
    for block in PAGE
    if block.language == "console"
    for pair in re.findall(r"^\$ qcore (.+)\n(qcore: .+)$", block.text, re.MULTILINE)
]
GOOD = "from qcore import App\n\napp = App()\n"


@pytest.mark.parametrize(("words", "said"), QUOTES, ids=[words for words, _ in QUOTES])
async def test_page_quotes_the_refusal_of_a_wrong_clock(words: str, said: str, tmp_path: Path):
    (bad,) = (block.text for block in PAGE if block.language == "python")
    (tmp_path / "bad.py").write_text(bad)
    (tmp_path / "tasks.py").write_text(GOOD)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "qcore_cli", *words.split(), "--url", "redis://127.0.0.1:1"),
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    _, err = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 1
    # the frames of the file follow, and a loaded machine is slow to import it
    lines = [x for x in err.decode().splitlines() if "is still being imported" not in x]
    assert lines[0] == said.replace("/srv/shop", str(tmp_path))


def test_page_quotes_both_kinds():
    assert len(QUOTES) == 2
