"""The app: one task, which makes the document of one student."""

import hashlib
import os
import time
from pathlib import Path

from qcore import App, Context, GiveUp, Retry
from school_audit import books, results
from school_audit.audit import audit

#: A namespace of its own: the demo clears its queue, and must not clear that of somebody else.
app = App(queues=["audits"], namespace="school_audit")


@app.task(queue="audits", run_in="process", timeout=60, retry=Retry(max_attempts=3, backoff=[1, 5]))
def audit_student(ctx: Context, student_id: int, month: str, folder: str, batch: int) -> None:
    """Make, write and record the document of one student.

    May run again after a crash at any point: the second run writes the same bytes.

    Args:
        ctx: The job.
        student_id: Whose ledger is read.
        month: The audited month, `2026-10`.
        folder: The folder of the demo, absolute: a worker needs to know nothing else.
        batch: The dispatch that this job belongs to; does nothing if there is a newer one.
    """
    began = time.monotonic()
    with results.opened(Path(folder)) as ledger:
        if ledger.batch() != batch:
            return
        try:
            document = make_document(Path(folder), student_id, month)
        except books.Unauditable as error:
            raise GiveUp(str(error)) from None
        waited = ctx.claimed_at - ctx.enqueued_at
        run = results.Run(
            job_id=ctx.job_id,
            batch=batch,
            attempt=ctx.attempt,
            wait_ms=round(waited.total_seconds() * 1000),
            run_ms=round((time.monotonic() - began) * 1000),
            pid=os.getpid(),
        )
        ledger.record(document, run)


def make_document(folder: Path, student_id: int, month: str) -> results.Document:
    """Read the books, audit them, and put the PDF document in its place.

    Raises:
        Unauditable: no such student, or a row that cannot be understood.
    """
    # Only the processes of the pool need it: a worker stays 7 MB smaller.
    from school_audit.document import render

    books.check_month(month)
    with books.reading(folder / results.BOOKS) as source:
        student, lines = books.read_student(source, student_id)
    audited = audit(student, month, lines)
    content = render(audited)
    path = results.path_of(student_id, month)
    results.write_document(folder / path, content)
    return results.Document(
        student_id=student_id,
        path=path,
        sha256=hashlib.sha256(content).hexdigest(),
        size_bytes=len(content),
        lines=len(lines),
        balanced=audited.balanced,
    )
