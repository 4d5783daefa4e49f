"""What is done when a module is imported is done once, and leaves nothing on the module."""

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from qcore_cli.late_import import when_imported

NAME = "imported_late"


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.syspath_prepend(tmp_path)
    finders = [*sys.meta_path]
    yield
    sys.meta_path[:] = finders
    sys.modules.pop(NAME, None)


@pytest.fixture
def module(tmp_path: Path) -> Path:
    path = tmp_path / f"{NAME}.py"
    path.write_text("answer = 42\n")
    return path


def finders() -> int:
    return len(sys.meta_path)


def test_it_is_done_with_the_import_and_not_before(module: Path):
    before, seen = finders(), list[int]()
    when_imported(NAME, lambda: seen.append(sys.modules[NAME].answer))
    assert seen == []
    importlib.import_module(NAME)
    assert seen == [42]
    importlib.import_module(NAME)
    assert seen == [42]
    assert finders() == before


def test_a_module_that_is_there_is_done_at_once(module: Path):
    importlib.import_module(NAME)
    before, seen = finders(), list[int]()
    when_imported(NAME, lambda: seen.append(1))
    assert seen == [1]
    assert finders() == before


def test_the_second_call_counts(module: Path):
    seen = list[str]()
    when_imported(NAME, lambda: seen.append("first"))
    when_imported(NAME, lambda: seen.append("second"))
    importlib.import_module(NAME)
    assert seen == ["second"]


def test_the_module_is_as_its_own_loader_makes_it(module: Path):
    plain = vars(importlib.import_module(NAME))
    kinds = {name: type(plain[name]) for name in ("__spec__", "__loader__")}
    del sys.modules[NAME]
    when_imported(NAME, lambda: None)
    late = importlib.import_module(NAME)
    assert {name: type(vars(late)[name]) for name in kinds} == kinds
    assert late.__spec__ is not None
    assert late.__spec__.loader is late.__loader__
    assert (late.__file__, late.__spec__.origin) == (str(module), str(module))


def test_an_import_that_fails_is_that_error_and_the_next_one_counts(module: Path):
    seen = list[int]()
    when_imported(NAME, lambda: seen.append(1))
    module.write_text("raise LookupError('no')\n")
    with pytest.raises(LookupError):
        importlib.import_module(NAME)
    assert seen == []
    module.write_text("answer = 43  # of another size\n")
    importlib.invalidate_caches()
    importlib.import_module(NAME)
    assert seen == [1]


def test_a_module_that_is_not_there_is_missed_as_ever():
    when_imported(NAME, lambda: None)
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module(NAME)
