"""Every command of ours in the compose file runs as a process, in its order, against real servers; all panels fill."""

import contextlib
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import tests.grafana
from tests import kafka_jars, postgres, prometheus
from tests.prometheus import free_port, get, until

ROOT = Path(__file__).parents[2]
SERVICES = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
OURS = {name: service for name, service in SERVICES.items() if service["image"] == "pelton:local"}
PELTON = Path(sys.executable).with_name("pelton")
METRICS_PORT = "9464"
ENDS_S_MAX = 90.0
DATA_S_MAX = 90.0


def _missing():
    if postgres.binaries() is None or importlib.util.find_spec("psycopg") is None:
        return postgres.MISSING
    return prometheus.missing()


pytestmark = [
    pytest.mark.skipif(bool(_missing()) and not kafka_jars.NEEDED, reason=_missing() or ""),
    pytest.mark.timeout(400),
]


class Compose:
    """Starts services of ours as processes of this machine, where the file says containers."""

    def __init__(self, folder, kafka, registry, grafana, stack):
        self._folder, self._stack = folder, stack
        self._instead = {
            "kafka:9092": kafka, "/data": str(folder / "data"), "/app": str(ROOT / "ops" / "demo"),
            "http://grafana:3000": grafana, "0.0.0.0": "127.0.0.1",
            "postgresql+psycopg://pelton:${POSTGRES_PASSWORD:-pelton}@postgres:5432/pelton": registry,
        }  # fmt: skip
        self.ports = {name: str(free_port()) for name, service in OURS.items() if METRICS_PORT in service["command"]}
        self.ran = set()

    def _here(self, text, name):
        for there, here in self._instead.items():
            text = text.replace(there, here)
        text = re.sub(r"\$\{\w+:-(\S+)\}", r"\1", text)  # the defaults for a laptop
        return text.replace(METRICS_PORT, self.ports.get(name, METRICS_PORT))

    def start(self, name):
        """Start a service; it ends with the test."""
        service = OURS[name]
        words = [self._here(word, name) for word in [*service.get("entrypoint", ["pelton"]), *service["command"]]]
        kept = {each: value for each, value in os.environ.items() if not each.startswith("PELTON_")}
        ours = {each: self._here(str(value), name) for each, value in service["environment"].items()}
        path = {"PATH": f"{PELTON.parent}:{os.environ['PATH']}"}
        log = self._stack.enter_context((self._folder / f"{name}.log").open("wb"))
        process = subprocess.Popen(words, env=kept | ours | path, stdout=log, stderr=log, cwd=self._folder)
        self._stack.callback(process.wait)
        self._stack.callback(process.kill)
        self.ran.add(name)
        return process

    def run(self, name):
        """Run a service to its end."""
        assert self.start(name).wait(ENDS_S_MAX) == 0, self.said(name)

    def said(self, name):
        """What it printed."""
        return (self._folder / f"{name}.log").read_text()


def until_or_ended(what, process):
    """Wait for an answer, at most until a process has ended; a first start may have to compile kernels."""
    until(lambda: what() or process.poll() is not None, 150, "no answer")
    return what()


def healths(targets):
    """What workers say of themselves."""
    return {name: get(f"http://{target}/healthz") for name, target in targets.items()}


@pytest.fixture
def compose(kafka, tmp_path):
    (tmp_path / "data").mkdir()
    with postgres.running() as registry, tests.grafana.running() as grafana, contextlib.ExitStack() as stack:
        yield Compose(tmp_path, kafka, registry, grafana[0], stack)


def test_every_service_of_ours_runs(compose, tmp_path):
    for name in ("topics", "models", "stream", "dashboards"):
        compose.run(name)
    workers = {name: compose.start(name) for name in compose.ports}
    targets = {name: f"127.0.0.1:{port}" for name, port in compose.ports.items()}
    for name, target in targets.items():
        healthy = until_or_ended(lambda at=target: get(f"http://{at}/healthz"), workers[name])
        assert healthy, f"{name} ended: {compose.said(name)}"
    with prometheus.running(tmp_path / "prometheus", list(targets.values())) as server:
        for name in ("payments", "frauds"):
            compose.start(name)
        assert compose.ran == set(OURS), "a service that this test does not know"
        waiting = tests.grafana.queries()

        def is_answered():
            waiting[:] = tests.grafana.without_data(server, waiting)
            assert all(worker.poll() is None for worker in workers.values()), "a worker ended"
            return not waiting

        until(is_answered, DATA_S_MAX, lambda: f"no data for {waiting}: {healths(targets)}")

        def deciding():
            found = server.query("sum by (instance) (rate(pelton_decisions_total[10s])) > 0")
            return {each["metric"]["instance"] for each in found}

        until(lambda: deciding() == set(targets.values()), DATA_S_MAX, lambda: f"only {deciding()} of {targets} decide")
    compose.run("models")  # what serves stays: nothing is promoted again
    assert "Undo:" not in compose.said("models")
