"""What `import qcore` offers, and what it does not do."""

import inspect
import subprocess
import sys

import pytest

import qcore
from qcore import errors

NAMES = qcore.__all__
ERRORS = [
    value
    for value in vars(errors).values()
    if inspect.isclass(value) and value.__module__ == "qcore.errors"
]


def test_all_is_sorted_and_names_nothing_twice():
    assert sorted(NAMES) == NAMES
    assert len(set(NAMES)) == len(NAMES)


def test_all_is_what_can_be_imported():
    public = {
        name
        for name, value in vars(qcore).items()
        if not name.startswith("_") and not inspect.ismodule(value)
    }
    assert public == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_public_name_is_documented(name):
    value = getattr(qcore, name)
    assert inspect.getdoc(value)
    assert value.__doc__


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: error.__name__)
def test_every_error_is_public_and_drawn_in_the_tree(error):
    assert error.__name__ in NAMES
    assert issubclass(error, qcore.QcoreError)
    assert f" {error.__name__} " in f" {errors.__doc__} ".replace("\n", " \n")


def test_error_tree_in_the_docstring_is_the_real_one():
    """Each name stands one step deeper than its base class, and below it."""
    seen: list[tuple[int, str]] = []
    for line in (errors.__doc__ or "").splitlines():
        head = line[:60].rstrip()
        name = head.strip(" │├└─").split(" ")[0]
        if name in vars(errors):
            depth = head.index(name)
            parents = [other for level, other in seen if level < depth]
            if parents:
                assert vars(errors)[name].__base__.__name__ == parents[-1]
            seen = [(level, other) for level, other in seen if level < depth] + [(depth, name)]


def test_unavailable_says_whether_the_call_may_have_had_an_effect():
    assert qcore.BrokerUnavailable("x").sent is False
    assert qcore.BrokerUnavailable("x", sent=True).sent is True


def test_import_starts_nothing_and_needs_no_setting():
    """Neither an event loop, a connection, nor the command's libraries."""
    code = (
        "import sys, threading, qcore\n"
        "assert threading.active_count() == 1\n"
        "assert not {'typer', 'uvloop', 'qcore_cli', 'valkey'} & set(sys.modules), 'too much'\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONPATH": ":".join(sys.path)}, check=False
    )
    assert done.returncode == 0
