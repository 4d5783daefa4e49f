"""Books read from CSV files, line by line, in constant memory.

A row that cannot be understood never stops the import: it is kept with the sentence that says
what is wrong, and the job of its student ends dead with that sentence.
"""

import csv
import re
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from school_audit.books import BooksError, Facts, create

#: Columns of each file, and those that may be left out.
STUDENT_COLUMNS = ("student_id", "name", "school", "form")
LEDGER_COLUMNS = ("student_id", "date", "entry", "account", "description", "debit", "credit")
OPTIONAL = frozenset({"school", "form", "entry", "description"})

#: A longer line is cut there and marked as wrong.
LINE_LIMIT_BYTES = 64 * 1024
_ID = re.compile(r"0{0,9}([1-9][0-9]{0,17})")


@dataclass(frozen=True, slots=True)
class _Row:
    number: int
    fields: list[str]
    problem: str = ""


def import_csv(path: Path, students_csv: Path, ledger_csv: Path) -> Facts:
    """Write books from a file of students and a file of ledger lines.

    Raises:
        BooksError: a file cannot be read or lacks a column.
    """

    def fill(connection: sqlite3.Connection) -> None:
        # In this order: a second row of one student is found by the first.
        for row in _rows(students_csv, STUDENT_COLUMNS):
            _add_student(connection, students_csv.name, row)
        for row in _rows(ledger_csv, LEDGER_COLUMNS):
            _add_line(connection, ledger_csv.name, row)

    return create(path, source_of(students_csv, ledger_csv), fill)


def source_of(students_csv: Path, ledger_csv: Path) -> str:
    """Return what tells these two files, as they are now, from others.

    Raises:
        BooksError: a file is not there.
    """
    told: list[str] = []
    for path in (students_csv, ledger_csv):
        try:
            found = path.stat()
        except OSError as error:
            raise BooksError(f"cannot read {path}: {error.strerror}") from error
        told.append(f"{path.absolute()} ({found.st_size} bytes, {found.st_mtime_ns})")
    return "imported: " + " and ".join(told)


def _add_student(connection: sqlite3.Connection, source: str, row: _Row) -> None:
    student_id, problem = _student_id(row)
    if student_id is None:
        _add_stray(connection, source, row, problem)
        return
    _, name, school, form = row.fields
    problem = row.problem or ("" if name else "has no name")
    if problem:
        problem = f"{source} line {row.number}: {problem}"
    connection.execute(
        "INSERT INTO students VALUES (?, ?, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET problem = ?",
        (student_id, name, school, form, problem,
         f"{source} line {row.number}: repeats a student who is listed above"),
    )  # fmt: skip


def _add_line(connection: sqlite3.Connection, source: str, row: _Row) -> None:
    student_id, problem = _student_id(row)
    if student_id is None:
        _add_stray(connection, source, row, problem)
        return
    connection.execute(
        "INSERT INTO ledger VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (row.number, student_id, *row.fields[1:], row.problem),
    )


def _add_stray(connection: sqlite3.Connection, source: str, row: _Row, problem: str) -> None:
    connection.execute("INSERT INTO strays VALUES (?, ?, ?)", (source, row.number, problem))


def _student_id(row: _Row) -> tuple[int | None, str]:
    match = _ID.fullmatch(row.fields[0])
    if match:
        return int(match[1]), ""
    return None, row.problem or f"student id {row.fields[0][:40]!r} is not a whole number above 0"


def _rows(path: Path, columns: tuple[str, ...]) -> Iterator[_Row]:
    """Yield each line after the header with its fields in the order of `columns`."""
    try:
        lines = _lines(path)
        header = next(lines, None)
        if header is None:
            raise BooksError(f"{path} is empty: its first line must name the columns")
        places = _places(path, header.fields, columns)
        for row in lines:
            problem = row.problem
            if not problem and len(row.fields) != len(header.fields):
                problem = f"has {len(row.fields)} fields, the header has {len(header.fields)}"
            found = row.fields
            fields = [found[i] if i is not None and i < len(found) else "" for i in places]
            yield _Row(row.number, fields, problem)
    except OSError as error:
        raise BooksError(f"cannot read {path}: {error.strerror}") from error


def _places(path: Path, header: list[str], columns: tuple[str, ...]) -> list[int | None]:
    names = [name.lower() for name in header]
    if "student_id" not in names and columns is STUDENT_COLUMNS:
        names = ["student_id" if name == "id" else name for name in names]
    missing = [name for name in columns if name not in names and name not in OPTIONAL]
    if missing:
        raise BooksError(f"{path} has no column {', '.join(missing)}; it has: {', '.join(header)}")
    return [names.index(name) if name in names else None for name in columns]


def _lines(path: Path) -> Iterator[_Row]:
    """Yield each line that is not blank, split into fields.

    One line is one record: a quote left open spoils its own line and no other.
    """
    with path.open("rb") as file:
        number = 0
        while raw := file.readline(LINE_LIMIT_BYTES):
            number += 1
            problem = ""
            if len(raw) == LINE_LIMIT_BYTES and not raw.endswith(b"\n"):
                problem = f"is longer than {LINE_LIMIT_BYTES} bytes"
                while (rest := file.readline(LINE_LIMIT_BYTES)) and not rest.endswith(b"\n"):
                    pass
                raw = raw[:200]
            if number == 1:
                raw = raw.removeprefix(b"\xef\xbb\xbf")
            row = _split(number, raw, problem)
            if row.fields:
                yield row


def _split(number: int, raw: bytes, problem: str) -> _Row:
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        text = raw.decode(errors="backslashreplace")
        problem = problem or "is not UTF-8 text"
    text = text.strip()
    try:
        fields = next(csv.reader([text], strict=True), list[str]())
    except csv.Error as error:
        fields = text.split(",")
        problem = problem or f"is not CSV ({error})"
    return _Row(number, [field.strip() for field in fields], problem)
