"""The samples for process managers start, tell, reload and stop as these managers would have it."""

import asyncio
import shutil
import signal
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path

import pytest

from qcore import App
from qcore.broker.redis.fleet import Fleet as Fleets
from tests.support.commands import Command as Qcore
from tests.support.fleet import ROOT, Fleet
from tests.support.http import get
from tests.support.samples import (
    COMMAND,
    DEPLOY,
    FOLDER,
    adapter_rule,
    container,
    copy_app,
    dockerfile,
    manifests,
    pod,
    program,
    samples,
    unit,
)
from tests.support.servers import free_port
from tests.support.service_manager import Manager
from tests.support.waiting import eventually

SAMPLES = samples()
every_sample = pytest.mark.parametrize("name", SAMPLES)


@pytest.fixture
def fleet(fleet: Fleet, tmp_path: Path) -> Fleet:
    copy_app(tmp_path)
    fleet.env |= {"QCORE_URL": fleet.url, "QCORE_NAMESPACE": fleet.namespace}
    return fleet


@asynccontextmanager
async def running_job(fleet: Fleet, seconds: float) -> AsyncIterator[None]:
    """Enqueue a job for the app of the samples; it runs now, and has completed at the end."""
    app = App(fleet.url, namespace=fleet.namespace)

    @app.task(name="tasks.remind")
    async def remind(customer: str, after_s: float) -> str:
        raise AssertionError("the worker has its own")

    async with app:
        job = await remind.enqueue("Ada", seconds)

        async def runs() -> bool:
            # a worker says so: one that is told to stop while its claim is under way begins nothing
            views = [member.view for member in await Fleets(app.broker).members()]
            return job.id in [j.id for v in views for w in v.workers for j in w.oldest]

        await eventually(runs)
        yield
        assert await job.result(timeout=5) == "reminded Ada"


@every_sample
async def test_sample_grants_the_time_that_a_stop_may_take(name: str, qcore: Qcore):
    said = await qcore(*SAMPLES[name].words, "--print-stop-timeout")
    assert said.code == 0, said.err
    assert SAMPLES[name].granted_s >= int(said.out)


@every_sample
def test_sample_recycles_workers(name: str):
    words = " ".join(SAMPLES[name].words).replace("=", " ")
    assert "--max-jobs 1000 " in words
    assert "--max-time 1h " in f"{words} "


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd here")
def test_unit_has_nothing_that_systemd_does_not_know(tmp_path: Path):
    text = (DEPLOY / "qcore-worker.service").read_text().replace(COMMAND, sys.executable)
    (tmp_path / "qcore-worker.service").write_text(text)
    said = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", f"{tmp_path}/qcore-worker.service"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert f"{said.stdout}{said.stderr}" == ""


async def test_unit_tells_systemd_and_obeys_it(fleet: Fleet):
    service = unit()
    assert service["Type"] == "notify"
    with (
        tempfile.TemporaryDirectory() as folder,  # the path of a socket must be short
        closing(Manager(f"{folder}/s")) as manager,
    ):
        watchdog_us = int(service["WatchdogSec"]) * 1_000_000
        fleet.env |= {"NOTIFY_SOCKET": f"{folder}/s", "WATCHDOG_USEC": str(watchdog_us)}
        command = fleet.run(["qcore_cli", *SAMPLES["systemd"].words])
        await eventually(lambda: "READY=1" in manager.heard(), 30)
        assert manager.alive()

        reload = service["ExecReload"].replace("$MAINPID", str(command.pid)).split()
        assert await (await asyncio.create_subprocess_exec(*reload)).wait() == 0
        await eventually(lambda: "RELOADING=1" in manager.heard(), 30)
        await eventually(lambda: manager.heard().count("READY=1") == 2, 30)

        async with running_job(fleet, 5.0):
            command.signal(signal.Signals[service["KillSignal"]])
            assert await command.ended(float(service["TimeoutStopSec"])) == 0
        assert "STOPPING=1" in manager.heard()


SUPERVISORD = """
[supervisord]
nodaemon = true
logfile = {folder}/supervisord.log
pidfile = {folder}/supervisord.pid
[inet_http_server]
port = 127.0.0.1:{port}
[rpcinterface:supervisor]
supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface
[supervisorctl]
serverurl = http://127.0.0.1:{port}
[include]
files = {folder}/qcore-worker.conf
"""


async def test_program_runs_under_supervisord(fleet: Fleet):
    folder = fleet.folder
    sample = (DEPLOY / "supervisord.conf").read_text()
    sample = sample.replace(COMMAND, f"{sys.executable} -m qcore_cli")
    sample = sample.replace(FOLDER, str(folder)).replace("/var/log", str(folder))
    sample = sample.replace(f"user={program()['user']}\n", "")
    (folder / "qcore-worker.conf").write_text(sample)
    (folder / "supervisord.conf").write_text(SUPERVISORD.format(folder=folder, port=free_port()))
    manager = fleet.run(["supervisor.supervisord", "-c", f"{folder}/supervisord.conf"])
    log = folder / "qcore-worker.log"

    def logged(event: str) -> bool:
        return log.exists() and event in log.read_text()

    async def control(*words: str) -> str:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "supervisor.supervisorctl"),
            *("-c", f"{folder}/supervisord.conf", *words),
            env=fleet.env,
            stdout=subprocess.PIPE,
        )
        out, _ = await asyncio.wait_for(process.communicate(), 60)
        return out.decode()

    await eventually(lambda: logged("worker.ready"), 30)
    assert "signalled" in await control("signal", "HUP", "qcore-worker")
    await eventually(lambda: logged("roll.finished"), 30)
    async with running_job(fleet, 5.0):
        assert "stopped" in await control("stop", "qcore-worker")
    assert "STOPPED" in await control("status")
    ends = (folder / "supervisord.log").read_text()
    assert "stopped: qcore-worker (exit status 0)" in ends
    assert "killing" not in ends
    manager.signal()
    assert await manager.ended(20) == 0


def test_image_gets_signals_and_is_not_root():
    instructions = dockerfile()
    assert instructions[0] == ("FROM", "python:3.11-slim")
    names = [name for name, _ in instructions]
    assert names.count("ENTRYPOINT") == names.count("CMD") == names.count("USER") == 1
    assert not {"STOPSIGNAL", "SHELL"} & set(names)
    user = dict(instructions)["USER"]
    assert f"--uid {user} " in " ".join(rest for name, rest in instructions if name == "RUN")
    assert pod()["spec"]["securityContext"] == {"runAsNonRoot": True, "runAsUser": int(user)}


def test_image_installs_what_its_commands_need():
    copied = [rest.split()[0] for name, rest in dockerfile() if name == "COPY"]
    assert copied == ["requirements.txt", "tasks.py"]
    package, bracket, extra = (DEPLOY / copied[0]).read_text().strip().rstrip("]").partition("[")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert (package, bracket) == (project["name"], "[")
    assert extra in project["optional-dependencies"]


async def test_command_of_the_image_runs_and_stops(fleet: Fleet):
    sample = SAMPLES["docker"]
    command = fleet.run(["qcore_cli", *sample.words])
    await command.ready(1)
    async with running_job(fleet, 5.0):
        command.signal()
        assert await command.ended(sample.granted_s) == 0


def test_manifests_speak_of_the_same_pods():
    found = manifests()
    assert sorted(found) == ["Deployment", "HorizontalPodAutoscaler", "PodDisruptionBudget"]
    deployment = found["Deployment"]
    assert "replicas" not in deployment["spec"]
    labels = pod()["metadata"]["labels"]
    assert deployment["spec"]["selector"]["matchLabels"] == labels
    assert found["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"] == labels
    scaler = found["HorizontalPodAutoscaler"]["spec"]
    assert scaler["scaleTargetRef"] == {
        "apiVersion": deployment["apiVersion"],
        "kind": "Deployment",
        "name": deployment["metadata"]["name"],
    }
    assert (scaler["minReplicas"], scaler["maxReplicas"]) == (2, 20)
    (metric,) = scaler["metrics"]
    assert metric["external"]["target"] == {"type": "AverageValue", "averageValue": "50"}
    name = metric["external"]["metric"]["name"]
    assert adapter_rule()["seriesQuery"].startswith(f"{name}{{")


async def test_pod_answers_its_probes_and_tells_what_the_autoscaler_asks(fleet: Fleet):
    sample = SAMPLES["kubernetes"]
    ports = {port["name"]: port["containerPort"] for port in container()["ports"]}
    own = {number: free_port() for number in ports.values()}
    words = [
        f"{flag}={own[int(value)]}" if flag.endswith("-port") else word
        for word in sample.words
        for flag, _, value in [word.partition("=")]
    ]
    assert words != sample.words
    command = fleet.run(["qcore_cli", *words])

    async def answers(probe: str) -> int:
        page = container()[probe]["httpGet"]
        return (await get(own[ports[page["port"]]], page["path"]))[0]

    async def is_ready() -> bool:
        return await answers("readinessProbe") == 200

    await eventually(is_ready, 30)
    assert await answers("startupProbe") == await answers("livenessProbe") == 200

    async with running_job(fleet, 5.0):
        scrape = pod()["metadata"]["annotations"]
        assert scrape["prometheus.io/scrape"] == "true"
        port = own[int(scrape["prometheus.io/port"])]
        status, text = await get(port, scrape["prometheus.io/path"])
        asked = manifests()["HorizontalPodAutoscaler"]["spec"]["metrics"][0]["external"]["metric"]
        labels = [f'{k}="{v}"' for k, v in asked["selector"]["matchLabels"].items()]
        assert status == 200
        assert f"{asked['name']}{{{','.join(labels)}}} 0.0" in text.splitlines()

        command.signal()

        async def is_draining() -> bool:
            return await answers("readinessProbe") == 503

        await eventually(is_draining)
        assert await answers("livenessProbe") == 200
        assert await command.ended(sample.granted_s) == 0
