"""The example of the demo, without a queue: books, audit, document, results."""

import re
import sqlite3
import sys
import zlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import date
from pathlib import Path

import pytest

from qcore import GiveUp

sys.path.insert(0, str(Path(__file__).parents[2] / "docs" / "examples"))
from school_audit import books, generated, imported, results
from school_audit.app import audit_student, make_document
from school_audit.audit import audit, money
from school_audit.document import ROWS_A_PAGE, render
from school_audit.folder import Wanted, clean, open_books

pytest.importorskip("reportlab")
STUDENT = books.Student(7, "José Müller", "Old Mill School", "3B")
MONTH = generated.MONTH


def line(number: int, account: str, debit: int, credit: int, **changes: str) -> books.Line:
    given = {"entry": "J01", "description": "Fee", **changes}
    return books.Line(
        number, date(2026, 10, 5), account=account, debit=debit, credit=credit, **given
    )


PAIR = [line(1, "1100 Receivable", 12345, 0), line(2, "4000 Tuition", 0, 12345)]


def write_csv(folder: Path, students: str, ledger: str | bytes) -> tuple[Path, Path]:
    paths = folder / "students.csv", folder / "ledger.csv"
    paths[0].write_text("student_id,name,school,form\n" + students)
    head = b"student_id,date,entry,account,description,debit,credit\n"
    paths[1].write_bytes(head + (ledger.encode() if isinstance(ledger, str) else ledger))
    return paths


def refusal(books_path: Path, student_id: int) -> str:
    """Return why the student cannot be audited."""
    with books.reading(books_path) as source, pytest.raises(books.Unauditable) as caught:
        books.read_student(source, student_id)
    return str(caught.value)


def text_of(pdf: bytes) -> str:
    """Return what the pages draw, as far as it is in strings."""
    streams = re.findall(rb"stream\r?\n(.*?)endstream", pdf, re.DOTALL)
    pages = b"\n".join(zlib.decompressobj().decompress(stream) for stream in streams)
    return "\n".join(found.decode("latin-1") for found in re.findall(rb"\((.*?)\) Tj", pages))


# -- books ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value"),
    [("", 0), ("0", 0), ("12", 1200), ("12.5", 1250), ("12.05", 1205), ("-0.01", -1)],
)
def test_amount_is_read_in_cents(text: str, value: int):
    assert books.cents(text) == value


@pytest.mark.parametrize(
    "text", ["12,x0", "1.234", "1e3", "nan", "12,50", ".5", "٣", " 1", "--1", "1\n"]
)
def test_amount_that_is_no_number_is_refused(text: str):
    with pytest.raises(ValueError, match="is not a number"):
        books.cents(text)


def test_amount_beyond_all_measure_is_refused():
    assert books.cents("999999999.99") == 99_999_999_999
    with pytest.raises(ValueError, match="'1000000000' has more than 9 digits"):
        books.cents("1000000000")


def test_generated_books_depend_on_the_seed_alone(tmp_path: Path):
    def rows(name: str, seed: int) -> list[tuple[object, ...]]:
        generated.generate(tmp_path / name, 40, seed)
        with closing(sqlite3.connect(tmp_path / name)) as db:
            return [*db.execute("SELECT * FROM students"), *db.execute("SELECT * FROM ledger")]

    assert rows("a", 1) == rows("b", 1) != rows("c", 2)


def test_generated_entries_balance(tmp_path: Path):
    facts = generated.generate(tmp_path / "books", 200, seed=3)
    assert 22 < facts.lines / facts.students < 27
    with books.reading(tmp_path / "books") as source:
        for student_id in books.subjects(source):
            student, lines = books.read_student(source, student_id)
            assert audit(student, MONTH, lines).balanced


def test_interrupted_creation_leaves_no_books(tmp_path: Path):
    def fill(db: sqlite3.Connection) -> str:
        db.execute("INSERT INTO students (id, name, school, form) VALUES (1, 'A', '', '')")
        raise books.BooksError("stop")

    with pytest.raises(books.BooksError):
        books.create(tmp_path / "books", "test", fill)
    assert books.read_facts(tmp_path / "books") is None


HOSTILE = {
    "7,2026-10-01,J1,1100,x,12,,x0": "ledger line 2: has 8 fields, the header has 7",
    '7,2026-10-01,J1,1100,x,"12,x0",': "ledger line 2: amount '12,x0' is not a number",
    "7,2026-02-30,J1,1100,x,1,": "ledger line 2: date '2026-02-30' is not a day",
    "7,20261001,J1,1100,x,1,": "ledger line 2: date '20261001' is not a day",
    "7,2026-10-01,J1,1100,x,1,2": "ledger line 2: has a debit (1) and a credit (2)",
    "7,2026-10-01,J1,,x,1,": "ledger line 2: names no account",
    "7,2026-10-01,J1": "ledger line 2: has 3 fields, the header has 7",
    '7,2026-10-01,J1,1100,"open,1,': "ledger line 2: is not CSV",
}


@pytest.mark.parametrize(("row", "reason"), HOSTILE.items())
def test_hostile_row_refuses_its_own_student_alone(tmp_path: Path, row: str, reason: str):
    good = "8,2026-10-01,J1,1100 R,x,5,\n8,2026-10-01,J1,4000 T,x,,5\n"
    csv = write_csv(tmp_path, "7,Ann,N,1A\n8,Bob,N,1A\n", f"{row}\n{good}")
    assert imported.import_csv(tmp_path / "books", *csv).month == "2026-10"
    assert refusal(tmp_path / "books", 7).startswith(f"student 7: {reason}")
    with books.reading(tmp_path / "books") as source:
        student, lines = books.read_student(source, 8)
    assert (student.name, [found.number for found in lines]) == ("Bob", [3, 4])


def test_bytes_that_are_no_text_refuse_their_student(tmp_path: Path):
    rows = b"7,2026-10-01,J1,1100,M\xfcller,1,\n8,2026-10-01,J1,1100," + b"x" * 70_000 + b",1,\n"
    csv = write_csv(tmp_path, "7,Ann,N,1A\n8,Bob,N,1A\n9,Cy,N,1A\n", rows + b"9,2026-10-01,,a,,1,")
    imported.import_csv(tmp_path / "books", *csv)
    assert refusal(tmp_path / "books", 7) == "student 7: ledger line 2: is not UTF-8 text"
    assert "longer than 65536 bytes" in refusal(tmp_path / "books", 8)
    with books.reading(tmp_path / "books") as source:
        assert books.read_student(source, 9)[1][0].number == 4


def test_every_row_of_the_input_belongs_to_a_job(tmp_path: Path):
    csv = write_csv(
        tmp_path,
        "1,Ann,N,1A\nx,Bob,N,1A\n1,Twice,N,1A\n3,,N,1A\n",
        "999,2026-10-01,J1,1100,x,1,\n,2026-10-01,J1,1100,x,1,\n-4,2026-10-01,J1,1100,x,1,\n",
    )
    imported.import_csv(tmp_path / "books", *csv)
    with books.reading(tmp_path / "books") as source:
        assert list(books.subjects(source)) == [books.NOBODY, 1, 3, 999]
    assert "line 4: repeats a student" in refusal(tmp_path / "books", 1)
    assert "line 5: has no name" in refusal(tmp_path / "books", 3)
    assert refusal(tmp_path / "books", 999) == (
        "student 999: ledger line 2 names a student who is not in the list of students"
    )
    nobody = refusal(tmp_path / "books", books.NOBODY)
    assert nobody.startswith("3 rows name no student: ledger.csv line 3: student id ''")
    assert "ledger.csv line 4: student id '-4'" in nobody
    assert "students.csv line 3: student id 'x'" in nobody


def test_columns_are_found_by_name_and_some_may_be_absent(tmp_path: Path):
    (tmp_path / "s.csv").write_bytes(b"\xef\xbb\xbfName,ID\r\nAnn,7\r\n\r\n")
    (tmp_path / "l.csv").write_text(
        "credit,debit,account,date,student_id\n,2.50,1100,2026-09-30,7\n"
    )
    facts = imported.import_csv(tmp_path / "books", tmp_path / "s.csv", tmp_path / "l.csv")
    assert (facts.students, facts.lines, facts.month) == (1, 1, "2026-09")
    with books.reading(tmp_path / "books") as source:
        assert books.read_student(source, 7)[1][0].debit == 250


def test_missing_column_is_told(tmp_path: Path):
    students, ledger = write_csv(tmp_path, "7,Ann,N,1A\n", "")
    ledger.write_text("student_id,date,account,debit\n")
    with pytest.raises(books.BooksError, match="has no column credit; it has: student_id, date"):
        imported.import_csv(tmp_path / "books", students, ledger)
    with pytest.raises(books.BooksError, match="cannot read"):
        imported.import_csv(tmp_path / "books", students, tmp_path / "absent.csv")


def test_folder_keeps_its_books(tmp_path: Path):
    made = open_books(tmp_path, Wanted(students=3))
    assert open_books(tmp_path, Wanted()) == open_books(tmp_path, Wanted(students=3)) == made
    with pytest.raises(books.BooksError, match="holds other books"):
        open_books(tmp_path, Wanted(students=3, seed=2))


def test_clean_start_removes_nothing_of_others(tmp_path: Path):
    open_books(tmp_path, Wanted(students=3))
    make_document(tmp_path, 1, MONTH)
    letter = tmp_path / "documents" / "2026-10" / "letter.pdf"
    letter.write_bytes(b"mine")
    clean(tmp_path)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [letter]
    assert not (letter.parent / "000").exists()


# -- audit and document ---------------------------------------------------------------------------


def test_running_balance_is_that_of_the_account():
    found = audit(STUDENT, MONTH, [*PAIR, line(3, "1100 Receivable", 0, 345)])
    assert found.running == [12345, -12345, 12000]
    assert [(b.account, b.closing) for b in found.balances] == [
        ("1100 Receivable", 12000),
        ("4000 Tuition", -12345),
    ]


def test_unbalanced_entry_is_a_finding():
    wrong = [*PAIR, line(3, "a", 100, 0, entry="J02"), line(4, "b", 0, 100, entry="J03")]
    found = audit(STUDENT, MONTH, wrong)
    assert (found.debit, found.balanced) == (found.credit, False)
    assert found.unbalanced == {"J02": 100, "J03": -100}
    assert "NOT BALANCED" in text_of(render(found))


def test_money_is_printed_with_all_its_digits():
    assert [money(value) for value in (0, 5, -5, 123456789)] == [
        "0.00",
        "0.05",
        "-0.05",
        "1,234,567.89",
    ]


def test_same_audit_gives_the_same_bytes():
    first = render(audit(STUDENT, MONTH, PAIR))
    assert first == render(audit(STUDENT, MONTH, PAIR))
    assert first != render(audit(STUDENT, MONTH, PAIR[:1]))
    assert first != render(audit(STUDENT, "2026-09", PAIR))
    assert b"D:20261031000000Z" in first


def test_document_says_what_the_audit_found():
    said = text_of(render(audit(STUDENT, MONTH, PAIR)))
    for text in ("Jos\\351 M\\374ller", "1100 Receivable", "123.45", "\\226123.45", "Page 1 of 1"):
        assert text in said
    assert "debits 123.45 = credits 123.45, balanced" in said


def test_long_ledger_goes_on_over_pages():
    lines = [line(n, f"{n} account", n, 0) for n in range(1, 2 * ROWS_A_PAGE)]
    said = text_of(render(audit(STUDENT, MONTH, lines)))
    assert "Page 5 of 5" in said
    assert all(f"{n} account" in said for n in range(1, 2 * ROWS_A_PAGE))


def test_student_without_lines_has_a_document():
    assert "0 lines" in text_of(render(audit(STUDENT, MONTH, [])))


def test_text_that_is_too_wide_is_cut_visibly():
    wide = line(1, "W" * 200, 1, 0)
    assert "WWW\\205" in text_of(render(audit(STUDENT, MONTH, [wide])))


@pytest.mark.parametrize("name", ["Łucja", "李", "a\x00b", "tab\tbed"])
def test_text_that_cannot_be_printed_is_refused(name: str):
    student = books.Student(7, name, "", "")
    with pytest.raises(books.Unauditable, match="student 7: the row of the student holds"):
        render(audit(student, MONTH, PAIR))
    with pytest.raises(books.Unauditable, match="student 7: ledger line 1 holds"):
        render(audit(STUDENT, MONTH, [line(1, name, 1, 0)]))


# -- results --------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    generated.generate(tmp_path / results.BOOKS, 20, seed=1)
    with results.opened(tmp_path, create=True) as ledger:
        ledger.begin_batch()
    return tmp_path


def run(folder: Path, student_id: int, batch: int | None = None) -> None:
    with results.opened(folder) as ledger:
        audit_student(student_id, MONTH, str(folder), batch or ledger.batch())


def test_task_writes_and_records_a_document(folder: Path):
    run(folder, 3)
    with results.opened(folder) as ledger:
        assert ledger.totals() == results.Totals(documents=1, duplicates=0, unbalanced=0)
        assert list(ledger.unmade()) == [i for i in range(1, 21) if i != 3]
        assert list(ledger.faults()) == []
    assert (folder / results.path_of(3, MONTH)).read_bytes().startswith(b"%PDF-")
    assert not list(folder.glob("documents/**/*.tmp"))


def test_second_run_is_counted_and_changes_no_byte(folder: Path):
    run(folder, 3)
    path = folder / results.path_of(3, MONTH)
    before = path.read_bytes()
    run(folder, 3)
    assert path.read_bytes() == before
    with results.opened(folder) as ledger:
        assert ledger.totals() == results.Totals(documents=1, duplicates=1, unbalanced=0)


def test_crash_before_the_record_is_healed_by_the_next_run(folder: Path):
    make_document(folder, 3, MONTH)
    with results.opened(folder) as ledger:
        assert 3 in ledger.unmade()
    run(folder, 3)
    with results.opened(folder) as ledger:
        assert (ledger.totals().duplicates, list(ledger.faults())) == (0, [])


def test_superseded_job_does_nothing(folder: Path):
    with results.opened(folder) as ledger:
        before = ledger.batch()
        assert ledger.begin_batch() > before
    run(folder, 3, batch=before)
    with results.opened(folder) as ledger:
        assert ledger.totals().documents == 0


def test_student_who_cannot_be_audited_ends_dead_with_the_reason(folder: Path):
    with pytest.raises(GiveUp, match="student 77: is not in the list of students"):
        run(folder, 77)
    with results.opened(folder) as ledger, pytest.raises(GiveUp, match="is not a month such as"):
        audit_student(1, "../../x", str(folder), ledger.batch())


def test_faults_name_what_is_missing_or_corrupt(folder: Path):
    for student_id in (3, 4, 5):
        run(folder, student_id)
    (folder / results.path_of(3, MONTH)).unlink()
    changed = folder / results.path_of(5, MONTH)
    changed.write_bytes(changed.read_bytes() + b" ")
    with results.opened(folder) as ledger:
        found = list(ledger.faults())
        assert [(f.student_id, f.kind) for f in found] == [(3, "missing"), (5, "corrupt")]
        ledger.forget([f.student_id for f in found])
        assert {3, 5} < set(ledger.unmade())
    run(folder, 3)
    run(folder, 5)
    with results.opened(folder) as ledger:
        assert (list(ledger.faults()), ledger.totals().duplicates) == ([], 0)


def test_many_writers_lose_no_record(folder: Path):
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda student_id: run(folder, student_id), range(1, 21)))
    with results.opened(folder) as ledger:
        assert (ledger.totals().documents, list(ledger.unmade())) == (20, [])


def test_waits_are_those_of_the_batches_asked_for(folder: Path):
    def record(ledger: results.Results, student_id: int, batch: int, wait_ms: int) -> None:
        document = results.Document(student_id, "p", "s", 1, 1, balanced=True)
        ledger.record(document, results.Run("j", batch, 1, wait_ms, 1, 1))

    with results.opened(folder) as ledger:
        assert ledger.wait_ms(1, 0.5) == 0
        record(ledger, 1000, 1, 99_999)
        for wait in range(100):
            record(ledger, wait, 2, wait)
        assert (ledger.made(2), ledger.wait_ms(2, 0.5), ledger.wait_ms(2, 0.99)) == (100, 50, 99)


def test_sweep_spares_what_is_being_written(folder: Path):
    run(folder, 3)
    shelf = (folder / results.path_of(3, MONTH)).parent
    fresh = shelf / ".student-000004.1.tmp"
    fresh.write_bytes(b"half")
    assert results.sweep(folder) == 0
    assert fresh.exists()
