"""What the kernel tells of processes that it has killed for lack of memory."""

from pathlib import Path

import pytest

from qcore.runtime.memory import oom_kills


@pytest.mark.parametrize(
    ("group", "counts"),
    [
        ("0::/system.slice/qcore.service\n", "system.slice/qcore.service/memory.events"),
        ("0::/\n", "memory.events"),  # as a container sees itself
        ("9:name=systemd:/\n4:memory:/box\n0::/\n", "memory/box/memory.oom_control"),
    ],
)
def test_kills_of_the_own_cgroup_are_counted(tmp_path: Path, group: str, counts: str):
    (tmp_path / "cgroup").write_text(group)
    assert oom_kills(tmp_path, tmp_path / "fs") == 0  # nothing is told
    file = tmp_path / "fs" / counts
    file.parent.mkdir(parents=True)
    file.write_text("low 0\nhigh 7\nmax 9\noom 4\noom_kill 3\noom_group_kill 1\n")
    assert oom_kills(tmp_path, tmp_path / "fs") == 3


def test_machine_that_tells_nothing_has_killed_nobody(tmp_path: Path):
    assert oom_kills(tmp_path, tmp_path) == 0
    (tmp_path / "cgroup").write_text("0::/a\n")
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "memory.events").write_text("low 0\n")
    assert oom_kills(tmp_path, tmp_path) == 0
