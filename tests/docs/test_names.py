"""Every file, function and link that a page names exists."""

import ast
import pkgutil
import re
from functools import cache
from pathlib import Path

import pytest

from tests.docs.pages import DOCS, PAGES, ROOT, blocks, name_of, prose

#: `qcore/broker/redis/broker.py:Broker.turn`, or a path alone.
NAME = re.compile(r"`((?:qcore|cli|tests|scripts|docs)/[\w./-]*)(?::([\w.]+))?`")
#: `qcore.errors`
DOTTED = re.compile(r"`(qcore(?:\.\w+)+)`")
LINK = re.compile(r"\]\(([^)\s]+)\)")

every_page = pytest.mark.parametrize("page", PAGES, ids=name_of)


@cache
def names_in(path: Path) -> frozenset[str]:
    """Return what a module defines: functions, classes, methods, fields and constants."""

    def inside(body: list[ast.stmt], prefix: str) -> list[str]:
        found: list[str] = []
        for node in body:
            match node:
                case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                    found.append(prefix + name)
                case ast.ClassDef(name=name, body=members):
                    found += [prefix + name, *inside(members, f"{prefix}{name}.")]
                case ast.Assign(targets=targets):
                    found += [prefix + t.id for t in targets if isinstance(t, ast.Name)]
                case ast.AnnAssign(target=ast.Name(id=name)):
                    found.append(prefix + name)
                case _:
                    pass
        return found

    return frozenset(inside(ast.parse(path.read_text(encoding="utf-8")).body, ""))


@every_page
def test_page_names_files_and_functions_that_exist(page: Path):
    wrong = [
        f"{path}:{name}" if name else path
        for path, name in NAME.findall(prose(page))
        if not (ROOT / path).exists() or (name and name not in names_in(ROOT / path))
    ]

    assert not wrong, f"{name_of(page)} names what does not exist: {wrong}"


@every_page
def test_page_names_modules_that_exist(page: Path):
    for name in DOTTED.findall(prose(page)):
        pkgutil.resolve_name(name)


@every_page
def test_page_links_to_pages_that_exist(page: Path):
    targets = [t for t in LINK.findall(prose(page)) if "://" not in t]
    wrong = [t for t in targets if not (page.parent / t.partition("#")[0]).exists()]

    assert not wrong, f"{name_of(page)} links to nowhere: {wrong}"


def test_index_links_to_every_page():
    index = DOCS / "index.md"
    linked = {(index.parent / t).resolve() for t in LINK.findall(prose(index))}
    pages = {p for p in DOCS.rglob("*.md") if DOCS / "examples" not in p.parents} - {index}

    assert not pages - linked


def test_readme_shows_code_in_its_first_screen():
    readme = ROOT / "README.md"
    first = blocks(readme)[0]

    assert first.language == "python"
    assert first.line <= 15
    assert len(readme.read_text(encoding="utf-8").splitlines()) <= 150


#: Folders with a map of their own, which names its files from there.
MAPPED = ("qcore/broker", "qcore/runtime")


def test_every_module_is_on_the_walk_or_on_a_map():
    beside = {"app.py", "context.py", "telemetry.py", "__init__.py"}
    beside |= {"settings.py", "environment.py", "durations.py", "queue.py", "reference.py"}
    text = (DOCS / "explanation" / "life-of-a-job.md").read_text(encoding="utf-8")
    text += "".join(f"{path}:" for folder in MAPPED for path in mapped(folder))
    modules = [p for p in (ROOT / "qcore").rglob("*.py") if p.name not in beside]

    unnamed = [p.name for p in modules if not re.search(rf"{p.relative_to(ROOT)}[:`]", text)]
    assert unnamed == []


@pytest.mark.parametrize("folder", MAPPED)
def test_map_names_files_that_exist(folder: str):
    assert [path for path in mapped(folder) if not (ROOT / path).exists()] == []


def mapped(folder: str) -> list[str]:
    """Return the files that the map of a folder names."""
    text = (ROOT / folder / "README.md").read_text(encoding="utf-8")
    return [f"{folder}/{name}" for name in re.findall(r"`([a-z]\w*(?:/\w+)*\.py)`", text)]
