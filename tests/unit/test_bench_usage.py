"""What `qcore bench` reads of the CPU, on systems that tell it and on others."""

from pathlib import Path
from typing import Any

import msgspec

from qcore_cli.bench.usage import Shares, Usage


def write(proc: Path, ran_s: float, busy: int, idle: int) -> None:
    (proc / "7").mkdir(exist_ok=True)
    (proc / "7" / "schedstat").write_text(f"{int(ran_s * 1e9)} 123 456\n")
    (proc / "stat").write_text(f"cpu  {busy} 0 0 {idle} 0 0 0 0 {busy} 0\ncpu0 1 2 3 4\n")


def shares(before: Usage, after: Usage, *, seconds: float) -> Shares:
    """Return the shares as if so many seconds had passed."""
    assert after.at > before.at
    after = Usage(
        at=before.at + seconds, ran_s=after.ran_s, machine=after.machine, quota=after.quota
    )
    return after.since(before)


def test_shares_of_process_machine_and_quota_are_those_of_the_time_between(tmp_path: Path):
    quota = tmp_path / "cpu.stat"
    write(tmp_path, ran_s=5.0, busy=1000, idle=9000)
    quota.write_text("nr_periods 10\nnr_throttled 1\nthrottled_usec 5\n")
    before = Usage.now([7, 8], proc=tmp_path, quota=[tmp_path / "none", quota])
    write(tmp_path, ran_s=6.0, busy=1300, idle=9100)
    quota.write_text("nr_periods 30\nnr_throttled 16\nthrottled_usec 5\n")
    after = Usage.now([7, 8], proc=tmp_path, quota=[tmp_path / "none", quota])

    found = shares(before, after, seconds=2.0)

    assert found == Shares(process=0.5, machine=0.75, throttled=0.75)


def test_shares_are_unknown_where_the_system_does_not_tell(tmp_path: Path):
    places: dict[str, Any] = {"proc": tmp_path, "quota": [tmp_path / "cpu.stat"]}
    before, after = Usage.now([7], **places), Usage.now([7], **places)

    found = shares(before, after, seconds=2.0)

    assert msgspec.structs.astuple(found) == (None, None, None)


def test_a_quota_that_is_not_set_is_none(tmp_path: Path):
    (tmp_path / "cpu.stat").write_text("usage_usec 5\nnr_periods 0\nnr_throttled 0\n")

    assert Usage.now([], proc=tmp_path, quota=[tmp_path / "cpu.stat"]).quota is None
