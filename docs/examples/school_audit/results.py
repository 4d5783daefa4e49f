"""The ledger of results: one row for each finished document, written by many processes.

A job writes its document first (temporary file, fsync, rename) and its row after that. A process
that dies in between leaves a document without a row: its job runs again, writes the same bytes
and the row. What a power cut takes from either, `faults` names.
"""

import hashlib
import os
import sqlite3
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import astuple, dataclass
from datetime import UTC, datetime
from pathlib import Path

from school_audit import books

SCHEMA = """
CREATE TABLE IF NOT EXISTS batches (id INTEGER PRIMARY KEY, started_at TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS documents (
    student_id INTEGER PRIMARY KEY,
    path TEXT NOT NULL, sha256 TEXT NOT NULL, size_bytes INTEGER NOT NULL,
    lines INTEGER NOT NULL, balanced INTEGER NOT NULL,
    job_id TEXT NOT NULL, batch INTEGER NOT NULL, attempt INTEGER NOT NULL,
    wait_ms INTEGER NOT NULL, run_ms INTEGER NOT NULL, pid INTEGER NOT NULL,
    completed_at TEXT NOT NULL, completions INTEGER NOT NULL DEFAULT 1
);
CREATE INDEX IF NOT EXISTS documents_by_wait ON documents (wait_ms, batch);
"""
_BUSY_S = 20.0
#: A temporary file older than any run can be was left by a process that died.
_STALE_S = 600.0


@dataclass(frozen=True, slots=True)
class Document:
    """A document on disk and what it says; `path` is relative to the folder of the demo."""

    student_id: int
    path: str
    sha256: str
    size_bytes: int
    lines: int
    balanced: bool


@dataclass(frozen=True, slots=True)
class Run:
    """The run of a job that made a document."""

    job_id: str
    batch: int
    attempt: int
    wait_ms: int
    run_ms: int
    pid: int


@dataclass(frozen=True, slots=True)
class Totals:
    """What the ledger holds."""

    documents: int
    #: Documents that were finished more than once: a job ran again after a crash.
    duplicates: int
    unbalanced: int


@dataclass(frozen=True, slots=True)
class Fault:
    """A document that is not there, or not what was recorded."""

    student_id: int
    kind: str
    path: str
    why: str


def path_of(student_id: int, month: str) -> str:
    """Return where a document lies, at most a thousand to a folder for ids up to a million."""
    return f"documents/{month}/{student_id // 1000 % 1000:03d}/student-{student_id:06d}.pdf"


def write_document(path: Path, content: bytes) -> None:
    """Put a document in place: readers see the old one or the whole new one, also after a crash."""
    draft = path.with_name(f".{path.stem}.{os.getpid()}.tmp")
    try:
        fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True)
        fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    with os.fdopen(fd, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(fd)
    draft.replace(path)


class Results:
    """The ledger of one demo folder; made by `opened`."""

    def __init__(self, folder: Path, connection: sqlite3.Connection) -> None:
        self.folder = folder
        self._db = connection

    def batch(self) -> int:
        """Return the number of the newest batch, 0 before the first.

        Jobs of an older batch are superseded: whoever began a new one enqueued what was left.
        """
        return self._db.execute("SELECT coalesce(max(id), 0) FROM batches").fetchone()[0]

    def begin_batch(self) -> int:
        """Begin a new batch and return its number: higher than any before, also of a ledger that
        was removed since, whose jobs may still be in the queue.
        """
        batch = max(self.batch() + 1, int(datetime.now(UTC).timestamp()))
        self._db.execute("INSERT INTO batches VALUES (?, ?)", (batch, _now()))
        return batch

    def record(self, document: Document, run: Run) -> None:
        """Enter a finished document; a second time for the same student is counted, not hidden."""
        self._db.execute(
            "INSERT INTO documents VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 1)"
            " ON CONFLICT (student_id) DO UPDATE SET (path, sha256, size_bytes, lines, balanced,"
            " job_id, batch, attempt, wait_ms, run_ms, pid, completed_at) = (excluded.path,"
            " excluded.sha256, excluded.size_bytes, excluded.lines, excluded.balanced,"
            " excluded.job_id, excluded.batch, excluded.attempt, excluded.wait_ms,"
            " excluded.run_ms, excluded.pid, excluded.completed_at), completions = completions + 1",
            (*astuple(document), *astuple(run), _now()),
        )

    def forget(self, student_ids: list[int]) -> None:
        """Strike rows whose documents are missing or corrupt, before they are made again."""
        self._db.execute("BEGIN IMMEDIATE")
        self._db.executemany(
            "DELETE FROM documents WHERE student_id = ?", [(i,) for i in student_ids]
        )
        self._db.execute("COMMIT")

    def totals(self) -> Totals:
        """Return the sums over all documents."""
        found = self._db.execute(
            "SELECT count(*), count(*) FILTER (WHERE completions > 1),"
            " count(*) FILTER (WHERE NOT balanced) FROM documents"
        )
        return Totals(*found.fetchone())

    def made(self, since_batch: int) -> int:
        """Return how many documents were made in this batch and later ones."""
        return self._db.execute(
            "SELECT count(*) FROM documents WHERE batch >= ?", (since_batch,)
        ).fetchone()[0]

    def wait_ms(self, since_batch: int, share: float) -> int:
        """Return the wait in the queue that this share of the documents did not exceed."""
        count = self.made(since_batch)
        found = self._db.execute(
            "SELECT wait_ms FROM documents WHERE batch >= ? ORDER BY wait_ms LIMIT 1 OFFSET ?",
            (since_batch, max(0, min(count - 1, int(count * share)))),
        ).fetchone()
        return found[0] if found else 0

    def unmade(self) -> Iterator[int]:
        """Yield every id that needs a job and has no row, in order and in constant memory."""
        made = self._db.execute("SELECT student_id FROM documents ORDER BY student_id")
        next_made = next(made, (None,))[0]
        with books.reading(self.folder / BOOKS) as source:
            for student_id in books.subjects(source):
                while next_made is not None and next_made < student_id:
                    next_made = next(made, (None,))[0]
                if student_id != next_made:
                    yield student_id

    def faults(self) -> Iterator[Fault]:
        """Yield every document that is missing or not what its row says; reads them all."""
        rows = self._db.execute(
            "SELECT student_id, path, sha256, size_bytes FROM documents ORDER BY student_id"
        )
        for student_id, path, sha256, size_bytes in rows:
            try:
                content = (self.folder / path).read_bytes()
            except OSError as error:
                yield Fault(student_id, "missing", path, error.strerror or str(error))
                continue
            if hashlib.sha256(content).hexdigest() != sha256:
                why = f"SHA-256 differs ({len(content)} bytes, recorded are {size_bytes})"
                yield Fault(student_id, "corrupt", path, why)


#: File names within the folder of a demo.
BOOKS, RESULTS = "school.sqlite", "results.sqlite"


@contextmanager
def opened(folder: Path, *, create: bool = False) -> Generator[Results]:
    """Open the ledger of a folder, and close it again.

    Commits do not wait for the disk: the death of any process loses nothing, and after a power
    cut `faults` and `unmade` name what the disk had not got yet.
    """
    path = folder / RESULTS
    mode = "rwc" if create else "rw"
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode={mode}", uri=True, timeout=_BUSY_S, isolation_level=None
    )
    with closing(connection):
        if create:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.executescript(SCHEMA)
        connection.execute("PRAGMA synchronous = NORMAL")
        yield Results(folder, connection)


def sweep(folder: Path) -> int:
    """Remove what processes that died have left half written; return how many files."""
    removed, before = 0, datetime.now(UTC).timestamp() - _STALE_S
    for draft in (folder / "documents").glob("*/*/.*.tmp"):
        with suppress(FileNotFoundError):
            if draft.stat().st_mtime < before:
                draft.unlink()
                removed += 1
    return removed


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
