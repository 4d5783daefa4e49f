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
    """Neither an event loop, a connection, nor libraries; nor does an app with a task."""
    run(
        "import sys, threading, qcore\n"
        "def task() -> None: ...\n"
        "handle = qcore.App('redis://localhost:1').task(task).handle('default', 'an-id')\n"
        "assert threading.active_count() == 1\n"
        "heavy = {'asyncio', 'ssl', 'anyio', 'redis', 'structlog', 'rich', 'pydantic'}\n"
        "command = {'typer', 'uvloop', 'qcore_cli', 'valkey'}\n"
        "assert not (heavy | command) & set(sys.modules), 'too much'\n"
    )


def test_app_that_is_open_imports_nothing_more_in_its_loop():
    """What an enqueue needs, and what its first log line needs, is there before."""
    run(
        "import asyncio, sys, qcore\n"
        "async def main():\n"
        "    async with qcore.App('redis://localhost:1', enqueue_timeout=0.05) as app:\n"
        "        task = app.task(work)\n"
        "        before = set(sys.modules)\n"
        "        try:\n"
        "            await task.enqueue()\n"
        "        except qcore.BrokerUnavailable:\n"
        "            print(set(sys.modules) - before)\n"
        "            late = {name.partition('.')[0] for name in set(sys.modules) - before}\n"
        "            assert not late & {'qcore', 'redis', 'hiredis', 'structlog', 'rich'}, late\n"
        "            return\n"
        "    raise AssertionError\n"
        "async def work() -> None: ...\n"
        "asyncio.run(main())\n"
    )


def run(code: str) -> None:
    env = {"PYTHONPATH": ":".join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], env=env, check=False)
    assert done.returncode == 0
