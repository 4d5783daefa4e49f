"""Names that are never given twice."""

import os
import random
import subprocess
import sys
import uuid

import pytest

from qcore.broker.identity import new_id

#: Both processes make an id from the same state of whatever they inherited.
FORKED = """
import ctypes, os
from qcore.broker.identity import new_id
new_id()
child = {fork}()
os.write(1, new_id().encode() + b"\\n")
if child == 0:
    os._exit(0)
os.waitpid(child, 0)
"""


def randomness(id: str) -> int:
    return uuid.UUID(id).int & (1 << 62) - 1


def test_ids_are_uuids_of_version_7_in_the_order_of_their_making():
    ids = [new_id() for _ in range(1000)]
    assert {(uuid.UUID(id).version, uuid.UUID(id).variant) for id in ids} == {(7, uuid.RFC_4122)}
    assert len(set(ids)) == 1000
    stamps = [uuid.UUID(id).int >> 80 for id in ids]
    assert stamps == sorted(stamps)


def test_a_program_that_seeds_its_own_numbers_does_not_repeat_ids():
    random.seed(7)
    first = new_id()
    random.seed(7)
    assert randomness(new_id()) != randomness(first)


@pytest.mark.parametrize("fork", ["os.fork", "ctypes.PyDLL(None).fork"])
def test_a_forked_process_makes_ids_of_its_own(fork: str):
    program = FORKED.format(fork=fork)
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, env=os.environ
    )
    first, second = ran.stdout.split()
    assert randomness(first) != randomness(second)
