"""`qcore demo`: the month's audit of a school network, one job and one document per student."""

import importlib.util
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from qcore import ConfigError
from qcore_cli.options import Url
from qcore_cli.worker import count_processes

#: Where the example lies: beside the package in a wheel, in `docs/` of a checkout.
_FOLDERS = (
    Path(__file__).parents[1] / "examples",
    Path(__file__).parents[3] / "docs" / "examples",
)


def demo(
    students: Annotated[
        int | None, typer.Option(min=1, help="Students to make up; 12000 by default.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the made-up books; 1.")] = None,
    students_csv: Annotated[
        Path | None, typer.Option(help="Students to import instead, with --ledger-csv.")
    ] = None,
    ledger_csv: Annotated[Path | None, typer.Option(help="Their ledger lines.")] = None,
    folder: Annotated[
        Path, typer.Option(help="Where books, documents, results and the queue are kept.")
    ] = Path(".qcore/demo"),
    processes: Annotated[
        str, typer.Option(help="Worker processes: a number, or auto for one per core.")
    ] = "auto",
    verify: Annotated[
        bool,
        typer.Option("--verify", help="Name missing and corrupt documents, make just those anew."),
    ] = False,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Remove the documents of the folder and start anew.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object as the last line.")
    ] = False,
    url: Url = None,
) -> None:
    """Audit a school network: a PDF document for each of 12,000 students.

    A second call resumes: only students without a document are audited. Without --url the queue
    is an embedded server in the folder.
    """
    if (students_csv is None) != (ledger_csv is None):
        raise ConfigError("give --students-csv and --ledger-csv together")
    if students_csv is not None and (students is not None or seed is not None):
        raise ConfigError("--students and --seed make up books: leave them out with --students-csv")
    if fresh and verify:
        raise ConfigError("--fresh leaves nothing to --verify: give one of them")
    _find_example()
    from qcore_cli.demo import run as demo_run

    plan = demo_run.Plan(
        students=students,
        seed=seed,
        csv=None if students_csv is None or ledger_csv is None else (students_csv, ledger_csv),
        folder=folder.expanduser().absolute(),
        processes=count_processes(processes),
        url=url,
        verify=verify,
        fresh=fresh,
        as_json=as_json,
    )
    raise typer.Exit(demo_run.run(plan))


def _find_example() -> None:
    """Put the example where this process and its children find it."""
    found = [place for place in _FOLDERS if (place / "school_audit" / "app.py").exists()]
    if not found:
        raise ConfigError(f"the example school_audit is not in {' or '.join(map(str, _FOLDERS))}")
    if importlib.util.find_spec("reportlab") is None:
        raise ConfigError("the demo needs reportlab: run pip install 'qcore-queue[demo,embedded]'")
    place = str(found[0])
    sys.path.insert(0, place)
    # not a setting of qcore: how Python itself tells a child where modules are
    before = os.environ.get("PYTHONPATH")  # noqa: TID251
    os.environ["PYTHONPATH"] = os.pathsep.join(  # noqa: TID251
        part for part in (place, before) if part
    )
