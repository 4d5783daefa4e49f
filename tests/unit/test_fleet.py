"""Whom an order to restart concerns."""

import pytest

from qcore.broker.contract import Order


@pytest.mark.parametrize(
    ("host", "queue", "is_meant"),
    [
        ("", "", True),
        ("web1", "", True),
        ("web2", "", False),
        ("", "low", True),
        ("", "other", False),
        ("web1", "default", True),
        ("web2", "default", False),
    ],
)
def test_order_concerns_hosts_and_queues(host: str, queue: str, is_meant: bool):
    order = Order(host, queue, 1, leave=False)
    assert order.concerns("web1", ("default", "low")) is is_meant
