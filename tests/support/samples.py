"""The samples for process managers in docs/examples/deploy, read as those managers read them."""

import configparser
import json
import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.support.fleet import ROOT

DEPLOY = ROOT / "docs" / "examples" / "deploy"
#: Where the samples have the command, and the app.
COMMAND, FOLDER = "/srv/shop/venv/bin/qcore", "/srv/shop"


@dataclass(frozen=True)
class Sample:
    """How one manager starts `qcore worker`, and how long it waits for its end."""

    #: Without the name of the command.
    words: list[str]
    granted_s: float


class _CaseKept(configparser.RawConfigParser):
    def optionxform(self, optionstr: str) -> str:
        return optionstr


def unit() -> dict[str, str]:
    """Return the section [Service] of the systemd unit."""
    parser = _CaseKept(delimiters="=", comment_prefixes="#")
    parser.read_string((DEPLOY / "qcore-worker.service").read_text(encoding="utf-8"))
    return dict(parser["Service"])


def program() -> dict[str, str]:
    """Return the program of the supervisord configuration."""
    parser = configparser.RawConfigParser(delimiters="=", comment_prefixes=";")
    parser.read_string((DEPLOY / "supervisord.conf").read_text(encoding="utf-8"))
    (section,) = parser.sections()
    return dict(parser[section])


def dockerfile() -> list[tuple[str, str]]:
    """Return the instructions of the Dockerfile with what follows them."""
    text = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    whole = re.sub(r"\\\n\s*", "", "\n".join(lines)).splitlines()
    return [(name, rest) for name, _, rest in (line.partition(" ") for line in whole if line)]


def exec_form(instruction: str) -> list[str]:
    """Return the words of ENTRYPOINT or CMD, which must not be lines for a shell."""
    (text,) = (rest for name, rest in dockerfile() if name == instruction)
    assert text.startswith("["), f"{instruction} {text} is a line for a shell, which keeps signals"
    return json.loads(text)


def manifests() -> dict[str, dict[str, Any]]:
    """Return the Kubernetes manifests by their kinds."""
    text = (DEPLOY / "kubernetes.yaml").read_text(encoding="utf-8")
    return {manifest["kind"]: manifest for manifest in yaml.safe_load_all(text)}


def adapter_rule() -> dict[str, Any]:
    """Return the rule for the Prometheus adapter."""
    values = yaml.safe_load((DEPLOY / "prometheus-adapter.yaml").read_text(encoding="utf-8"))
    (rule,) = values["rules"]["external"]
    return rule


def pod() -> dict[str, Any]:
    """Return what the Deployment says of a pod."""
    return manifests()["Deployment"]["spec"]["template"]


def container() -> dict[str, Any]:
    """Return the only container of the pod."""
    (only,) = pod()["spec"]["containers"]
    return only


def entrypoint() -> list[str]:
    """Return the words after `qcore` that the image starts with."""
    init, dashes, command, *words = exec_form("ENTRYPOINT")
    assert (init, dashes, command) == ("tini", "--", "qcore")
    return words


def _words(line: str) -> list[str]:
    command, *words = shlex.split(line)
    assert command == COMMAND
    return words


def samples() -> dict[str, Sample]:
    """Return all samples."""
    how_to = (ROOT / "docs" / "how-to" / "deploy.md").read_text(encoding="utf-8")
    (stop_s,) = re.findall(r"docker run .* --stop-timeout (\d+) ", how_to)
    (compose_s,) = re.findall(r"`stop_grace_period: (\d+)s`", how_to)
    grace_s = pod()["spec"]["terminationGracePeriodSeconds"]
    return {
        "systemd": Sample(_words(unit()["ExecStart"]), float(unit()["TimeoutStopSec"])),
        "supervisord": Sample(_words(program()["command"]), float(program()["stopwaitsecs"])),
        "docker": Sample([*entrypoint(), *exec_form("CMD")], float(stop_s)),
        "compose": Sample([*entrypoint(), *exec_form("CMD")], float(compose_s)),
        "kubernetes": Sample([*entrypoint(), *container()["args"]], grace_s),
    }


def copy_app(folder: Path) -> None:
    """Put the app of the samples into a folder."""
    (folder / "tasks.py").write_bytes((DEPLOY / "tasks.py").read_bytes())
