"""The encoder of images: its shapes, one choice of experts per image, and the same answers after export."""

import numpy as np
import pytest
import torch

from models.moe.image import GRID, ImageSizes, image_branch, read_images
from models.moe.network import MoENetwork
from models.moe.settings import MoESettings

SMALL = MoESettings(width=32, heads=2, experts=4, expert_width=32, shared_width=32, dropout=0.1)


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return MoENetwork({"defect": image_branch(1, 3, ImageSizes(8, 16))}, SMALL).eval()


def images(count: int, side: int = 64, channels: int = 1) -> torch.Tensor:
    pixels = np.random.default_rng(1).integers(0, 256, (count, side, side, channels))
    return torch.from_numpy(pixels.astype(np.uint8))


def test_tokens_are_a_summary_and_a_grid(network):
    tokens, evidence = network.encoders[0].read(images(2))
    assert tokens.shape == (2, 1 + GRID * GRID, 32)
    assert evidence.shape == (2, 3, 8, 8)


def test_other_sizes_and_colours():
    colours = MoENetwork({"defect": image_branch(3, 3, ImageSizes(8, 16))}, SMALL).eval()
    logits, evidence, _ = read_images(colours, images(2, side=128, channels=3))
    assert (logits.shape, evidence.shape) == ((2, 3), (2, 3, 16, 16))


def test_evidence_comes_along_and_changes_no_logit(network):
    with torch.no_grad():
        logits, _, _ = read_images(network, images(5))
        torch.testing.assert_close(logits, network.logits(images(5)), rtol=0, atol=0)


def test_all_tokens_of_an_image_visit_the_same_experts(network):
    network.train()
    _, _, routings = read_images(network, images(6))
    network.eval()
    for routing in routings:
        assert int(routing.visits.sum()) in (6 * SMALL.chosen, 6 * SMALL.chosen * (1 + GRID * GRID))
    first = routings[0].visits
    assert all(int(each) % (int(first.sum()) // (6 * SMALL.chosen)) == 0 for each in first)  # whole images alone


def test_an_image_says_the_same_in_any_batch(network):
    with torch.no_grad():
        together = read_images(network, images(7))[0]
        for row in range(7):
            alone = read_images(network, images(7)[row : row + 1])[0]
            torch.testing.assert_close(alone[0], together[row], rtol=1e-5, atol=1e-5)


def test_sizes_above_zero():
    with pytest.raises(ValueError, match="stem is 0; choose a number above zero"):
        ImageSizes(stem=0)
