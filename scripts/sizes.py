"""Fails when a file is longer than a reader can hold: 450 lines of Python, 80 of Lua."""

import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
FOLDERS = ("qcore", "cli", "tests", "benchmarks", "docs", "scripts")
MAX_LINES = {".py": 450, ".lua": 80}


def main() -> int:
    """Print each file over its limit; return 1 when there is one."""
    too_long = 0
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*")):
            most = MAX_LINES.get(path.suffix)
            # what others wrote lies in hidden folders: benchmarks/.envs
            if most is None or any(part.startswith(".") for part in path.relative_to(ROOT).parts):
                continue
            lines = len(path.read_text(encoding="utf-8").splitlines())
            if lines > most:
                too_long += 1
                print(f"{path.relative_to(ROOT)}: {lines} lines, at most {most}: split it")
    return 1 if too_long else 0


if __name__ == "__main__":
    sys.exit(main())
