"""Looking into a network: sizes are torch's, visits and attention those of the network, and the command tells them."""

import contextlib
import json
import re
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from models.bundle import BundleMeta, read_bundle, write_bundle
from models.inspection import Network
from models.registry import Registry
from models.scorer import MOE, TRAINING, Scorer
from models.training_memory import read_memory
from ops.cli import app, spread
from ops.simulate import SimulationSettings, simulate
from ops.training.inspecting import inspect_bundle
from ops.training.inspection_plots import write_plots
from ops.views.network import epoch_table, load_table, norm_table, routing_table, token_in_words

DEMO = Path(__file__).parents[2] / "ops" / "demo"


def epoch(loss, precision, visits):
    """An epoch as the trainer's report has it."""
    loads = [{"visits": visits}]
    validation = {"average_precision": precision, "auc": 0.9, "log_loss": 0.4}
    its = {"loss": loss, "figure": precision, "validation": validation, "loads": loads}
    return {"loss": loss, "score": precision, "tasks": {"risk": its}, "loads": loads}


MEMORY = {
    "best_epoch": 2,
    "steps": 4,
    "epochs": [epoch(0.5, 0.3, [8, 8, 0, 0]), epoch(0.4, 0.5, [4, 4, 4, 4])],
    "curves": {
        "step": [1, 2, 3, 4], "loss": [0.6, 0.4, 0.4, 0.4], "gradient_norm": [4.0, 2.0, 1.0, 1.0],
        "part_norms": {"head": [None, 1.0, 0.5, 0.25]},
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def network():
    return Network(read_bundle(DEMO / "bundle").part(MOE))


@pytest.fixture(scope="module")
def events(network):
    chance = np.random.default_rng(2)
    features = chance.normal(size=(300, len(network.specs)))
    features[:, [spec.kind == "category" for spec in network.specs]] //= 1e-3
    return np.abs(features)


def test_the_sizes_of_parts_are_those_of_torch(network):
    pytest.importorskip("torch")
    from models.moe.network import event_network
    from models.moe.parts import PARTS, part_of

    arrays = event_network(network.specs, network.settings).state_dict().items()
    learned = [(part_of(name), array.numel()) for name, array in arrays if array.is_floating_point()]
    expected = {part: sum(size for each, size in learned if each == part) for part in PARTS}
    assert {part.name: part.numbers for part in network.parts()} == expected
    routed = next(part for part in network.parts() if part.name == "routed experts")
    assert routed.active == routed.numbers * 2 // 16
    size = len(read_bundle(DEMO / "bundle").part(MOE))
    assert 0.9 * size < sum(part.size_bytes for part in network.parts()) < size


def test_visits_are_those_that_serving_counts(network, events):
    bundle = read_bundle(DEMO / "bundle")
    scorer = Scorer(bundle, None, network.specs, buckets=(64,))
    scorer.score(events)
    seen = network.look(events)
    np.testing.assert_array_equal(seen.load(), scorer.load.visits())
    assert [layer.shape for layer in seen.visits] == [(len(network.tokens()), 16), (1, 16)]
    assert (seen.visits[0].sum(axis=1) == 300 * 2).all()  # every token visits two


def test_tables_say_what_the_numbers_say():
    memory = read_memory(json.dumps(MEMORY).encode())
    rows = epoch_table(memory, "risk")[1]
    assert [row[0] for row in rows] == ["1", "2 (best)"]
    assert [row[1:3] for row in rows] == [["0.5000", "0.3000"], ["0.4000", "0.5000"]]
    assert [row[-3:] for row in rows] == [["3.000", "1.00", 2], ["1.000", "0.00", 0]]
    assert norm_table(memory)[1] == [["all", "4.0000", "1.0000", "4.0000"], ["head", "1.0000", "0.2500", "1.0000"]]
    assert load_table(np.array([[6, 2, 0, 0]]))[1] == [[1, 8, "0.406", 2, "2.00", "0 (3.00)", "2 (0.00)"]]
    assert routing_table({"risk": np.array([[0, 6, 2, 0]])})[1] == [["risk", 1, "1.8 of 4", "1 (75%)"]]
    assert token_in_words("terminal:604800000") == "terminal 7d"
    assert read_memory(b'{"epochs": [{"loss": 1.0, "iou": 0.5}], "best_epoch": 1, "steps": 2}') is None


def test_a_bundle_that_remembers_its_training_shows_it(tmp_path):
    bundle = read_bundle(DEMO / "bundle")
    parts = bundle.parts | {TRAINING: json.dumps(MEMORY).encode()}
    write_bundle(tmp_path / "bundle", parts, bundle.meta)
    found = inspect_bundle(read_bundle(tmp_path / "bundle"))
    assert found.load()[0].tolist() == [[4, 4, 4, 4]]  # of the best epoch
    assert json.loads(found.to_json())["training"]["curves"]["gradient_norm"] == [4, 2, 1, 1]
    assert [path.name for path in write_plots(found, tmp_path)] == [
        "experts.png", "training.png", "gradient_norms.png",
    ]  # fmt: skip


@pytest.fixture
def told(tmp_path, monkeypatch):
    """Return a function that runs `pelton models inspect` in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PELTON_DATA", str(tmp_path / "kept"))

    def run(line, code=0):
        result = CliRunner().invoke(app, spread(["models", "inspect", *line.split()]), prog_name="pelton")
        assert result.exit_code == code, f"{result.stdout}\n{result.stderr}\n{result.exception!r}"
        return result

    return run


def test_the_demo_s_network_with_data(told, tmp_path):
    simulate(SimulationSettings(days=1, events_per_day=600, cards=50, terminals=20, seed=3), tmp_path)
    files = "--data payments.jsonl frauds.jsonl --plots plots"
    result = told(f"{DEMO / 'bundle'} --app {DEMO / 'payments.py'} {files}")
    report = json.loads((tmp_path / "plots" / "inspection.json").read_text())
    layers = report["experts"]["layers"]
    events = sum(layers[1]["visits"]) // 2
    assert events > 500
    assert f"load of the experts, {events} of {events} events" in result.stdout
    for number, layer in enumerate(layers, start=1):
        row = re.search(rf"^ *{number} +{sum(layer['visits'])} +(\S+) +(\d+) +(\S+) ", result.stdout, re.M)
        assert row.group(1, 2, 3) == (f"{layer['entropy']:.3f}", str(layer["dead"]), f"{layer['overflow']:.2f}")
    assert np.array(report["attention_of_the_summary"]).sum(axis=1) == pytest.approx([1, 1])
    assert re.search(r"^card 1h +\S+% +\S+% +payments_1h, amount_std_1h", result.stdout, re.M)
    drawn = sorted(path.name for path in (tmp_path / "plots").glob("*.png"))
    assert {"attention.png", "experts.png", "routing.png"} <= set(drawn)
    assert all((tmp_path / "plots" / name).read_bytes().startswith(b"\x89PNG") for name in drawn)


def test_a_version_of_the_registry_by_its_first_digits(told, tmp_path):
    with contextlib.closing(Registry.open(None, tmp_path / "kept" / "registry")) as registry:
        id = registry.add_bundle("risk", DEMO / "bundle", "me", 1)
    assert told(id[:5]).stdout.startswith(f"bundle      {id}, risk moe+ftrl\n")
    assert "no bundle or snapshot starts with 'feed'" in told("feed", code=1).stderr


def test_what_cannot_be_inspected_is_told(told, tmp_path):
    assert "--app and --data belong together" in told(f"{DEMO / 'bundle'} --data a.jsonl", code=1).stderr
    assert "no folder with a bundle.json" in told("nowhere", code=1).stderr
    made = write_bundle(tmp_path / "rules", {"ftrl.npz": b"x"}, BundleMeta("rules", "risk", 1))
    assert f"bundle {made.id} has no network, only ftrl.npz" in told("rules", code=1).stderr
