"""The folder of one audit: its books, made, imported or found; and a clean start."""

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from school_audit import books, generated, imported, results


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which books: two CSV files (students, ledger), or made-up ones; None: whatever is there."""

    csv: tuple[Path, Path] | None = None
    students: int | None = None
    seed: int | None = None

    @property
    def is_open(self) -> bool:
        """Tell whether any books will do."""
        return self.csv is None and self.students is None and self.seed is None

    @property
    def source(self) -> str:
        """Return what tells the wanted books from others."""
        if self.csv is not None:
            return imported.source_of(*self.csv)
        return generated.source_of(*self._made_up)

    def create(self, path: Path) -> books.Facts:
        """Make or import the wanted books."""
        if self.csv is not None:
            return imported.import_csv(path, *self.csv)
        return generated.generate(path, *self._made_up)

    @property
    def _made_up(self) -> tuple[int, int]:
        students = generated.STUDENTS if self.students is None else self.students
        return students, generated.SEED if self.seed is None else self.seed


def open_books(folder: Path, wanted: Wanted) -> books.Facts:
    """Return the facts of the books in the folder, which are created if there are none.

    Raises:
        BooksError: the folder holds other books than those wanted.
    """
    path = folder / results.BOOKS
    found = books.read_facts(path)
    if found is None:
        return wanted.create(path)
    if not wanted.is_open and found.source != wanted.source:
        raise books.BooksError(
            f"{folder} holds other books ({found.source}): start anew with --fresh, or give "
            "another --folder"
        )
    return found


def clean(folder: Path) -> None:
    """Remove books, results and documents: by their names, whatever else the folder holds."""
    for name in (results.BOOKS, results.RESULTS):
        for end in ("", "-wal", "-shm"):
            (folder / (name + end)).unlink(missing_ok=True)
    documents = folder / "documents"
    for pattern in ("*/*/student-*.pdf", "*/*/.student-*.tmp"):
        for path in documents.glob(pattern):
            path.unlink()
    for path in sorted(documents.glob("**/"), reverse=True):
        with suppress(OSError):  # not empty: it holds what is not ours
            path.rmdir()
