"""A defect task from records to decisions on the embedded log: classes, heat maps, dead letters, images at places."""

import base64
import io
import json

import numpy as np
import pytest
from PIL import Image

from connectors.images import decode_image
from connectors.log import Log
from connectors.sqlite_log import SqliteLog
from models.bundle import BundleError, BundleMeta, read_bundle, write_bundle
from models.defect_scorer import DefectScorer, defect_parts
from models.registry import Registry
from ops.runner import AppRunner
from pipeline import App, DefectTask, ImageField, Stream, Task
from pipeline.dead_letters import dead_topic
from pipeline.errors import DeclarationError
from pipeline.topics import create_topics, decisions_topic
from tests.dark_spots import CARD, CELL, SIZE, dark_spots, spotted

START_MS = 1_767_571_200_000


def steel(root: str = "/nowhere") -> App:
    image = ImageField(size=SIZE, roots=(root,))
    photos = Stream("photos", id="photo_id", time="ts", fields={"line": "string", "image": image})
    inspections = Stream("inspections", id="photo_id", time="at", fields={"defect": "string"})
    task = DefectTask("defect", on=photos, image=photos.image, label=inspections.defect, entity="line")
    return App("steel", tasks=[task])


def png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def base64_of(pixels: np.ndarray) -> str:
    return base64.b64encode(png(pixels)).decode()


@pytest.fixture
def registry(tmp_path):
    opened = Registry.open(None, tmp_path / "registry")
    write_bundle(tmp_path / "bundle", defect_parts(dark_spots(), CARD), BundleMeta("dark spots", "defect", 0))
    opened.promote("defect", opened.add_bundle("defect", tmp_path / "bundle", "test", 0), "test", 0)
    yield opened
    opened.close()


def decide(app: App, images: list[str], folder, registry: Registry | None) -> tuple[list[dict], list[dict]]:
    """Append records with these images, run until all are decided; return decisions and dead letters."""
    with SqliteLog(folder / "log.db") as log:
        create_topics(app, log)
        lines = [
            json.dumps({"photo_id": f"s{i}", "ts": START_MS + i, "line": "L1", "image": image}).encode()
            for i, image in enumerate(images)
        ]
        log.append("photos", 0, lines, START_MS + 1000)
        with AppRunner(app, log, registry, folder) as runner:
            runner.run(until_idle=True)
        return rows_of(log, decisions_topic(app.name)), rows_of(log, dead_topic(app.name))


def rows_of(log: Log, topic: str) -> list[dict]:
    return [row for _, rows in log.read_rows(topic, 0, 0, 1 << 20) for row in rows.to_pylist()]


def test_a_defect_is_blocked_with_its_place(tmp_path, registry):
    darks = [None, 10, 59, 62]
    decisions, dead = decide(steel(), [base64_of(spotted(dark, (20, 36))) for dark in darks], tmp_path, registry)
    assert dead == []
    # the last one is barely darker than nothing: below one half, above the line of 0.2
    assert [row["decision"] for row in decisions] == ["allow", "block", "block", "review"]
    sound, pit = decisions[0], decisions[1]
    assert (sound["defect"], sound["heat_map"], sound["reasons"]) == ("none", None, [])
    assert (pit["defect"], pit["rung"], pit["threshold"]) == ("pit", "moe", CARD.threshold)
    assert pit["score"] == pytest.approx(1 / (1 + np.exp(-5.0)))
    assert [each["defect"] for each in pit["defect_scores"]] == ["pit", "none"]
    assert sum(each["score"] for each in pit["defect_scores"]) == pytest.approx(1)
    heat = decode_image(base64.b64decode(pit["heat_map"].removeprefix("data:image/png;base64,")), SIZE, 1)[:, :, 0]
    row, column = np.unravel_index(heat.argmax(), heat.shape)
    assert (row // CELL, column // CELL) == (20 // CELL, 36 // CELL)
    assert pit["reasons"] == [f"pit, most of all {round(100 * column / SIZE)} % from the left and "
                              f"{round(100 * row / SIZE)} % from the top"]  # fmt: skip


def test_broken_images_are_dead_letters_and_the_ledger_closes(tmp_path, registry):
    good = base64_of(spotted(10))
    cut = base64.b64encode(png(spotted(10))[:60]).decode()
    decisions, dead = decide(steel(), [good, cut, "?!", good], tmp_path, registry)
    assert [row["event_id"] for row in decisions] == ["s0", "s3"]
    assert [row["kind"] for row in dead] == ["invalid", "invalid"]
    assert dead[0]["cause"].startswith("image: the image cannot be decoded")
    assert dead[1]["cause"] == "image: the image is neither base64 nor a place with a file name"
    assert json.loads(dead[0]["raw"])["image"] == cut


def test_images_at_places_are_read_and_what_is_gone_is_reviewed(tmp_path, registry):
    root = tmp_path / "photos"
    root.mkdir()
    (root / "a.png").write_bytes(png(spotted(10)))
    (root / "broken.png").write_bytes(b"no image")
    places = [f"{root}/a.png", f"{root}/gone.png", f"{root}/broken.png", "/etc/passwd.png"]
    decisions, dead = decide(steel(str(root)), places, tmp_path, registry)
    assert [row["decision"] for row in decisions] == ["block", "review", "review"]
    assert [row["score"] is None for row in decisions] == [False, True, True]
    assert "cannot be read" in decisions[1]["reasons"][0]
    assert decisions[2]["reasons"] == ["the image cannot be decoded: it is none of PNG, JPEG, BMP"]
    assert "not below" in dead[0]["cause"]


def test_without_a_model_every_image_is_reviewed(tmp_path):
    decisions, _ = decide(steel(), [base64_of(spotted(10))], tmp_path, None)
    assert (decisions[0]["decision"], decisions[0]["rung"], decisions[0]["defect"]) == ("review", "rules", None)


def test_many_images_are_decided_like_each_alone(tmp_path, registry):
    chance = np.random.default_rng(4)
    spots = [spotted(int(chance.integers(20, 90)), chance.integers(0, SIZE, 2)) for _ in range(150)]
    decisions, _ = decide(steel(), [base64_of(each) for each in spots], tmp_path, registry)
    scorer = DefectScorer(read_bundle(tmp_path / "bundle"), SIZE, 1)
    for row, pixels in zip(decisions, spots, strict=True):
        alone = scorer.score(pixels[None, :, :, None])
        assert row["score"] == pytest.approx(alone.score[0], abs=1e-9)
        dark = min(cell.mean() for line in np.vsplit(pixels, 8) for cell in np.hsplit(line, 8))  # the slow twin
        assert row["score"] == pytest.approx(1 / (1 + np.exp(-(60 - dark) * 0.1)), abs=1e-6)


def test_a_bundle_for_other_images_does_not_serve(tmp_path):
    bundle = write_bundle(tmp_path / "b", defect_parts(dark_spots(), CARD), BundleMeta("x", "defect", 0))
    with pytest.raises(BundleError, match="64 pixels and 1 channels, the app has 128 and 3; train it again"):
        DefectScorer(bundle, 128, 3)
    broken = write_bundle(tmp_path / "c", defect_parts(b"nothing", CARD), BundleMeta("x", "defect", 0))
    with pytest.raises(BundleError, match="cannot be opened"):
        DefectScorer(broken, SIZE, 1)


def test_mistakes_in_declarations_are_told():
    photos = Stream("photos", id="id", time="ts", fields={"line": "string", "image": "image"})
    labels = Stream("labels", id="id", time="at", fields={"defect": "string", "is_bad": "bool"})
    for changed, words in (
        ({"image": photos.line}, "declared as an image"),
        ({"label": photos.line}, "give a string of a stream of labels"),
        ({"label": labels.is_bad}, "give a string of a stream of labels"),
        ({"recall": 1.0}, "recall is 1.0; it is a share of defects"),
    ):
        with pytest.raises(DeclarationError, match=words):
            DefectTask("defect", **({"on": photos, "image": photos.image, "label": labels.defect} | changed))
    with pytest.raises(DeclarationError, match="leave it out"):
        Task("risk", on=photos, features={"image": photos.image})
    with pytest.raises(DeclarationError, match="to group by it"):
        photos.by("image")
