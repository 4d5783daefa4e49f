"""`--processes auto`: a container may use less than the cores that it sees."""

import os
from pathlib import Path

import pytest

from qcore_cli.cores import cpu_quotas, usable_cores
from tests.support.cgroup import system

V1 = "5:cpu,cpuacct:{}\n4:cpuset:/elsewhere\n0::/systemd\n"


@pytest.mark.parametrize(
    ("groups", "files", "quotas"),
    [
        # a container sees its own group as the top
        ("0::/\n", {"sys/fs/cgroup/cpu.max": "200000 100000\n"}, [2.0]),
        ("0::/\n", {"sys/fs/cgroup/cpu.max": "max 100000\n"}, []),
        # a systemd unit on a host, within a slice with a limit of its own
        (
            "0::/system.slice/shop.service\n",
            {
                "sys/fs/cgroup/system.slice/shop.service/cpu.max": "350000 100000\n",
                "sys/fs/cgroup/system.slice/cpu.max": "50000 100000\n",
            },
            [3.5, 0.5],
        ),
        # version 1: the path is that of the host, the folder that of the container
        (
            V1.format("/docker/ab12"),
            {
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "150000\n",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            },
            [1.5],
        ),
        (
            V1.format("/"),
            {
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            },
            [],
        ),
        ("0::/\n", {"sys/fs/cgroup/cpu.max": "what is this\n"}, []),
        ("0::/\n", {}, []),
        ("", {}, []),
    ],
)
def test_quotas_are_those_of_the_group_and_all_above_it(tmp_path, groups, files, quotas):
    assert list(cpu_quotas(system(tmp_path, groups, files))) == quotas


def test_system_without_control_groups_has_no_quota(tmp_path: Path):
    assert list(cpu_quotas(tmp_path)) == []


@pytest.mark.parametrize(
    ("cpu_max", "cores"),
    [
        ("max 100000", 64),
        ("200000 100000", 2),
        ("210000 100000", 3),
        ("10000 100000", 1),
        ("9900000 100000", 64),
    ],
)
def test_part_of_a_core_counts_as_one_and_no_more_than_there_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cpu_max: str, cores: int
):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(64)), raising=False)
    root = system(tmp_path, "0::/\n", {"sys/fs/cgroup/cpu.max": cpu_max})
    assert usable_cores(root) == cores
