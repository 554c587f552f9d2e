"""A served network reads messages as it was trained to, also one that was trained before there were pairs of words."""

import json

import onnx
import pytest

from models.bundle import BundleMeta, write_bundle
from models.export_texts import export_texts
from models.moe.network import Branch, MoENetwork
from models.moe.settings import MoESettings
from models.moe.text import ClassHead, TextEncoder, TextSettings
from models.text.inputs import make_inputs
from models.text.pieces import Pieces
from models.text.runtime import TEXT, OnnxText
from models.text.scorer import SupportScorer, SupportSettings, support_parts

SIZES = MoESettings(width=16, heads=2, experts=4, expert_width=16, shared_width=16, layers=1)
MESSAGES = ["is my card lost or only late", "what is the exchange rate today"]
PIECES = Pieces.learned(MESSAGES, 280)


def exported(apart):
    text = TextSettings(buckets=256, pieces=280, pieces_max=8, pairs_apart=apart)
    branch = Branch(lambda sizes: TextEncoder(text, sizes), lambda sizes: ClassHead((2,), 0.0, sizes))
    network = MoENetwork({"intents": branch}, SIZES)
    return export_texts(network, make_inputs(MESSAGES, PIECES, 8, 256, apart)).file


def without_pairs_in_its_notes(model):
    made = onnx.load_from_string(model)
    for note in made.metadata_props:
        if note.key == TEXT:
            told = json.loads(note.value)
            del told["pairs_apart"]
            note.value = json.dumps(told)
    return made.SerializeToString()


@pytest.fixture(scope="module")
def model():
    return exported(3)


@pytest.mark.parametrize("apart", [3, 0])
def test_the_scorer_makes_the_pairs_that_the_network_was_trained_with(model, apart, tmp_path):
    model = model if apart else without_pairs_in_its_notes(model)
    served = OnnxText(model)
    assert served.pairs_apart == apart
    settings = SupportSettings(intents=("card", "rate"))
    bundle = write_bundle(tmp_path / "bundle", support_parts(settings, [], PIECES, model), BundleMeta("n", "t", 0))
    found, _ = SupportScorer(bundle).probabilities(MESSAGES)
    logits = {each: served.logits(make_inputs(MESSAGES, PIECES, 8, 256, each)) for each in (0, 3)}
    assert abs(logits[0] - logits[3]).max() > 1e-3  # pairs matter
    right = logits[apart]
    assert found[:, 0] == pytest.approx(1 / (1 + pow(2.718281828459045, right[:, 1] - right[:, 0])), abs=1e-6)
