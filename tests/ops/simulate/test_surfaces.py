"""Made-up surfaces: the same seed gives the same bytes, masks say where the defect is, labels come later."""

import base64
import io
import json

import numpy as np
import pytest
from PIL import Image

from ops.simulate.photos import PhotoSettings, simulate_photos
from ops.simulate.settings import SimulationError
from ops.simulate.surfaces import CLASSES, SOUND, draw_surface


@pytest.mark.parametrize("defect", CLASSES)
def test_a_mask_covers_what_is_drawn(defect):
    for seed in range(12):
        surface = draw_surface(defect, np.random.default_rng(seed))
        again = draw_surface(defect, np.random.default_rng(seed))
        np.testing.assert_array_equal(surface.pixels, again.pixels)
        if defect == SOUND:
            assert not surface.mask.any()
            continue
        assert 0.0005 < surface.mask.mean() < 0.2
        plain = draw_surface(SOUND, np.random.default_rng(seed)).pixels.astype(float)  # the same texture beneath
        change = np.abs(surface.pixels - plain)
        assert change[~surface.mask].max() < change[surface.mask].mean() + 20
        assert change[surface.mask].mean() > 4
        far = np.abs(surface.pixels - plain)[~surface.mask].mean()
        assert far < 1


def test_an_unknown_defect_is_refused():
    with pytest.raises(ValueError, match="choose one of none, scratch, pit, inclusion"):
        draw_surface("dent", np.random.default_rng(0))


def test_the_files_tell_one_story(tmp_path):
    settings = PhotoSettings(photos=60, size=64, broken_share=0.1, seed=3)
    made = simulate_photos(settings, tmp_path / "a")
    photos = [json.loads(line) for line in made.photos_path.read_bytes().splitlines()]
    labels = {each["photo_id"]: each for each in map(json.loads, made.labels_path.read_bytes().splitlines())}
    assert [each["ts"] for each in photos] == sorted(each["ts"] for each in photos)
    assert [each["inspected_at"] for each in labels.values()] == sorted(
        each["inspected_at"] for each in labels.values()
    )
    assert sum(made.by_class.values()) == len(photos) == len(labels) == 60
    unreadable = 0
    for photo in photos:
        label = labels[photo["photo_id"]]
        assert label["inspected_at"] > photo["ts"]
        assert (made.masks_path / f"{photo['photo_id']}.png").exists() == (label["defect"] != SOUND)
        with Image.open(io.BytesIO(base64.b64decode(photo["image"]))) as image:
            try:
                image.load()
                assert image.size == (64, 64)
            except OSError:
                unreadable += 1
    assert unreadable == made.broken > 0
    assert simulate_photos(settings, tmp_path / "b").photos_sha256 == made.photos_sha256


def test_settings_and_places_that_cannot_be_are_refused(tmp_path):
    with pytest.raises(SimulationError, match=r"defect_share is 1.5; choose between 0 and 1"):
        PhotoSettings(defect_share=1.5)
    (tmp_path / "file").write_text("")
    with pytest.raises(SimulationError, match="cannot be a folder"):
        simulate_photos(PhotoSettings(photos=1), tmp_path / "file")
