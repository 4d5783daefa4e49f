"""The reference says what the code says: options, errors, keys, events, commands."""

import ast
import inspect
import re
from typing import Any

import msgspec
import pytest
import typer.main
from prometheus_client.parser import text_string_to_metric_families

from qcore import App, ConfigError, Exponential, QcoreError, Retry, Task, errors
from qcore.broker.redis.keys import NAMESPACE_KEYS, QUEUE_KEYS
from qcore.broker.redis.scripts import SCRIPTS
from qcore.model.findings import Finding
from qcore.model.fleet import (
    Processes,
    Roll,
    RunningJob,
    SupervisorState,
    SupervisorView,
    WorkerView,
)
from qcore.model.job import AttemptError, Death
from qcore.model.views import JobRecord, Pause, QueueStats, UniqueKeyView
from qcore.runtime.ipc.messages import Cell
from qcore.runtime.supervisor.metrics import exposition
from qcore.runtime.supervisor.totals import Totals
from qcore.settings import BrokerConfig, SupervisorConfig, WorkerConfig
from qcore.telemetry import EVENTS
from qcore_cli.fleet.rollout import Entry
from qcore_cli.main import app as command
from tests.docs.pages import DOCS, ROOT, rows, sections

REFERENCE = DOCS / "reference"
CONFIGURATION = sections(REFERENCE / "configuration.md")
STRUCTS = {
    "Retry": Retry,
    "Exponential": Exponential,
    "BrokerConfig": BrokerConfig,
    "WorkerConfig": WorkerConfig,
    "SupervisorConfig": SupervisorConfig,
}
CALLS = {"App": App.__init__, "Task options": App.task, "Options of single jobs": Task.options}
REQUIRED = {
    BrokerConfig: {"url": "redis://localhost"},
    WorkerConfig: {"queues": ("default",)},
    SupervisorConfig: {"processes": 1},
}


def options(heading: str) -> dict[str, list[str]]:
    """Return the rows of a section of the configuration, by the option that each describes."""
    found = rows(CONFIGURATION[heading])
    return {row[0].strip("`"): row[1:] for row in found if re.fullmatch(r"`\w+`", row[0])}


def fields_of(kind: Any) -> dict[str, Any]:
    """Return the default of each field; NODEFAULT where one must be given."""
    return {
        f.name: f.default if f.default_factory is msgspec.NODEFAULT else f.default_factory()
        for f in msgspec.structs.fields(kind)
    }


def parameters_of(function: Any) -> dict[str, Any]:
    parameters = inspect.signature(function).parameters.values()
    return {p.name: p.default for p in parameters if p.name not in ("self", "function")}


def value_of(cell: str) -> Any:
    if cell == "required":
        return msgspec.NODEFAULT
    if cell == "`Exponential()`":
        return Exponential()
    return ast.literal_eval(cell.strip("`"))


@pytest.mark.parametrize("heading", [*CALLS, *STRUCTS])
def test_configuration_names_each_option_with_its_default(heading: str):
    described = {name: value_of(cells[0]) for name, cells in options(heading).items()}
    actual = fields_of(STRUCTS[heading]) if heading in STRUCTS else parameters_of(CALLS[heading])

    assert described == actual


@pytest.mark.parametrize("kind", REQUIRED, ids=lambda kind: kind.__name__)
def test_configuration_names_the_range_that_is_checked(kind: Any):
    checked = 0
    for name, (_, allowed, *_, meaning) in options(kind.__name__).items():
        bounds = re.fullmatch(r"([\d.]+) to ([\d.]+)", allowed)
        if bounds is None:
            continue
        checked += 1
        low, high = float(bounds[1]), float(bounds[2])
        says = re.escape(f"allowed is {low:.15g} to {high:.15g}")
        given = re.search(r"--[a-z-]+|(?<=App\()\w+", meaning)
        called = given[0] if given else name
        for value in (low * 0.99 - 0.001, high * 1.01):
            with pytest.raises(ConfigError, match=f"^{called}.* is .*{says}"):
                kind(**REQUIRED[kind] | {name: value})

    assert checked


def test_configuration_names_every_variable_of_the_environment():
    sources = [*(ROOT / "qcore").rglob("*.py"), *(ROOT / "cli").rglob("*.py")]
    code = "".join(path.read_text(encoding="utf-8") for path in sources)
    used = set(re.findall(r"\bQCORE_[A-Z_]+\b", code))

    assert not used - set(re.findall(r"`(QCORE_[A-Z_]+)`", CONFIGURATION["Environment"]))


@pytest.mark.parametrize(
    "kind",
    [
        *(SupervisorView, WorkerView, RunningJob, Roll, Processes, Entry),
        *(QueueStats, Pause, JobRecord, UniqueKeyView, AttemptError, Death, Finding),
    ],
)
def test_json_page_names_every_key(kind: Any):
    """Those of a job's bytes are shown decoded, and one is for supervisors only."""
    text = (REFERENCE / "json.md").read_text(encoding="utf-8")
    keys = {field.name for field in msgspec.structs.fields(kind)} - {"payload", "machine"}
    assert not keys - set(re.findall(r"`(\w+)`", text))


def test_errors_page_draws_the_tree_of_the_code():
    text = (REFERENCE / "errors.md").read_text(encoding="utf-8")
    tree = re.search(r"```\n(QcoreError\n.*?)```", text, re.DOTALL)
    assert tree is not None
    drawn: dict[str, str] = {}
    path: list[str] = []
    for line in tree[1].splitlines():
        depth = len(line) - len(line.lstrip(" │├└─"))
        path = [*path[: depth // 4], line[depth:]]
        if len(path) > 1:
            drawn[path[-1]] = path[-2]

    def below(kind: type[QcoreError]) -> dict[str, str]:
        found: dict[str, str] = {}
        for sub in kind.__subclasses__():
            if sub.__module__ == errors.__name__:
                found |= {sub.__name__: kind.__name__} | below(sub)
        return found

    assert drawn == below(QcoreError)


def test_errors_page_says_of_each_error_when_and_what_to_do():
    described = {row[0].strip("`"): row[1:] for row in rows((REFERENCE / "errors.md").read_text())}
    kinds = {name for name, kind in vars(errors).items() if isinstance(kind, type)}

    assert kinds - {"QcoreError"} <= set(described)
    assert all(all(cells) for cells in described.values())


def test_redis_schema_is_that_of_the_code():
    found = rows(sections(REFERENCE / "redis-schema.md")["Keys of a queue"])

    assert {row[0].strip("`"): (row[1], row[2]) for row in found} == QUEUE_KEYS


def test_redis_schema_names_the_keys_of_the_namespace():
    found = rows(sections(REFERENCE / "redis-schema.md")["Keys of a namespace"])

    described = {row[0].strip("`"): (row[1], row[2]) for row in found}
    named = {f"{{NAMESPACE}}:{name}": said for name, said in NAMESPACE_KEYS.items()}
    assert described == named | {"NAMESPACE:queues": ("set", "the name of every queue ever used")}


def test_redis_schema_names_every_script():
    found = rows(sections(REFERENCE / "redis-schema.md")["Scripts"])

    assert {row[0].strip("`") for row in found} == {script.name for script in SCRIPTS}


def test_events_page_names_each_event_with_its_fields():
    found = rows((REFERENCE / "events.md").read_text(encoding="utf-8"))

    described = {row[0].strip("`"): tuple(re.findall(r"`(\w+)`", row[2])) for row in found}
    assert described == EVENTS


def test_metrics_page_names_each_metric_with_type_and_labels():
    found = rows((REFERENCE / "metrics.md").read_text(encoding="utf-8"))
    described = {row[0].strip("`"): (row[1], set(re.findall(r"`(\w+)`", row[2]))) for row in found}
    stats: dict[str, Any] = {"ready": 0, "quarantined": 0, "scheduled": 0, "active": 0, "dead": 0}
    queue = QueueStats(name="default", **stats, oldest_ready_s=None, max_jobs=9)
    view = SupervisorView(
        host="", name="", pid=1, state=SupervisorState.RUNNING, queues=(), age_s=0
    )
    totals = Totals()
    totals.runs.add([Cell("default", "mail", "completed", 0, 1, 0.1)])
    actual: dict[str, tuple[str, set[str]]] = {}
    for family in text_string_to_metric_families(exposition(view, totals, [queue]).decode()):
        name = f"{family.name}_total" if family.type == "counter" else family.name
        labels = {label for sample in family.samples for label in sample.labels}
        actual[name] = family.type, labels - {"le"}

    assert described == actual


def commands(group: Any, path: str) -> dict[str, Any]:
    """Return each command below a group, by what a user types."""
    found: dict[str, Any] = {}
    for name, member in group.commands.items():
        below = f"{path} {name}"
        found |= commands(member, below) if hasattr(member, "commands") else {below: member}
    return found


COMMANDS = commands(typer.main.get_command(command), "qcore")
#: Heading without its arguments -> section.
DESCRIBED = {
    re.sub(r" \[?[A-Z]+\]?", "", heading).strip("`"): text
    for heading, text in sections(REFERENCE / "command.md").items()
}


def test_command_page_describes_every_command():
    assert set(DESCRIBED) == set(COMMANDS)


@pytest.mark.parametrize("path", COMMANDS)
def test_command_page_names_every_option_with_its_default(path: str):
    actual = {p.opts[0]: p for p in COMMANDS[path].params if p.param_type_name == "option"}
    section = DESCRIBED[path]
    described = [(re.findall(r"`(--[\w-]+)`", row[0]), row[1]) for row in rows(section)]

    assert set(re.findall(r"`(--[\w-]+)`", section)) == set(actual)
    for names, default in described:
        for name in names:
            assert default.strip("`") == shown(actual[name].default), name


def shown(default: Any) -> str:
    """Return a default as the page shows it."""
    match default:
        case None | False | "":
            return ""
        case float():
            return f"{default:g}"
        case _:
            return str(default)
