"""Scores, heat maps and thresholds of defects, beside their slow twins."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from models.defect_card import fit_card, fit_temperature, recall_threshold
from models.defects import DefectCard, DefectError, DefectModel, enlarged, gray_png, heat_maps, read_scores, softmax
from tests.dark_spots import CARD, dark_spots, spotted

CHANCE = np.random.default_rng(5)


def test_a_score_is_the_probability_of_all_defects_together():
    card = DefectCard(("none", "pit", "scratch"), "none", 64, 1, 2.0, 0.3, 0.0, 1.0)
    logits, evidence = CHANCE.normal(size=(50, 3)) * 3, CHANCE.normal(size=(50, 3, 4, 4))
    found = read_scores(logits, evidence, card)
    for row in range(50):
        each = np.exp(logits[row] / 2) / np.exp(logits[row] / 2).sum()
        assert found.score[row] == pytest.approx(each[1] + each[2])
        alerted = each[1] + each[2] >= 0.3
        best = 1 + int(each[2] > each[1]) if alerted else int(each.argmax())
        assert found.best[row] == best
        for y, x in np.ndindex(4, 4):
            e = evidence[row, :, y, x]
            assert found.evidence[row, y, x] == pytest.approx(np.log(np.exp(e[1]) + np.exp(e[2])) - e[0])


def test_without_sound_images_everything_is_a_defect():
    card = DefectCard(("ash", "scale"), None, 64, 1, 1.0, 0.0, 0.0, 1.0)
    found = read_scores(np.array([[2.0, 0.0]]), np.array([[[[1.0]], [[4.0]]]]), card)
    assert (found.score[0], found.best[0], found.evidence[0, 0, 0]) == (1, 0, 1.0 - 4.0)


def test_heat_maps_are_stretched_linearly_between_the_middles_of_cells():
    maps = CHANCE.random((2, 4, 4))
    found = enlarged(maps, 16)
    middles = (np.arange(4) + 0.5) * 4 - 0.5
    for y, x in np.ndindex(16, 16):
        down = np.array([np.interp(y, middles, maps[0, :, column]) for column in range(4)])
        assert found[0, y, x] == pytest.approx(np.interp(x, middles, down))


def test_heat_below_black_and_above_white_is_cut_off():
    card = DefectCard(("none", "pit"), "none", 4, 1, 1.0, 0.5, 1.0, 3.0)
    np.testing.assert_array_equal(heat_maps(np.full((1, 2, 2), -9.0), card), np.zeros((1, 4, 4)))
    np.testing.assert_array_equal(heat_maps(np.full((1, 2, 2), 2.0), card), np.full((1, 4, 4), 128))
    np.testing.assert_array_equal(heat_maps(np.full((1, 2, 2), 9.0), card), np.full((1, 4, 4), 255))


def test_others_can_read_the_png():
    pixels = CHANCE.integers(0, 256, (30, 47)).astype(np.uint8)
    with Image.open(io.BytesIO(gray_png(pixels))) as image:
        np.testing.assert_array_equal(np.asarray(image), pixels)


def test_batches_do_not_matter():
    model = DefectModel(dark_spots(), CARD)
    pixels = np.stack([spotted(dark)[:, :, None] for dark in (None, 10, 50, 58, 62, 0, None, 33, 44, 55, 20)])
    together = model.score(pixels)
    for row in range(len(pixels)):
        alone = model.score(pixels[row : row + 1])
        assert alone.score[0] == together.score[row]
        np.testing.assert_array_equal(alone.evidence[0], together.evidence[row])
    assert len(model.score(pixels[:0]).score) == 0


@pytest.mark.parametrize(
    "pixels", [np.zeros((1, 32, 32, 1), np.uint8), np.zeros((1, 64, 64, 1)), np.zeros((64, 64, 1), np.uint8)]
)
def test_images_of_another_shape_are_refused(pixels):
    with pytest.raises(DefectError, match=r"the network takes uint8 \(n, \(64, 64, 1\)\)"):
        DefectModel(dark_spots(), CARD).score(pixels)


def test_a_network_that_is_none_or_broken_is_refused():
    with pytest.raises(DefectError, match="cannot be opened"):
        DefectModel(b"no network", CARD)
    with pytest.raises(DefectError, match="must be of 3 classes"):
        DefectModel(dark_spots(), DefectCard(("a", "b", "c"), None, 64, 1, 1.0, 0.5, 0.0, 1.0))
    with pytest.raises(DefectError, match="weights are broken"):
        DefectModel(dark_spots(scale=np.nan), CARD).score(spotted(10)[None, :, :, None])


def test_a_card_comes_back_exactly_and_a_damaged_one_is_told():
    assert DefectCard.from_json(CARD.to_json()) == CARD
    for damaged in (b"", b"{}", b"[1]", json.dumps({"classes": 3}).encode()):
        with pytest.raises(DefectError, match=r"defect\.json cannot be read"):
            DefectCard.from_json(damaged)


def test_the_threshold_keeps_its_recall_nine_times_in_ten():
    kept = [1 - recall_threshold(CHANCE.random(400), recall=0.95) >= 0.95 for _ in range(2000)]  # scores are uniform
    assert 0.89 <= np.mean(kept) <= 0.95
    greedy = [1 - np.quantile(CHANCE.random(400), 0.05) >= 0.95 for _ in range(2000)]
    assert np.mean(greedy) < 0.65  # the plain quantile misses it nearly every second time


def test_too_few_defects_alert_down_to_the_smallest_score():
    assert recall_threshold(np.array([0.9, 0.2, 0.5]), recall=0.98) == 0.2
    assert recall_threshold(np.array([0.7]), recall=0.98) == 0.7


def test_the_temperature_makes_probabilities_right():
    logits = CHANCE.normal(size=(4000, 3)) * 2
    classes = np.array([CHANCE.choice(3, p=row) for row in softmax(logits)])
    assert fit_temperature(logits * 3, classes) == pytest.approx(3, rel=0.1)


def test_a_card_needs_both_kinds_of_images():
    blank = DefectCard(("none", "pit"), "none", 64, 1, 1.0, 0.0, 0.0, 1.0)
    with pytest.raises(ValueError, match="0 of 4 held-back images have a defect"):
        fit_card(blank, np.zeros((4, 2)), np.zeros((4, 2, 8, 8)), np.zeros(4, np.int64), 0.98)
    model, darks = DefectModel(dark_spots(), blank), [None] * 40 + list(range(20, 60))
    logits, evidence = model.outputs(np.stack([spotted(dark)[:, :, None] for dark in darks]))
    classes = np.array([int(dark is not None) for dark in darks])
    card = fit_card(blank, logits, evidence, classes, 0.9)
    found = read_scores(logits, evidence, card)
    assert (found.score[classes == 1] >= card.threshold).mean() >= 0.9
    assert heat_maps(found.evidence, card)[classes == 0].max() == 0
