"""Training on images: it learns, goes on bit by bit after an interruption, and what it exports computes the same."""

import numpy as np
import pytest
import torch

from models.defects import CARD, NETWORK, DefectCard, DefectModel
from models.export_images import export_images
from models.moe.image import ImageSizes, read_images
from models.moe.settings import MoESettings
from models.train.checkpoint import CheckpointError
from models.train.images import ImageChoices, ImageData, augment
from models.train.joint import fit
from models.train.settings import TrainSettings
from tests.dark_spots import spotted

SMALL = MoESettings(width=32, heads=2, experts=4, expert_width=32, shared_width=32)
SIZES = ImageSizes(8, 16)


def photos(count: int) -> tuple[np.ndarray, np.ndarray]:
    chance = np.random.default_rng(2)
    classes = np.arange(count) % 2
    drawn = [spotted(int(chance.integers(0, 60)) if kind else None, chance.integers(0, 64, 2)) for kind in classes]
    noisy = np.stack(drawn) + chance.normal(0, 6, (count, 64, 64))
    return noisy.clip(0, 255).astype(np.uint8)[..., None], classes


def data(count=80, batch=16):
    pixels, classes = photos(count)
    return ImageData(pixels, classes, 2, np.arange(count) >= count - 16, ImageChoices(batch=batch), SIZES)


def learn(folder, epochs=2, resume=False, progress=None):
    settings = TrainSettings(epochs=epochs, patience=epochs, average_decay=0.0)
    return fit({"defect": data()}, settings, folder, progress, sizes=SMALL, resume=resume)


def outputs(network, pixels):
    with torch.no_grad():
        logits, evidence, _ = read_images(network, torch.from_numpy(pixels))
    return logits.numpy(), evidence.numpy()


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return learn(tmp_path_factory.mktemp("whole"), epochs=14)


def test_it_learns_what_a_spot_is_and_where(trained):
    pixels, classes = photos(160)
    logits, evidence = outputs(trained.network, pixels[80:])
    assert (logits.argmax(1) == classes[80:]).mean() > 0.9
    spots = evidence[classes[80:] == 1]
    places = (spots[:, 1] - spots[:, 0]).reshape(len(spots), -1).argmax(1)
    cells = pixels[80:][classes[80:] == 1][..., 0].reshape(-1, 8, 8, 8, 8).mean((2, 4)).reshape(len(spots), -1)
    (down, right), (row, column) = (np.divmod(each, 8) for each in (places, cells.argmin(1)))
    assert (np.hypot(down - row, right - column) < 1.5).mean() > 0.8  # the cell or its neighbour; nobody told it where


def test_the_exported_network_computes_the_same(trained):
    pixels, _ = photos(20)
    exported = export_images(trained.network, pixels)
    assert max(exported.differences.values()) <= 1e-5
    card = DefectCard(("none", "pit"), "none", 64, 1, 1.0, 0.5, 0.0, 1.0)
    logits, evidence = DefectModel(exported.file, card).outputs(pixels)
    expected = outputs(trained.network, pixels)
    np.testing.assert_allclose(logits, expected[0], atol=1e-5)
    np.testing.assert_allclose(evidence, expected[1], atol=1e-4)
    assert (NETWORK, CARD) == ("moe.onnx", "defect.json")


def test_an_interrupted_training_goes_on_bit_by_bit(tmp_path):
    class EnoughError(Exception):
        pass

    def stop(told):
        if told.step == 6:  # in the middle of the second epoch
            raise EnoughError("enough")

    whole = learn(tmp_path / "whole", epochs=3)
    with pytest.raises(EnoughError, match="enough"):
        learn(tmp_path / "parts", epochs=3, progress=stop)
    parts = learn(tmp_path / "parts", epochs=3, resume=True)
    for name, array in whole.network.state_dict().items():
        assert torch.equal(array, parts.network.state_dict()[name]), name
    with pytest.raises(CheckpointError, match="differs"):
        learn(tmp_path / "parts", epochs=4, resume=True)


def test_augmented_images_stay_images():
    torch.manual_seed(0)
    pixels = torch.from_numpy(photos(16)[0])
    for turns in (False, True):
        found = augment(pixels, turns)
        assert found.shape == pixels.shape
        assert float(found.min()) >= 0
        assert float(found.max()) <= 255
        assert not torch.equal(found[0], found[2])  # the same surface, seen anew


@pytest.mark.parametrize(
    ("pixels", "classes", "words"),
    [
        (np.zeros((20, 64, 64, 1)), np.zeros(20, np.int64), "float64"),
        (np.zeros((20, 64, 64, 1), np.uint8), np.zeros(19, np.int64), r"classes \(19,\)"),
        (np.zeros((16, 64, 64, 1), np.uint8), np.zeros(16, np.int64), "15 images to learn .* at least 16"),
    ],
)
def test_what_cannot_be_trained_on_is_told(pixels, classes, words):
    held = np.arange(len(pixels)) == 0
    with pytest.raises(ValueError, match=words):
        ImageData(pixels, classes, 2, held, ImageChoices(batch=16), SIZES)
