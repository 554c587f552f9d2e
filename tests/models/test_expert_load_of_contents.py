"""Messages and photographs are counted like events: each token or image that is served, and no padding."""

from pathlib import Path

import numpy as np
import pytest

import ops.demo
from models.bundle import Bundle, read_bundle
from models.defect_scorer import DefectScorer
from models.defects import CARD, DefectCard
from models.export_texts import export_texts
from models.moe.network import Branch, MoENetwork
from models.moe.settings import MoESettings
from models.moe.text import ClassHead, TextEncoder, TextSettings
from models.text.inputs import make_inputs
from models.text.pieces import Pieces
from models.text.runtime import OnnxText
from models.text.scorer import SupportScorer

DEMO = Path(ops.demo.__file__).parent
MESSAGES = ["my card has not come", "hi", "what is the exchange rate of the pound today, and what does it cost me?"]
SIZES = MoESettings(width=16, heads=2, experts=4, expert_width=16, shared_width=16, layers=2)
CHOSEN = 2  # experts that a token visits, in all networks here


@pytest.fixture(scope="module")
def desk() -> Bundle:
    return read_bundle(DEMO / "bundle_support")


@pytest.fixture(scope="module")
def steel() -> Bundle:
    return read_bundle(DEMO / "bundle_defect")


def photographs(card: DefectCard, count: int) -> np.ndarray:
    shape = (count, card.size, card.size, card.channels)
    return np.random.default_rng(3).integers(0, 256, shape).astype(np.uint8)


def test_each_piece_of_a_message_is_counted_and_no_padding():
    text = TextSettings(buckets=256, pieces=280, pieces_max=24)
    branch = Branch(lambda sizes: TextEncoder(text, sizes), lambda sizes: ClassHead((2,), 0.0, sizes))
    inputs = make_inputs(MESSAGES, Pieces.learned(MESSAGES, 280), 24, 256)
    network = OnnxText(export_texts(MoENetwork({"intents": branch}, SIZES), inputs).file)
    pieces = (inputs.pieces > 0).sum(axis=1)
    assert len(set(pieces.tolist())) == 3  # so that there is padding
    network.logits(inputs, counted=True)
    tokens = pieces.sum() + 3 * len(MESSAGES)  # a summary and two memory tokens before the pieces
    assert network.load.visits().sum(axis=1).tolist() == [CHOSEN * tokens, CHOSEN * len(MESSAGES)]


def test_a_message_visits_the_same_experts_whoever_is_beside_it(desk):
    together, alone = SupportScorer(desk), SupportScorer(desk)
    together.read(MESSAGES, 1)
    for text in MESSAGES:
        alone.read([text], 1)
    np.testing.assert_array_equal(together.load.visits(), alone.load.visits())


def test_messages_that_are_only_looked_at_are_not_counted(desk):
    scorer = SupportScorer(desk)
    scorer.probabilities(["what do these words say"])
    assert scorer.load.visits().sum() == 0


@pytest.mark.parametrize("count", [1, 3, 11])
def test_each_image_is_counted_once_and_no_padding(steel, count):
    card = DefectCard.from_json(steel.part(CARD))
    scorer = DefectScorer(steel, card.size, card.channels)
    assert scorer.load.visits().sum() == 0  # warming up is not serving
    scorer.score(photographs(card, count))
    assert scorer.load.visits().sum(axis=1).tolist() == [CHOSEN * count] * 2
    alone = DefectScorer(steel, card.size, card.channels)
    for image in photographs(card, count):
        alone.score(image[None])
    np.testing.assert_array_equal(scorer.load.visits(), alone.load.visits())
