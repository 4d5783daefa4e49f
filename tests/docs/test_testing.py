"""The tests that the page on testing shows pass."""

import subprocess
import sys
from pathlib import Path

from tests.docs.pages import DOCS
from tests.docs.test_code import write_files

PAGE = DOCS / "how-to" / "test-tasks.md"


def test_tests_of_the_page_pass(tmp_path: Path):
    write_files(PAGE, tmp_path)
    (tmp_path / "pytest.ini").write_text("[pytest]\nasyncio_mode = auto\n")

    said = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:valkey", "-p", "no:cacheprovider", "."],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=110,
    )

    assert "3 passed" in said.stdout, said.stdout + said.stderr
