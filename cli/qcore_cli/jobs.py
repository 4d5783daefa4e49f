"""`qcore jobs`: look at single jobs, and cancel them."""

from typing import Annotated

import typer

from qcore import ConfigError
from qcore.broker.redis.inspector import Inspector
from qcore.model.reference import reference
from qcore_cli.format import print_json
from qcore_cli.job_view import find, show
from qcore_cli.options import (
    AsJson,
    Commands,
    Namespace,
    Url,
    split_refs,
    where_of,
    with_inspector,
)
from qcore_cli.terminal import echo

Ref = Annotated[str, typer.Argument(help="QUEUE/ID, as printed everywhere.")]

jobs = typer.Typer(cls=Commands, help="Look at single jobs.", no_args_is_help=True)


@jobs.command("show")
def jobs_show(
    ref: Ref, as_json: AsJson = False, url: Url = None, namespace: Namespace = None
) -> None:
    """Show everything known about one job."""
    show(*find(ref, url, namespace), as_json)


@jobs.command("cancel")
def jobs_cancel(
    refs: Annotated[list[str], typer.Argument(help="QUEUE/ID of each job.")],
    as_json: AsJson = False,
    url: Url = None,
    namespace: Namespace = None,
) -> None:
    """Cancel jobs: what waits will not run, what runs is told to end."""

    async def act(inspector: Inspector) -> dict[str, str]:
        places: dict[str, str] = {}
        for name, ids in split_refs(refs).items():
            found = await inspector.cancel(name, ids)
            places |= {reference(name, id): place for id, place in zip(ids, found, strict=True)}
        return places

    places = with_inspector(url, namespace, act)
    cancelled = [ref for ref, place in places.items() if place in ("scheduled", "ready")]
    asked = [ref for ref, place in places.items() if place == "active"]
    ended = [ref for ref, place in places.items() if place == "ended"]
    unknown = [ref for ref, place in places.items() if place == ""]
    if as_json:
        print_json({"cancelled": cancelled, "asked": asked, "ended": ended, "unknown": unknown})
    else:
        echo(f"Cancelled {len(cancelled)}.")
        if asked:
            echo(f"Asked {len(asked)} that run to end: {', '.join(asked)}")
        if ended:
            echo(f"Ended before: {', '.join(ended)}")
    if unknown:
        where = where_of(url, namespace)
        raise ConfigError(f"there is no trace in {where} of {', '.join(unknown)}")
