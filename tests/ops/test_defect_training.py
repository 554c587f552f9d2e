"""From made-up photographs to a bundle that decides, by the command line: train, evaluate with masks, replay."""

import json
from pathlib import Path

import numpy as np
import pytest

from models.bundle import read_bundle
from models.defects import CARD, DefectCard
from ops.demo import surfaces
from ops.simulate.photos import PhotoSettings, simulate_photos
from ops.training.contents import read_contents
from ops.training.defect_training import ImageLesson
from ops.training.training import TrainingError, TrainingSettings

APP = Path(surfaces.__file__)
FILES = "data/photos.jsonl data/inspections.jsonl"


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return simulate_photos(PhotoSettings(photos=160, size=64, seed=1), tmp_path_factory.mktemp("photos"))


@pytest.fixture
def folder(tmp_path, monkeypatch, photos):
    """Stand in a folder with an app for images of 64 pixels and data/."""
    text = APP.read_text().replace("size=128", "size=64")
    (tmp_path / "steel.py").write_text(text)
    (tmp_path / "data").symlink_to(photos.photos_path.parent)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_train_evaluate_and_replay(folder, pelton):
    said = pelton(f"train steel.py --data {FILES} --quick --epochs 2 --until 2026-01-05T02:15").stdout
    assert "serves now" in said
    assert "held_back.recall" in said
    (bundle,) = (folder / "bundles").glob("defect-*")
    card = DefectCard.from_json(read_bundle(bundle).part(CARD))
    assert set(card.classes) == {"none", "scratch", "pit", "inclusion"}
    assert card.classes[0] == card.sound == "none"

    said = pelton(f"evaluate steel.py --data {FILES} --bundle {bundle} --masks data/masks --out judged").stdout
    assert "heat map auroc" in said
    report = json.loads((folder / "judged" / "evaluation.json").read_text())
    assert sum(row["images"] for row in report["classes"]) == report["images"] > 20
    assert report["masks"] == sum(row["images"] for row in report["classes"] if row["class"] != "none")
    assert {"confusion.png", "examples.png"} <= {path.name for path in (folder / "judged").glob("*.png")}

    said = pelton(f"export steel.py {bundle} --out edge --data {FILES} --test-start 2026-01-05T00:50").stdout
    rows = {line.split("  ")[0]: line.split()[-2:] for line in said.splitlines()}
    assert rows["figure"] == ["bundle", "device"]
    ours, theirs = map(float, rows["accuracy"])
    assert ours == pytest.approx(report["figures"]["accuracy"]["bundle"], abs=0.2)  # of nearly the same images
    assert theirs == pytest.approx(ours, abs=0.05)
    told = pelton(f"export steel.py {bundle} --out edge --data {FILES} --test-start 2027-01-05", code=1).stderr
    assert "the images to judge by have no label; give other files, or another time to begin at" in told

    pelton(f"replay steel.py --input {FILES} --output decisions.jsonl")
    decisions = [json.loads(line) for line in (folder / "decisions.jsonl").read_text().splitlines()]
    assert len(decisions) == 160
    for row in decisions:
        assert row["decision"] == (
            "allow" if row["score"] < card.threshold else "block" if row["score"] >= 0.5 else "review"
        )


def history(folder):
    from ops.inputs import open_inputs
    from pipeline.loading import load_app

    app = load_app(str(folder / "steel.py"))
    return app.task("defect"), read_contents(app, app.task("defect"), open_inputs(app, FILES.split()))


def test_labels_are_used_when_they_were_known(folder, photos):
    _, found = history(folder)
    assert len(found) == 160
    labels = {row["photo_id"]: row for row in map(json.loads, photos.labels_path.read_text().splitlines())}
    assert [labels[event]["defect"] for event in found.ids] == list(found.labels["label"])
    until = int(np.median(found.known_ms))
    known = found.known(None, until)
    assert set(known.ids) == {event for event in found.ids if labels[event]["inspected_at"] < until}


def test_what_cannot_be_learned_is_told(folder):
    task, found = history(folder)
    few = found.where(np.arange(len(found)) < 6)
    with pytest.raises(TrainingError, match="at least two classes are needed, with 5 images each"):
        ImageLesson(few, task, TrainingSettings())
    bad = found.where(np.array([label != "none" for label in found.labels["label"]]))
    with pytest.raises(TrainingError, match="no label is 'none', which stands for sound surfaces"):
        ImageLesson(bad, task, TrainingSettings())
