"""What an app is told when it is made, and within a test."""

from typing import Any

import pytest

from qcore import App, ConfigError, Queue, UnknownQueue


def test_queue_is_declared_by_its_name_or_as_an_object():
    app = App("redis://here", queues=["urgent", Queue("default")])

    assert app.queues == ("urgent", "default")


@pytest.mark.parametrize("name", ["", "with space", "x" * 65, 7])
def test_queue_whose_name_cannot_be_part_of_a_key_is_refused(name: Any):
    with pytest.raises(ConfigError, match="queue"):
        Queue(name)


def test_queue_that_is_named_twice_is_refused_in_either_form():
    with pytest.raises(ConfigError, match="twice"):
        App("redis://here", queues=["default", Queue("default")])


def test_limits_of_an_app_are_those_of_its_broker():
    app = App("redis://here", payload_limit=4096, enqueue_timeout="2s")

    assert (app.config.payload_limit_bytes, app.config.enqueue_timeout_s) == (4096, 2.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"payload_limit": 10}, "payload_limit is 10, allowed is 1024 to"),
        ({"payload_limit": 2**20 + 1}, "payload_limit is 1048577, allowed is 1024 to 1048576"),
        ({"payload_limit": "1M"}, "payload_limit is '1M', give bytes"),
        ({"enqueue_timeout": 0}, "enqueue_timeout is 0, allowed is 0.05 to"),
        ({"enqueue_timeout": "soon"}, "enqueue_timeout is 'soon', which is no duration"),
    ],
)
def test_limit_that_is_none_is_refused_where_it_is_given(options: dict[str, Any], message: str):
    with pytest.raises(ConfigError, match=message):
        App(**options)


def test_override_ends_with_its_block():
    app = App("redis://here", namespace="own")

    with app.override(url="redis://there", namespace="other"):
        assert (app.config.url, app.config.namespace) == ("redis://there", "other")
        with app.override(namespace="third"):
            assert (app.config.url, app.config.namespace) == ("redis://there", "third")
    assert (app.config.url, app.config.namespace) == ("redis://here", "own")


async def test_override_of_an_open_app_is_refused():
    async with App("redis://here") as app:
        with pytest.raises(ConfigError, match="the app is open"), app.override(namespace="other"):
            pytest.fail("it was overridden")


def test_queue_object_stands_for_its_name_in_a_task_and_its_options():
    app = App("redis://here", queues=["default", Queue("urgent")])

    @app.task(queue=Queue("urgent"))
    async def task() -> None: ...

    assert task.settings.queue == "urgent"
    with pytest.raises(UnknownQueue, match="other"):
        task.options(queue=Queue("other"))
