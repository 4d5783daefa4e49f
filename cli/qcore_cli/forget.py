"""`qcore queues forget`: the end of a queue that nobody uses any more."""

from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from qcore import ConfigError
from qcore.broker.redis.broker import Broker
from qcore.broker.redis.forget_queue import Holders, forget_queue, holders
from qcore.broker.redis.inspector import Inspector
from qcore.config import broker_config
from qcore_cli.inspect import queues as show
from qcore_cli.options import (
    AsJson,
    Namespace,
    Url,
    Yes,
    check_queue,
    confirm,
    counted,
    print_json,
    with_broker,
)
from qcore_cli.terminal import echo


class _ShowsByDefault(TyperGroup):
    """`qcore queues` and `qcore queues NAMES` are `qcore queues show`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not args or args[0] not in (*self.commands, "--help"):
            args = ["show", *args]
        return super().parse_args(ctx, args)


queues = typer.Typer(help="Show the depth of queues, or forget one.", cls=_ShowsByDefault)
queues.command("show")(show)


@queues.command("forget")
def queues_forget(
    queue: Annotated[str, typer.Argument(help="Name of a queue.")],
    yes: Yes = False,
    as_json: AsJson = False,
    url: Url = None,
    namespace: Namespace = None,
) -> None:
    """Remove all that is stored of a queue that holds no job and that nobody uses."""
    config = broker_config(url, namespace)

    async def look(broker: Broker) -> Holders:
        await check_queue(Inspector(broker), queue)
        return await holders(broker, queue)

    async def act(broker: Broker) -> Holders | None:
        return None if await forget_queue(broker, queue) else await holders(broker, queue)

    found: Holders | None = with_broker(config, look)
    kept = f", with {counted(found.outcomes, 'kept outcome')}" if found.outcomes else ""
    if not found.reasons:
        confirm(f"Forget queue {queue}{kept}?", yes=yes)
        found = with_broker(config, act)
    if found is not None:
        raise ConfigError(f"queue {queue} was not forgotten: {'; '.join(found.reasons)}")
    if as_json:
        print_json({"forgotten": queue})
    else:
        echo(f"Forgot {queue}{kept}.")
