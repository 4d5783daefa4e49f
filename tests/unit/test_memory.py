"""What the kernel tells of processes that it has killed for lack of memory."""

from pathlib import Path

import pytest

from qcore.runtime.host.memory import oom_kills
from tests.support.cgroup import system


@pytest.mark.parametrize(
    ("groups", "counts"),
    [
        ("0::/system.slice/qcore.service\n", "system.slice/qcore.service/memory.events"),
        ("0::/\n", "memory.events"),  # as a container sees itself
        ("0::/docker/ab12\n", "memory.events"),  # or as its host does
        ("9:name=systemd:/\n4:memory:/box\n0::/\n", "memory/box/memory.oom_control"),
    ],
)
def test_kills_of_the_own_cgroup_are_counted(tmp_path: Path, groups: str, counts: str):
    system(tmp_path, groups, {})
    assert oom_kills(tmp_path) == 0  # nothing is told
    said = "low 0\nhigh 7\nmax 9\noom 4\noom_kill 3\noom_group_kill 1\n"
    system(tmp_path, groups, {f"sys/fs/cgroup/{counts}": said})
    assert oom_kills(tmp_path) == 3


def test_machine_that_tells_nothing_has_killed_nobody(tmp_path: Path):
    assert oom_kills(tmp_path) == 0
    system(tmp_path, "0::/a\n", {"sys/fs/cgroup/a/memory.events": "low 0\n"})
    assert oom_kills(tmp_path) == 0
