"""What `qcore status` says, as tests read it."""

import json
from typing import Any

from tests.support.commands import Command as Qcore
from tests.support.commands import Said
from tests.support.waiting import eventually


async def seen(qcore: Qcore, count: int) -> list[dict[str, Any]]:
    """Wait until so many supervisors are registered with ready workers; return them."""

    async def look() -> list[dict[str, Any]]:
        said = await qcore("status", "--json")
        found = supervisors(said)
        workers = [worker for view in found for worker in view["workers"]]
        is_up = workers and all(worker["state"] != "starting" for worker in workers)
        return found if len(found) == count and is_up else []

    return await eventually(look, 30)


def supervisors(said: Said) -> list[dict[str, Any]]:
    assert said.code in (0, 3, 4), said.err
    return Said(0, said.out, said.err).json["supervisors"]


async def done(qcore: Qcore, jobs: int) -> list[dict[str, Any]]:
    found = await seen(qcore, 1)
    return found if sum(worker["done"] for worker in found[0]["workers"]) == jobs else []


async def state_of_fleet(qcore: Qcore) -> str:
    return json.loads((await qcore("status", "--json")).out)["state"]


async def only(qcore: Qcore, pid: int) -> bool:
    return [view["pid"] for view in supervisors(await qcore("status", "--json"))] == [pid]


async def beats_of(qcore: Qcore, name: str) -> float:
    (view,) = [v for v in supervisors(await qcore("status", "--json")) if v["name"] == name]
    return view["age_s"]


async def later(qcore: Qcore, name: str, age_s: float) -> bool:
    return await beats_of(qcore, name) > age_s
