"""The dashboard is what Grafana reads, gets there, and every panel of it has data from workers under load."""

import contextlib
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from grafana_foundation_sdk.models.dashboard import Dashboard

import tests.grafana
from ops.dashboards.overview import UID, overview
from ops.dashboards.pushing import GrafanaError, credential, push
from ops.demo.stage import set_up
from tests import prometheus
from tests.grafana import panels, queries, without_data
from tests.kafka_jars import NEEDED as NEEDS_ALL  # where the tests with servers must not be skipped
from tests.prometheus import free_port, get, until

PELTON = [str(Path(sys.executable).with_name("pelton"))]
LOAD_S = 90.0
DATA_S_MAX = 60.0


def test_the_dashboard_is_of_the_form_that_grafana_s_types_declare():
    made = overview()
    again = json.loads(json.dumps(Dashboard.from_json(made).to_json(), default=lambda each: each.to_json()))
    mine = {"titleFormat", "tagKeys", "useValueForTime", "step"}  # what Grafana reads of an annotation besides
    for annotation in made["annotations"]["list"]:
        assert mine <= set(annotation)
        for name in mine:
            del annotation[name]
    assert again == made
    assert made["uid"] == UID
    assert "id" not in made


def test_panels_say_what_they_show_and_do_not_overlap():
    taken = set()
    for panel in overview()["panels"]:
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not cells & taken, panel["title"]
        assert place["x"] + place["w"] <= 24
        taken |= cells
    assert [panel["title"] for panel in panels() if not panel["description"] or not panel["targets"]] == []
    ids = [panel["id"] for panel in overview()["panels"]]
    assert len(set(ids)) == len(ids)


@contextlib.contextmanager
def under_load(folder):
    """A worker that decides the demo's stream as it comes; gives the port of its metrics."""
    stage, port = set_up(folder, LOAD_S), free_port()
    arguments = ["run", str(folder / "payments.py"), "--data-folder", str(folder), "--plain"]
    with (folder / "worker.log").open("wb") as log:
        worker = subprocess.Popen([*PELTON, *arguments, "--metrics-port", str(port)], stdout=log, stderr=log)
    try:
        stage.producer.start()
        yield port, stage, worker
    finally:
        worker.kill()
        worker.wait()
        stage.close()


def test_a_worker_under_load_tells_of_its_experts(tmp_path):
    entropy, text = re.compile(r'pelton_expert_entropy{.*layer="2"'), []
    with under_load(tmp_path) as (port, _, worker):

        def told():
            assert worker.poll() is None, (tmp_path / "worker.log").read_text()
            return get(f"http://127.0.0.1:{port}/metrics") or ""

        until(lambda: text.append(told()) or entropy.search(text[-1]), 60, "no entropy of the last layer's load")
    for figure in ("entropy", "dead", "overflow"):
        assert len(re.findall(rf'^pelton_expert_{figure}{{.*layer="[12]".*task="risk".*}} \S+$', text[-1], re.M)) == 2
    visits = re.findall(r'^pelton_expert_visits_total{.*expert="(\d+)".*layer="1".*} (\S+)$', text[-1], re.M)
    assert len(visits) == 16
    assert sum(float(count) for _, count in visits) > 0
    assert 'pelton_network_provider_info{app="bank",provider="cpu",task="risk"} 1.0' in text[-1]


@pytest.mark.timeout(240)
@pytest.mark.skipif(bool(prometheus.missing()) and not NEEDS_ALL, reason=prometheus.MISSING)
def test_every_panel_has_data_from_two_workers_under_load(tmp_path):
    assert not prometheus.missing(), prometheus.MISSING
    with contextlib.ExitStack() as stack:
        workers = [stack.enter_context(under_load(tmp_path / name)) for name in ("one", "two")]
        targets = [f"127.0.0.1:{port}" for port, _, _ in workers]
        server = stack.enter_context(prometheus.running(tmp_path / "prometheus", targets))
        until(lambda: len(server.query("up == 1")) == 2, 60, "Prometheus does not see both workers")
        waiting = queries()
        assert len(waiting) >= 35

        def is_answered():
            waiting[:] = without_data(server, waiting)
            assert all(worker.poll() is None for _, _, worker in workers), "a worker ended"
            return not waiting

        until(is_answered, DATA_S_MAX, f"without data: {waiting}")
        unaccounted = next(query for where, query in queries() if where == "Unaccounted")
        assert {series["value"][1] for series in server.query(unaccounted)} == {"0"}
        assert all(get(f"http://{target}/healthz").startswith("ok\n") for target in targets)


@pytest.fixture
def grafana():
    """The stand-in for a Grafana: its URL, and what it was asked."""
    with tests.grafana.running() as running:
        yield running


def test_a_push_makes_the_folder_and_replaces_the_dashboard(grafana, tmp_path):
    url, asked = grafana
    done = subprocess.run(
        [*PELTON, "dashboards", "push", "--grafana", url], capture_output=True, text=True, timeout=60, cwd=tmp_path,
        env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "PELTON_GRAFANA_TOKEN": "right"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"Pelton: {url}/d/pelton-overview/pelton\n"
    assert {who for _, _, who, _ in asked} == {"Bearer right"}
    assert [(verb, path) for verb, path, _, _ in asked] == [
        ("GET", "/api/folders/pelton"), ("POST", "/api/folders"), ("POST", "/api/dashboards/db"),
    ]  # fmt: skip
    assert asked[1][3] == {"title": "Pelton", "uid": "pelton"}
    sent = asked[2][3]
    assert sent["dashboard"] == overview()
    assert (sent["folderUid"], sent["overwrite"]) == ("pelton", True)


def test_what_goes_wrong_with_grafana_is_a_sentence(grafana):
    with pytest.raises(GrafanaError, match=r"refused: it does not know this token or password; check PELTON_GRAFANA"):
        push(grafana[0], "wrong", {UID: overview()})
    with pytest.raises(GrafanaError, match=r"Grafana at http://127\.0\.0\.1:1 cannot be reached"):
        push("http://127.0.0.1:1", "right", {UID: overview()})
    with pytest.raises(GrafanaError, match=r"set PELTON_GRAFANA_TOKEN to a service account's token"):
        credential({"PELTON_GRAFANA_USER": "admin"})
    assert credential({"PELTON_GRAFANA_USER": "admin", "PELTON_GRAFANA_PASSWORD": "x"}) == ("admin", "x")


def test_the_dashboard_can_be_had_as_a_file(pelton):
    assert json.loads(pelton("dashboards show").stdout) == overview()
