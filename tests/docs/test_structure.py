"""The layout of a project that the page shows is one that a worker can load."""

import re
import subprocess
import sys
from pathlib import Path

from tests.docs.pages import DOCS, blocks

PAGE = DOCS / "how-to" / "structure-a-project.md"
LOAD = "from qcore_cli.loader import load_app; print(*sorted(load_app('shop.app:app').tasks))"


def test_worker_finds_the_tasks_of_all_modules(tmp_path: Path):
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "__init__.py").touch()
    for block in blocks(PAGE):
        if named := re.match(r"# (shop/\w+\.py)\n", block.text):
            (tmp_path / named[1]).write_text(block.text, encoding="utf-8")
    command = (sys.executable, "-c", LOAD)
    said = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert said.stdout.split() == ["shop.emails.send_receipt", "shop.orders.ship"]
