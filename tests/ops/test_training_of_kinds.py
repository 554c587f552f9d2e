"""Payments, messages and photographs in one app: one training, a bundle each, judged one after another."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from models.bundle import read_bundle
from ops.cli import app, spread
from ops.inputs import open_inputs
from ops.settings import Settings
from ops.simulate import SimulationSettings, simulate
from ops.simulate.messages import MessageSettings, simulate_messages
from ops.simulate.photos import PhotoSettings, simulate_photos
from ops.training.defect_baseline import texture
from ops.training.inspecting import inspect_bundle
from ops.training.joint_training import chosen_tasks, train_together
from ops.training.recipes import Recipe, together
from ops.training.registering import register_bundle
from ops.training.training import TrainingSettings
from pipeline.kinds import scorer_of
from pipeline.loading import load_app

pytestmark = pytest.mark.timeout(500)  # a network of three kinds and three exports, on a machine that others use
FILES = "payments.jsonl frauds.jsonl messages.jsonl answers.jsonl photos.jsonl inspections.jsonl"
APP = """
from pipeline import App, DefectTask, ImageField, Stream, SupportTask, Task

payments = Stream("payments", id="event_id", time="ts", fields={
    "card": "string", "terminal": "string", "device": "string", "place": "string", "amount": "money"})
frauds = Stream("frauds", id="event_id", time="reported_at", fields={"is_fraud": "bool"})
card = payments.by("card")
risk = Task("risk", on=payments, label=frauds.is_fraud, learner=None, entity="card", features={
    "amount": payments.amount, "known": card.last("30d").seen("device"), "z": card.last("30d").zscore("amount")})
messages = Stream("messages", id="message_id", time="ts", lateness="5s", fields={"customer": "string", "body": "text"})
answers = Stream("answers", id="message_id", time="answered_at", fields={"intent": "string", "priority": "string"})
support = SupportTask("support", on=messages, text=messages.body, intent=answers.intent, priority=answers.priority)
photos = Stream("photos", id="photo_id", time="ts", fields={"image": ImageField(size=64, channels=1)})
inspections = Stream("inspections", id="photo_id", time="inspected_at", fields={"defect": "string"})
defect = DefectTask("defect", on=photos, image=photos.image, label=inspections.defect, sound="none")
app = App("all", tasks=[risk, support, defect])
"""


class InterruptedRunError(Exception):
    pass


@pytest.fixture(scope="module")
def works(tmp_path_factory):
    """An app of three kinds of tasks, with its files, in a folder."""
    folder = tmp_path_factory.mktemp("works")
    (folder / "works.py").write_text(APP)
    simulate(SimulationSettings(days=4, events_per_day=500, cards=60, fraud_rate=0.06, drift=False, seed=3), folder)
    simulate_messages(MessageSettings(messages=300, seed=3), folder)
    simulate_photos(PhotoSettings(photos=120, size=64, seed=1), folder)
    return folder


def opened(folder):
    loaded = load_app(str(folder / "works.py"))
    return loaded, open_inputs(loaded, [str(folder / name) for name in FILES.split()])


@pytest.fixture(scope="module")
def trained(works):
    """The bundles of a joint training that was interrupted between two checkpoints and resumed."""
    loaded, inputs = opened(works)
    settings = TrainingSettings(quick=True, created_ms=5)

    def interrupt(stage):
        if stage.name == "network" and stage.done > 0.6 * stage.total:
            raise InterruptedRunError

    with pytest.raises(InterruptedRunError, match=r"^$"):
        train_together(loaded, loaded.tasks, inputs, settings, works / "bundles", interrupt)
    loaded, inputs = opened(works)
    settings = TrainingSettings(quick=True, created_ms=5, resume=True)
    return train_together(loaded, loaded.tasks, inputs, settings, works / "bundles")


def test_each_kind_has_a_bundle_that_serves_and_remembers_its_training(trained, works):
    loaded, _ = opened(works)
    report = json.loads((works / "bundles" / "network" / "training_report.json").read_text())
    assert (works / "bundles" / "network" / "training_report.png").read_bytes().startswith(b"\x89PNG")
    assert list(report["tasks"]) == list(trained) == ["risk", "support", "defect"]
    assert [len(its["experts"]) for its in report["tasks"].values()] == [4, 4, 4]
    assert report["sizes"]["experts"] == 6  # three are common, each has one of its own
    assert [its.get("passes", 1) for its in report["tasks"].values()] == [1, 4, 6]
    for task in loaded.tasks:
        bundle = read_bundle(trained[task.name].folder)
        assert scorer_of(task, loaded.plans[task.on.name], bundle, None).rung == "moe"
        memory = json.loads(bundle.part("training.json"))
        assert memory["tasks"] == ["risk", "support", "defect"]
        assert len(memory["curves"]["task_losses"][task.name]) > 5
        assert bundle.meta.provenance["network_tasks"] == "risk, support, defect"
    assert trained["support"].metrics["held_back.accuracy"] > 0.6
    assert trained["risk"].metrics["held_back.moe.auc"] > 0.7


def test_a_network_of_each_kind_can_be_looked_into(trained):
    for name, made in trained.items():
        found = inspect_bundle(made.bundle)
        file = len(made.bundle.part("moe.onnx"))
        assert 0.5 * file < sum(part.size_bytes for part in found.parts) < file  # the graph itself is the rest
        assert all(0 < part.active <= part.numbers for part in found.parts)
        assert bool(found.tokens) == (name == "risk")
        assert list(found.loads()[0]) == ["risk", "support", "defect"]
    with pytest.raises(ValueError, match="only one that takes features can be watched"):
        inspect_bundle(trained["defect"].bundle).network.look(np.zeros((1, 1)))


def test_tasks_are_chosen_by_name_in_the_order_of_the_app(works, pelton, tmp_path):
    loaded, inputs = opened(works)
    chosen, left_out = chosen_tasks(loaded, ["defect", "risk", "defect"], inputs)
    assert ([task.name for task in chosen], left_out) == (["risk", "defect"], {})
    files = " ".join(str(works / name) for name in FILES.split())
    told = pelton(f"train {works / 'works.py'} --data {files} --task defect --task nothing --out {tmp_path}", code=1)
    assert "has no task 'nothing'" in told.stderr


def test_all_tasks_are_judged_with_a_baseline_beside_each(trained, works, pelton, tmp_path):
    files = " ".join(str(works / name) for name in FILES.split())
    asked = f"evaluate {works / 'works.py'} --data {files} --task all"
    told = pelton(f"{asked} --bundle {works / 'bundles'} --masks {works / 'masks'} --out {tmp_path}")
    for baseline in ("gradient boosting", "TF-IDF", "edges, boosting"):
        assert baseline in told.stdout
    assert told.stdout.count("experts, as counted in") == 3
    assert "after the test begins" in told.stderr
    found = {name: json.loads((tmp_path / name / "evaluation.json").read_text()) for name in trained}
    for name, report in found.items():
        assert report["bundle"]["id"] == trained[name].bundle.id
        assert all(layer["dead"] < 4 and sum(layer["visits"]) for layer in report["experts"]["layers"])
        assert all((tmp_path / name / plot).stat().st_size > 1000 for plot in report["plots"].values())
    assert found["risk"]["experts"]["of"] == "the test"
    accuracy = found["defect"]["figures"]["accuracy"]
    assert accuracy["edges, boosting"] > 0.5


def test_of_what_serves_a_task_without_a_bundle_is_left_out_with_the_reason(trained, works, tmp_path):
    register_bundle(Settings.read(tmp_path / "data"), "support", trained["support"].folder, 0)
    files = " ".join(str(works / name) for name in FILES.split())
    line = f"evaluate {works / 'works.py'} --data {files} --task all --no-baseline --out {tmp_path / 'out'}"
    told = CliRunner().invoke(app, spread([*line.split(), "--data-folder", str(tmp_path / "data")]), prog_name="pelton")
    assert told.exit_code == 0, told.stderr
    assert "risk is left out: no bundle serves risk yet" in told.stderr
    assert "defect is left out: no bundle serves defect yet" in told.stderr
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["support"]
    empty = CliRunner().invoke(app, spread([*line.split(), "--bundle", str(tmp_path / "out")]), prog_name="pelton")
    assert empty.exit_code == 1
    assert "no task can be judged: risk:" in empty.stderr


def test_of_several_recipes_the_fewest_epochs_and_the_largest_sizes_are_taken():
    from models.moe.settings import MoESettings

    events, texts = Recipe(8, MoESettings(), 4), Recipe(10, MoESettings(width=64, experts=8), 10, 3e-3)
    images = Recipe(60, MoESettings(dropout=0.1), 60, average_decay=0.9)
    both, passes = together({"risk": events, "texts": texts, "images": images})
    assert (both.epochs, both.patience, both.learning_rate, both.average_decay) == (8, 8, 2e-3, 0.9)
    assert passes == {"risk": 1, "texts": 1, "images": 8}
    assert (both.sizes.width, both.sizes.dropout, both.sizes.experts) == (128, 0.1, 7 + 3)
    assert {len(its) for its in both.share_out(["risk", "texts", "images"]).values()} == {8}
    alone, passes = together({"risk": events})
    assert (alone, passes) == (events, {"risk": 1})
    assert alone.share_out(["risk"]) == {"risk": None}
    several, _ = together({name: events for name in "abcdef"})
    assert (several.patience, several.sizes.experts) == (4, 14 + 6 * 2)
    assert {len(its) for its in several.share_out(list("abcdef")).values()} == {16}


def test_a_texture_says_how_much_there_is_and_not_where():
    chance = np.random.default_rng(0)
    pixels = chance.integers(0, 256, (70, 64, 64, 1)).astype(np.uint8)
    moved = np.roll(pixels, 8, axis=1)  # by a whole cell
    found, again = texture(pixels), texture(moved)
    np.testing.assert_allclose(found[:, :32].sum(1), 1)
    np.testing.assert_allclose(found[:, -64:], again[:, -64:])
    np.testing.assert_allclose(found, again, atol=0.02)
    np.testing.assert_allclose(found[69:], texture(pixels[69:]))  # whatever is beside it
    assert texture(np.zeros((2, 64, 64, 3), np.uint8)).shape == (2, 3 * 32 + 24 + 8 + 64)
