"""The PDF document of one audit: the same audit gives the same bytes, on every machine.

Drawn straight on reportlab's canvas, column by column: 2.7 ms a document where the library's own
tables take 7 (README.md has the figures).
"""

import calendar
import functools
import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from reportlab import rl_config
from reportlab.lib.pagesizes import A4
from reportlab.pdfbase.pdfmetrics import stringWidth
from reportlab.pdfgen.canvas import Canvas

from school_audit.audit import Audit, money
from school_audit.books import Unauditable

NETWORK = "Northern School Network"
ROWS_A_PAGE = 45
LEADING = 14.0
LEFT, RIGHT = 42.0, A4[0] - 42.0
TOP = A4[1] - 176.0
SIZE = 8.5

#: Left edge of the text columns with their width, right edge of the number columns.
TEXT_COLUMNS = ((LEFT, 54.0), (LEFT + 56, 30.0), (LEFT + 88, 96.0), (LEFT + 186, 116.0))
NUMBER_COLUMNS = (LEFT + 366, LEFT + 437, RIGHT)
HEADINGS = ("Date", "Entry", "Account", "Description", "Debit", "Credit", "Balance")

# Binary streams: ASCII armour would cost a fifth of the time and of the size.
rl_config.useA85 = 0


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the table: four texts, three numbers."""

    cells: tuple[str, str, str, str, str, str, str]
    bold: bool = False


BLANK = Row(("", "", "", "", "", "", ""))


def render(audit: Audit) -> bytes:
    """Return the document as PDF bytes (A4, about 3 KB).

    Raises:
        Unauditable: a text holds a character that the document's font does not have.
    """
    rows = list(_rows(audit))
    for text in (audit.student.name, audit.student.school, audit.student.form):
        _check_printable(audit, text)
    for line in audit.lines:
        _check_printable(audit, line.entry + line.account + line.description, line.number)
    pages = [rows[i : i + ROWS_A_PAGE] for i in range(0, len(rows), ROWS_A_PAGE)]
    file = io.BytesIO()
    canvas: Any = Canvas(file, pagesize=A4, invariant=1, pageCompression=1)
    _describe(canvas, audit)
    for number, page in enumerate(pages, 1):
        _draw_head(canvas, audit)
        _draw_table(canvas, page)
        _draw_foot(canvas, audit, number, len(pages))
        canvas.showPage()
    canvas.save()
    return file.getvalue()


def _check_printable(audit: Audit, text: str, line: int | None = None) -> None:
    """Refuse what the standard PDF fonts cannot print: a changed name would be a false document."""
    text = text.replace("\xa0", " ")
    try:
        text.encode("cp1252")
        if text.isprintable():
            return
    except UnicodeEncodeError:
        pass
    odd = next(c for c in text if not c.isprintable() or not c.encode("cp1252", "ignore"))
    where = f"ledger line {line}" if line else "the row of the student"
    raise Unauditable(
        f"student {audit.student.id}: {where} holds the character {odd!r}, which the font of the"
        " documents lacks (it has those of Windows-1252)"
    )


def _rows(audit: Audit) -> Iterator[Row]:
    """Yield the whole table: lines, totals, balance of each account, the double-entry check."""
    for line, balance in zip(audit.lines, audit.running, strict=True):
        yield Row(
            (
                line.dated.isoformat(), line.entry, line.account, line.description,
                money(line.debit) if line.debit else "", money(line.credit) if line.credit else "",
                money(balance),
            )
        )  # fmt: skip
    totals = (money(audit.debit), money(audit.credit), money(audit.debit - audit.credit))
    yield Row(("Total", "", f"{len(audit.lines)} lines", "", *totals), bold=True)
    yield BLANK
    yield Row(("Balance of each account", "", "", "", "", "", ""), bold=True)
    for found in audit.balances:
        sums = (money(found.debit), money(found.credit), money(found.closing))
        yield Row(("", "", found.account, "", *sums))
    yield BLANK
    yield Row((_verdict(audit), "", "", "", "", "", ""), bold=True)
    for entry, difference in audit.unbalanced.items():
        yield Row(("", entry, "debits less credits", "", "", "", money(difference)))


def _verdict(audit: Audit) -> str:
    debit, credit = money(audit.debit), money(audit.credit)
    if audit.balanced:
        return f"Double entry: debits {debit} = credits {credit}, balanced"
    return (
        f"Double entry: NOT BALANCED, debits {debit}, credits {credit},"
        f" {len(audit.unbalanced)} journal entries differ"
    )


def _describe(canvas: Any, audit: Audit) -> None:
    stamp = "D:" + _month_end(audit.month).replace("-", "") + "000000Z"

    def date_of_document(*_now: int) -> str:
        return stamp  # the end of the month, never the clock: a second run gives the same bytes

    canvas.setDateFormatter(date_of_document)
    canvas.setTitle(f"Audit {audit.month}, student {audit.student.id}")
    canvas.setAuthor(NETWORK)
    canvas.setSubject(f"SHA-256 of the ledger lines: {audit.digest}")
    canvas.setCreator("school_audit")


def _month_end(month: str) -> str:
    year, number = (int(part) for part in month.split("-"))
    return f"{month}-{calendar.monthrange(year, number)[1]:02d}"


def _draw_head(canvas: Any, audit: Audit) -> None:
    student, top = audit.student, A4[1] - 52
    canvas.setFont("Helvetica-Bold", 17)
    canvas.drawString(LEFT, top, "Audit of the student account")
    canvas.setFont("Helvetica", 10)
    canvas.drawRightString(RIGHT, top, NETWORK)
    canvas.setLineWidth(1.2)
    canvas.line(LEFT, top - 10, RIGHT, top - 10)
    facts = (
        (("Student", student.name), ("Student id", str(student.id))),
        (("School", student.school), ("Form", student.form)),
        (("Month", audit.month), ("As of", _month_end(audit.month))),
    )
    for number, pair in enumerate(facts):
        y = top - 30 - 16 * number
        for (label, value), (x, width) in zip(pair, ((LEFT, 260), (LEFT + 330, 120)), strict=True):
            canvas.setFont("Helvetica", 9)
            canvas.drawString(x, y, label)
            canvas.setFont("Helvetica-Bold", 10)
            canvas.drawString(x + 60, y, _fitted(value, "Helvetica-Bold", 10, width))


def _draw_table(canvas: Any, rows: list[Row]) -> None:
    canvas.setFillGray(0.94)
    for number in range(1, len(rows), 2):
        if rows[number] is not BLANK:
            canvas.rect(LEFT - 3, TOP - LEADING * number - 4, RIGHT - LEFT + 6, LEADING, 0, 1)
    canvas.setFillGray(0)
    canvas.setLineWidth(0.6)
    canvas.line(LEFT - 3, TOP + 11, RIGHT + 3, TOP + 11)
    _draw_cells(canvas, [Row(HEADINGS)], "Helvetica-Bold", TOP + 16)
    _draw_cells(canvas, [BLANK if row.bold else row for row in rows], "Helvetica", TOP)
    for number, row in enumerate(rows):
        if row.bold:
            _draw_cells(canvas, [row], "Helvetica-Bold", TOP - LEADING * number)


def _draw_cells(canvas: Any, rows: list[Row], font: str, top: float) -> None:
    """Draw rows of one font, column by column: going somewhere costs more than writing there."""
    text = canvas.beginText()
    text.setFont(font, SIZE, LEADING)
    for column, (x, width) in enumerate(TEXT_COLUMNS):
        if any(row.cells[column] for row in rows):
            text.setTextOrigin(x, top)
            for row in rows:
                room = RIGHT - x if column == 0 and not any(row.cells[1:]) else width
                text.textLine(_fitted(row.cells[column], font, SIZE, room))
    for column, right in enumerate(NUMBER_COLUMNS, len(TEXT_COLUMNS)):
        cells = [row.cells[column].replace("-", "\N{EN DASH}") for row in rows]
        most = max(_units(cell) for cell in cells)
        if most:
            text.setTextOrigin(right - most * 0.278 * SIZE, top)
            for cell in cells:
                text.textLine(" " * (most - _units(cell)) + cell)
    canvas.drawText(text)


def _units(cell: str) -> int:
    """Return how wide a number is, in units of 0.278 em.

    In Helvetica, plain and bold, a space, a point and a comma are one such unit, a digit and an
    en dash (the minus) two: numbers are aligned with spaces, to the hair and at no cost. The
    headings hold other letters, and are set by their width.
    """
    if cell.isalpha():
        return round(float(stringWidth(cell, "Helvetica-Bold", 1)) / 0.278)
    return 2 * len(cell) - cell.count(".") - cell.count(",")


def _draw_foot(canvas: Any, audit: Audit, page: int, pages: int) -> None:
    canvas.setLineWidth(0.4)
    canvas.line(LEFT, 34, RIGHT, 34)
    canvas.setFont("Helvetica", 7)
    canvas.drawString(LEFT, 24, f"SHA-256 of the ledger lines: {audit.digest}")
    canvas.drawRightString(RIGHT, 24, f"Page {page} of {pages}")


@functools.lru_cache(maxsize=2048)
def _fitted(text: str, font: str, size: float, width: float) -> str:
    """Return the text, cut with an ellipsis when it is wider than its column."""
    if _width(text, font, size) <= width:
        return text
    while text and _width(text + "…", font, size) > width:
        text = text[:-1]
    return text + "…"


@functools.lru_cache(maxsize=2048)
def _width(text: str, font: str, size: float) -> float:
    return float(stringWidth(text, font, size))
