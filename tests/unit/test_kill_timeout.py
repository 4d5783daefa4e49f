"""The kill timeout of a task: what it is, and that it follows the timeout."""

import math
from datetime import timedelta

import pytest

from qcore import App, ConfigError


@pytest.fixture
def app() -> App:
    return App("redis://nowhere")


def module_level() -> None: ...


def test_kill_timeout_is_ten_seconds_after_the_timeout_unless_given(app):
    assert app.task(name="a")(module_level).settings.kill_timeout_s is None
    assert app.task(name="b", timeout=30)(module_level).settings.kill_timeout_s == 40
    task = app.task(name="c", timeout=30, kill_timeout=timedelta(seconds=31))(module_level)
    assert (task.settings.kill_timeout_s, task.settings.grace_s) == (31, 1)


@pytest.mark.parametrize("kill_timeout", [30, 29.5, 0, -1, math.inf, math.nan])
def test_kill_timeout_that_is_not_longer_than_the_timeout_is_refused(app, kill_timeout):
    with pytest.raises(ConfigError, match=r"timeout is 30 s and kill_timeout \S+ s: the kill "):
        app.task(timeout=30, kill_timeout=kill_timeout)(module_level)


def test_kill_timeout_without_a_timeout_is_refused(app):
    with pytest.raises(ConfigError, match="kill_timeout is 30 and there is no timeout"):
        app.task(kill_timeout=30)(module_level)
