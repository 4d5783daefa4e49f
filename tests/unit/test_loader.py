"""From "package.module:app" to the App, and what is said when it leads nowhere."""

import importlib
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from qcore import App, AppNotFound, ConfigError
from qcore_cli.loader import load_app

GOOD = "from qcore import App\napp = App('redis://nowhere')\nother = 5\n"


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, str], Path]]:
    """Write a module into the current folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)

    def write(name: str, text: str) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    yield write
    for name in set(sys.modules) - before:
        if name.startswith("loaded_"):
            del sys.modules[name]


def test_load_finds_a_module_of_the_current_folder(write):
    write("loaded_a.py", GOOD)
    assert isinstance(load_app("loaded_a:app"), App)


def test_load_finds_a_module_of_a_package(write):
    write("loaded_b/__init__.py", "")
    write("loaded_b/tasks.py", GOOD)
    assert isinstance(load_app("loaded_b.tasks:app"), App)


@pytest.mark.parametrize("path", ["", "tasks", "tasks:", ":app", ":"])
def test_load_of_another_form_says_how_to_write_it(path):
    with pytest.raises(AppNotFound, match=r"is no app path: write MODULE:NAME, as in tasks:app"):
        load_app(path)


def test_load_of_a_missing_module_says_where_it_looked(write, tmp_path):
    write("unrelated.py", "")
    with pytest.raises(AppNotFound, match=r"there is no module 'loaded_missing' in ") as e:
        load_app("loaded_missing:app")
    assert str(tmp_path) in str(e.value)


@pytest.mark.parametrize("path", ["loaded_c.missing:app", "loaded_missing.tasks:app"])
def test_load_of_a_missing_module_of_a_package_names_what_is_missing(write, path):
    write("loaded_c/__init__.py", "")
    with pytest.raises(AppNotFound, match=r"there is no module 'loaded_(c\.missing|missing)'"):
        load_app(path)


def test_load_of_a_module_that_imports_what_is_missing_blames_the_import(write):
    """It is there: saying that there is no such module would send its owner astray."""
    path = write("loaded_d.py", "x = 1\nimport loaded_not_installed\n")
    with pytest.raises(AppNotFound, match=r"^importing loaded_d failed: ModuleNotFoundError") as e:
        load_app("loaded_d:app")
    assert "loaded_not_installed" in str(e.value)
    assert f"{path}, line 2" in str(e.value)


def test_load_of_a_module_that_fails_tells_error_file_and_line(write):
    path = write("loaded_e.py", "x = 1\n\nraise ValueError('no')\n")
    with pytest.raises(AppNotFound, match=r"^importing loaded_e failed: ValueError: no ") as e:
        load_app("loaded_e:app")
    assert f"({path}, line 3)" in str(e.value)


def test_load_of_a_wrong_task_tells_the_line_of_the_task(write):
    path = write("loaded_i.py", f"{GOOD}\n\n@app.task(timeout=-1)\ndef task(): ...\n")
    with pytest.raises(AppNotFound, match=r"ConfigError: task loaded_i\.task") as e:
        load_app("loaded_i:app")
    assert f"({path}, line 6)" in str(e.value)


def test_load_of_a_module_with_a_syntax_error_names_its_line(write):
    write("loaded_f.py", "x = 1\ndef (:\n")
    with pytest.raises(AppNotFound, match=r"importing loaded_f failed: SyntaxError.*line 2"):
        load_app("loaded_f:app")


def test_load_of_another_name_says_which_apps_there_are(write):
    write("loaded_g.py", GOOD + "second = App('redis://x')\n")
    with pytest.raises(AppNotFound, match=r"'ap' in loaded_g does not exist: it has ") as e:
        load_app("loaded_g:ap")
    assert "loaded_g:app, loaded_g:second" in str(e.value)
    with pytest.raises(AppNotFound, match=r"'other' in loaded_g is no App: it has loaded_g:app"):
        load_app("loaded_g:other")


def test_load_of_a_module_without_any_app_says_so(write):
    write("loaded_h.py", "x = 1\n")
    with pytest.raises(AppNotFound, match=r"'app' in loaded_h does not exist: it holds no App"):
        load_app("loaded_h:app")


# -- modules that an app includes ------------------------------------------------------------------


def test_load_imports_what_the_app_includes_and_that_may_import_the_app(write):
    write("loaded_j.py", GOOD.replace("'redis://nowhere'", "include=['loaded_k', 'loaded_l']"))
    task = "from loaded_j import app\n@app.task\ndef {}(): ...\n"
    write("loaded_k.py", task.format("one"))
    write("loaded_l.py", "import loaded_k\n" + task.format("two"))
    assert set(load_app("loaded_j:app").tasks) == {"loaded_k.one", "loaded_l.two"}


def test_load_imports_nothing_of_it_before_the_app_is_made(write):
    """A program that only enqueues imports what it needs."""
    write("loaded_m.py", GOOD.replace("'redis://nowhere'", "include=['loaded_n']"))
    write("loaded_n.py", "raise ValueError('imported')\n")
    sys.path.insert(0, ".")
    assert importlib.import_module("loaded_m").app.include == ("loaded_n",)


def test_load_of_an_included_module_that_is_missing_names_both(write):
    write("loaded_o.py", GOOD.replace("'redis://nowhere'", "include=['loaded_missing']"))
    expected = r"there is no module 'loaded_missing', which loaded_o:app includes, in "
    with pytest.raises(AppNotFound, match=expected):
        load_app("loaded_o:app")


def test_load_of_an_included_module_that_fails_names_file_line_and_app(write):
    write("loaded_p.py", GOOD.replace("'redis://nowhere'", "include=['loaded_q']"))
    path = write("loaded_q.py", "\nraise ValueError('no')\n")
    expected = "importing loaded_q, which loaded_p:app includes, failed: ValueError: no"
    with pytest.raises(AppNotFound, match=expected) as e:
        load_app("loaded_p:app")
    assert f"({path}, line 2)" in str(e.value)


@pytest.mark.parametrize("include", ["tasks", [5], [".tasks"], ["tasks:app"], ["a b"], {"a"}, 5])
def test_include_that_is_no_list_of_modules_is_refused(include):
    with pytest.raises(ConfigError, match=r"^include is .*, give a list of modules"):
        App("redis://nowhere", include=include)


# -- the trace -------------------------------------------------------------------------------------


def test_load_shows_the_frames_of_the_user_and_no_others(write):
    first = write("loaded_r.py", "x = 1\nimport loaded_s\n")
    second = write("loaded_s.py", "import json\n\ndef read():\n    json.loads('{')\n\nread()\n")
    with pytest.raises(AppNotFound, match=r"failed: JSONDecodeError: ") as e:
        load_app("loaded_r:app")
    assert str(e.value).endswith(f"({second}, line 4)")
    (trace,) = e.value.__notes__
    files = re.findall(r'File "(.+)", line (\d+)', trace)
    assert files == [(str(first), "2"), (str(second), "6"), (str(second), "4")]
    assert "json.loads('{')" in trace


def test_load_shows_what_caused_an_error(write):
    text = "try:\n    {}['DB']\nexcept KeyError as e:\n    raise RuntimeError('no DB') from e\n"
    path = write("loaded_t.py", text)
    with pytest.raises(AppNotFound, match=r"failed: RuntimeError: no DB ") as e:
        load_app("loaded_t:app")
    assert e.value.__notes__[0].endswith(f"caused by KeyError: 'DB' ({path}, line 2)")


def test_load_shows_the_line_of_a_syntax_error_in_an_imported_module(write):
    write("loaded_u.py", "import loaded_v\n")
    path = write("loaded_v.py", "x = 1\ndef (:\n")
    with pytest.raises(AppNotFound, match=r"failed: SyntaxError: ") as e:
        load_app("loaded_u:app")
    assert str(e.value).endswith(f"({path}, line 2)")
    assert "def (:" in e.value.__notes__[0]
