"""The benchmarks: what the tables say of given lines, and what each system says of itself."""

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from benchmarks.harness import ahead, journal, processes, records, systems, table, targets
from benchmarks.harness.bench import Bench, Options
from benchmarks.harness.targets import Target

HOST = {"date": "d", "commit": "c", "cpu": "x", "cores": 2, "kernel": "k", "python": "3"}


def line(system: str, number: int, value: float, **more: Any) -> records.Record:
    facts = {"host": HOST | {"redis": "Redis 7"}, "persistence": "none", "versions": {}}
    base = {"part": "drain", "case": "1 process", "unit": "jobs/s", "round": number}
    return base | facts | {"system": system, "value": value} | more


def lines(values: dict[str, list[float]], **more: Any) -> list[records.Record]:
    return [
        line(system, i, value, **more)
        for system, of_rounds in values.items()
        for i, value in enumerate(of_rounds, 1)
    ]


def test_cell_is_the_median_with_its_range_and_the_median_of_the_ratios_within_a_round():
    # the ratios are 10, 2 and 4: their median is not the ratio of the medians, 30 / 10
    text = table.report(lines({"qcore": [100, 20, 30], "saq": [10, 10, 7.5]}))
    assert "| qcore | 30 (20-100) |" in text
    assert "| saq | 10 (7.5-10) x4 |" in text


def test_ratio_says_how_many_times_better_also_where_less_is_better():
    found = lines({"qcore": [1, 1], "saq": [5, 5]}, unit="ms", part="pickup")
    assert "| saq | 5 (5-5) x5 |" in table.report(found)


def test_round_in_which_one_failed_has_no_ratio():
    found = [*lines({"qcore": [100, 20, 30]}), line("saq", 2, 10), line("saq", 3, 10)]
    assert "| saq | 10 (10-10) x2.5 |" in table.report(found)


def test_warm_up_is_not_read(tmp_path: Path):
    path = tmp_path / "lines.jsonl"
    written = records.Lines(path)
    for i in (0, 1):
        written.write(line("qcore", i, i))
    written.close()
    assert [record["round"] for record in records.read(path)] == [1]


def test_cpu_of_a_job_has_a_table_of_its_own():
    found = [line("qcore", 1, 100, worker_us=8.5), line("saq", 1, 10, worker_us=500)]
    text = table.report(found)
    assert "CPU of the worker processes, µs a job:" in text
    assert "| saq | 500 (500-500) |" in text


def test_cpu_of_a_run_with_several_cases_has_one_column():
    found = [
        line("qcore", 1, value, part="pickup", case=f"{case}, 1c", unit="ms", run="1c", redis_us=7)
        for case, value in (("p50", 1), ("p99", 5))
    ]
    text = table.report([*found, line("saq", 1, 2, part="pickup", case="p50, 1c", unit="ms")])
    assert "| system | p50, 1c, ms | p99, 1c, ms |" in text
    assert "CPU of Redis, µs a job:\n\n| system | 1c |\n| --- | --: |\n| qcore | 7 (7-7) |" in text


def test_part_of_qcore_alone_has_columns_for_what_cpu_it_took():
    found = [
        line("qcore", 1, 9, part="tax", case="plain", process_us=8.5, redis_us=4),
        line("qcore", 1, 7, part="tax", case="size", unit="MB"),
    ]
    text = table.report(found)
    assert "| ratio | CPU of the process, µs a job | CPU of Redis, µs a job |" in text
    assert "| plain | jobs/s | 9 (9-9) |  | 8.5 (8.5-8.5) | 4 (4-4) |" in text
    assert "| size | MB | 7 (7-7) |  |  |  |" in text


def test_best_other_queue_of_each_column_stands_beside_qcore():
    found = [
        *lines({"qcore": [100, 300], "saq": [50, 60], "arq": [10, 20], "bare": [900, 900]}),
        *lines({"qcore": [2, 3], "saq": [8, 9], "arq": [1, 1]}, part="pickup", unit="ms"),
        *lines({"qcore": [5]}, part="tax"),
        *lines({"saq": [5]}, case="2 processes"),
    ]
    drain, pickup = ahead.standings(found)
    assert drain == ("drain: 1 process, jobs/s", 200, "saq", 55, [2, 5])
    assert drain.is_ahead
    assert pickup == ("pickup: 1 process, ms", 2.5, "arq", 1, [0.5, 1 / 3])
    assert not pickup.is_ahead
    text = table.report(found)
    assert "| drain: 1 process, jobs/s | 200 | saq | 55 | x3.5 (2-5) | yes |" in text
    assert "qcore is not ahead in 1 of 2 columns:\n\n- pickup: 1 process, ms: arq, x0.417" in text


def test_cpu_of_a_job_is_a_column_in_which_less_is_better():
    found = [line("qcore", 1, 100, redis_us=8), line("saq", 1, 10, redis_us=2)]
    assert [one.column for one in ahead.standings(found) if not one.is_ahead] == [
        "drain: 1 process, CPU of Redis, µs a job"
    ]


def test_nobody_stands_beside_qcore_alone():
    assert ahead.report(lines({"qcore": [1, 2], "bare": [1, 2]})) == ""
    assert "Who is ahead" not in table.report(lines({"qcore": [1, 2]}))


def test_part_of_qcore_alone_has_a_row_for_each_case():
    found = [
        *lines({"qcore": [100, 80]}, part="tax", case="no feature"),
        *lines({"qcore": [50, 20]}, part="tax", case="results", base="no feature"),
    ]
    assert "| results | jobs/s | 35 (20-50) | x0.375 of no feature |" in table.report(found)


def test_target_is_a_ratio_to_the_best_of_its_systems_in_each_round():
    drain = Target("", "drain", "1 process", 10, ("arq", "saq"))
    found = lines({"qcore": [100, 100, 100], "arq": [10, 5, 4], "saq": [2, 8, 5]})
    assert targets.measured(found, drain) == [10, 12.5, 20]
    assert targets.is_met(drain, [10, 12.5, 20])
    assert not targets.is_met(drain, [5, 9.9, 20])
    late = Target("", "drain", "1 process", 1.5, ("arq", "saq"), at_least=False)
    assert targets.measured(found, late) == [50, 20, 25]
    assert not targets.is_met(late, [50, 20, 25])


def test_target_without_another_system_is_a_bound_of_the_value():
    found = lines({"qcore": [0.9, 0.96]}, case="c")
    assert targets.measured(found, Target("", "drain", "c", 0.95)) == [0.9, 0.96]


def test_target_of_a_part_that_was_run_is_shown_even_when_it_was_not_measured():
    found = lines({"qcore": [1]})
    assert targets.measured(found, Target("", "drain", "1 process", 1, ("x",))) == []
    text = table.report(found)
    assert "| drain / BullMQ on Node | at least 3 |  | not measured |" in text
    assert "one EVALSHA" not in text


@pytest.mark.parametrize("target", targets.TARGETS, ids=lambda target: target.text)
def test_target_appears_with_its_verdict(target: Target):
    names = ["qcore", *target.against]
    rows = [line(name, 1, 1, part=target.part, case=target.case) for name in names]
    (row,) = [row for row in table.report(rows).splitlines() if row.startswith(f"| {target.text} ")]
    met = target.bound <= 1 if target.at_least else target.bound >= 1
    assert ("yes" in row) == met


def test_tables_replace_what_stood_between_the_marks(tmp_path: Path):
    page = tmp_path / "README.md"
    page.write_text(f"before\n{table.START}\nold\n{table.END}\nafter\n")
    for text in ("one", "two"):
        table.write_into(page, text)
    assert page.read_text() == f"before\n{table.START}\n\ntwo\n{table.END}\nafter\n"


def test_page_of_the_results_has_the_marks():
    text = (records.ROOT / "benchmarks" / "README.md").read_text()
    assert text.index(table.START) < text.index(table.END)


@pytest.mark.parametrize("name", [*systems.ALL, systems.BARE])
def test_system_is_short_and_says_what_it_is(name: str):
    path = systems.path_of(name)
    assert len(path.read_text().splitlines()) <= 60
    said = systems.constants(path)
    assert {"GUARANTEE", "SETTINGS", "DEPTH", "BULK"} <= said.keys()
    assert said["GUARANTEE"]
    assert said["SETTINGS"]
    assert len(said["DEPTH"].split()) == 2
    assert isinstance(said["BULK"], bool)


@pytest.mark.parametrize("name", ["bullmq", "laravel", "sidekiq"])
def test_system_whose_language_is_not_here_is_left_out_with_a_sentence(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("PATH", str(tmp_path))
    systems.available.cache_clear()
    systems.load.cache_clear()  # where the language is here, another test may have run it
    written = records.Lines(tmp_path / "lines")
    bench = Bench("drain", Options(), written)
    assert [system.name for _ in range(2) for system in bench.systems("qcore", name)] == [
        "qcore",
        "qcore",
    ]
    written.close()
    needs = systems.constants(systems.path_of(name))["NEEDS"]
    assert capsys.readouterr().err == f"{name} is left out: it needs {needs}.\n"
    systems.available.cache_clear()


def test_process_pinned_to_one_core_is_let_go():
    before = os.sched_getaffinity(0)
    with processes.pinned(1):
        assert len(os.sched_getaffinity(0)) == 1
    assert os.sched_getaffinity(0) == before
    with processes.pinned(None):
        assert os.sched_getaffinity(0) == before
    with (
        pytest.raises(RuntimeError, match=rf"{len(before) + 1} cores are wanted"),
        processes.pinned(len(before) + 1),
    ):
        pass


def test_cpu_of_a_process_is_that_of_its_own_clock():
    before = time.process_time()
    while time.process_time() - before < 0.003:
        pass
    ended = os.times()
    least = time.process_time() + ended.children_user + ended.children_system
    assert least <= processes.cpu_s(os.getpid()) <= least + 0.05
    assert processes.cpu_s(-1) == 0


@pytest.mark.parametrize("name", ["qcore", *systems.PYTHON_PEERS])
def test_versions_of_a_python_system_are_pinned(name: str):
    pins = (systems.path_of(name).parent / f"{name}.txt").read_text().splitlines()
    assert all("==" in pin for pin in pins if pin and not pin.startswith("#"))


def test_versions_of_the_system_on_node_are_locked():
    folder = systems.path_of("bullmq").parent / "bullmq"
    wanted = json.loads((folder / "package.json").read_text())["dependencies"]
    locked = json.loads((folder / "package-lock.json").read_text())["packages"]
    assert wanted == {name: locked[f"node_modules/{name}"]["version"] for name in wanted}


def test_journal_counts_each_run_of_each_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for pid, numbers in ((1, (0, 2)), (2, (1,))):
        monkeypatch.setattr("os.getpid", lambda pid=pid: pid)
        note = journal.writer(tmp_path, 100)
        for n in numbers:
            note(n, 0)
    assert journal.count(tmp_path) == 3
    found = journal.runs(tmp_path)
    assert sorted(n for n, _, _ in found) == [0, 1, 2]
    assert all(0 < began == ended for _, began, ended in found)


@pytest.mark.parametrize(
    ("numbers", "said"),
    [([0, 1, 1, 2], "0 lost, 1 run again"), ([0, 2], "1 lost, 0 run again"), ([0, 0], "2 lost, 1")],
)
def test_delivery_that_is_not_exact_is_refused(numbers: list[int], said: str):
    with pytest.raises(RuntimeError, match=said):
        journal.check([(n, 1, 2) for n in numbers], 3)
    journal.check([(n, 1, 2) for n in (2, 0, 1)], 3)


def test_latency_counts_from_when_a_job_was_due():
    found = [(1, 5_000_000, 9_000_000), (2, 6_500_000, 9_000_000), (0, 1, 1)]
    late = journal.latencies_ms(found, [0, 1_000_000, 6_000_000])
    assert late == [0.5, 4]
    assert journal.percentile(late, 50) == 4
    assert journal.percentile(late, 99) == 4
    assert journal.percentile(late, 0) == 0.5
