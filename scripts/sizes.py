"""Fails when a file or a function is longer than a reader can hold.

A file: 400 lines of Python, 80 of Lua. A function: 45 lines, a constructor 40, without its
signature and its docstring.
"""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
FOLDERS = ("qcore", "cli", "tests", "benchmarks", "docs", "scripts")
MAX_LINES = {".py": 400, ".lua": 80}
MAX_FUNCTION, MAX_CONSTRUCTOR = 45, 40


def main() -> int:
    """Print each file and function over its limit; return 1 when there is one."""
    found = [
        said
        for folder in FOLDERS
        for path in sorted((ROOT / folder).rglob("*"))
        for said in too_long(path)
    ]
    print(*found, sep="\n", end="\n" if found else "")
    return 1 if found else 0


def too_long(path: Path) -> Iterator[str]:
    """Say what of a file is too long."""
    limit, name = MAX_LINES.get(path.suffix), path.relative_to(ROOT)
    # what others wrote lies in hidden folders: benchmarks/.envs
    if limit is None or any(part.startswith(".") for part in name.parts):
        return
    text = path.read_text(encoding="utf-8")
    lines = len(text.splitlines())
    if lines > limit:
        yield f"{name}: {lines} lines, at most {limit}: split it"
    for node in ast.walk(ast.parse(text)) if path.suffix == ".py" else ():
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            most = MAX_CONSTRUCTOR if node.name == "__init__" else MAX_FUNCTION
            if (count := length_of(node)) > most:
                yield f"{name}:{node.lineno}: {node.name} has {count} lines, at most {most}"


def length_of(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Return the lines of a function's body, without its docstring."""
    body = function.body[1:] if ast.get_docstring(function, clean=False) else function.body
    return (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0


if __name__ == "__main__":
    sys.exit(main())
