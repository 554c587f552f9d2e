"""BERT computes what its paper says, in torch and as the graph that is made of it."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from models.export_sentences import network_of
from models.sentences.brought import find_encoder
from models.sentences.card import EncoderError
from models.sentences.encoder import SentenceEncoder
from models.train.bert import BertSettings, bert_of
from ops.training.encoders import brought_encoder
from tests.models.sentences.tiny_encoder import BERT, bert_arrays, write_array_encoder

SETTINGS = BERT | {"vocab_size": 30}
TEXTS = ["where is my card", "what is the exchange rate today", "card"]


def by_hand(arrays, ids):
    """Compute one text without padding, token by token: the slow way."""
    arrays = {name: array.double().numpy() for name, array in arrays.items()}

    def linear(name, x):
        return x @ arrays[f"{name}.weight"].T + arrays[f"{name}.bias"]

    def norm(name, x):
        centred = x - x.mean(axis=1, keepdims=True)
        scaled = centred / np.sqrt(centred.var(axis=1, keepdims=True) + 1e-12)
        return scaled * arrays[f"{name}.LayerNorm.weight"] + arrays[f"{name}.LayerNorm.bias"]

    def gelu(x):
        return x * 0.5 * (1 + np.vectorize(lambda value: float(torch.erf(torch.tensor(value))))(x / np.sqrt(2.0)))

    x = arrays["embeddings.word_embeddings.weight"][ids] + arrays["embeddings.position_embeddings.weight"][: len(ids)]
    x = norm("embeddings", x + arrays["embeddings.token_type_embeddings.weight"][0])
    d, heads = SETTINGS["hidden_size"], SETTINGS["num_attention_heads"]
    for layer in range(SETTINGS["num_hidden_layers"]):
        at = f"encoder.layer.{layer}"
        q, k, v = (linear(f"{at}.attention.self.{name}", x) for name in ("query", "key", "value"))
        seen = np.zeros_like(x)
        for head in range(heads):
            own = slice(head * d // heads, (head + 1) * d // heads)
            match = np.exp(q[:, own] @ k[:, own].T / np.sqrt(d // heads))
            seen[:, own] = match / match.sum(axis=1, keepdims=True) @ v[:, own]
        x = norm(f"{at}.attention.output", x + linear(f"{at}.attention.output.dense", seen))
        x = norm(f"{at}.output", x + linear(f"{at}.output.dense", gelu(linear(f"{at}.intermediate.dense", x))))
    return x


def network(arrays):
    return bert_of(BertSettings(**SETTINGS), arrays).eval()


@torch.no_grad()
def test_it_computes_what_is_computed_by_hand():
    arrays = bert_arrays(SETTINGS)
    ids = torch.tensor([[4, 7, 7, 29, 0], [5, 1, 0, 0, 0]])
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]])
    found = network(arrays)(ids, mask).numpy()
    np.testing.assert_allclose(found[0], by_hand(arrays, [4, 7, 7, 29, 0]), atol=1e-4)
    np.testing.assert_allclose(found[1, :2], by_hand(arrays, [5, 1]), atol=1e-4)


@torch.no_grad()
def test_names_may_say_that_they_are_of_bert():
    arrays = bert_arrays(SETTINGS)
    ids = torch.tensor([[4, 7]])
    prefixed = network({f"bert.{name}": array for name, array in arrays.items()})
    assert torch.equal(prefixed(ids, torch.ones_like(ids)), network(arrays)(ids, torch.ones_like(ids)))


@torch.no_grad()
def test_its_graph_gives_the_same_vectors(tmp_path):
    folder = write_array_encoder(tmp_path / "tiny", TEXTS)
    encoder = SentenceEncoder(brought_encoder(str(folder)))
    found, whole = find_encoder(str(folder)), network_of(find_encoder(str(folder))).eval()
    for text, vector in zip(TEXTS, encoder.embed(TEXTS), strict=True):
        ids = torch.tensor([encoder._tokenizer.encode(text).ids])
        hidden = whole(ids, torch.ones_like(ids))[0].numpy()
        np.testing.assert_allclose(vector, hidden.mean(0) / np.linalg.norm(hidden.mean(0)), atol=1e-5)
    assert found.card.width == encoder.card.width == 16


def test_arrays_that_are_not_whole_are_refused(tmp_path):
    folder = write_array_encoder(tmp_path / "tiny", TEXTS)
    arrays = load_file(folder / "model.safetensors")
    save_file({name: array for name, array in arrays.items() if "layer.1.output.dense" not in name},
              folder / "model.safetensors")  # fmt: skip
    with pytest.raises(
        EncoderError, match=r"are no BERT that can be read: there is no array for blocks.1.down.weight; it"
    ):
        brought_encoder(str(folder))
    (folder / "model.safetensors").write_bytes(b"broken")
    with pytest.raises(EncoderError, match=r"the arrays of tiny with its config.json are no BERT that can be read"):
        brought_encoder(str(folder))


@pytest.mark.parametrize(
    ("change", "said"),
    [({"model_type": "mpnet"}, r"model_type is 'mpnet', and arrays are read of 'bert' only; export it"),
     ({"hidden_act": "gelu_new"}, r"hidden_act is 'gelu_new'"), ({"hidden_size": 18}, r"instead of \(\d+, 18\)")],
)  # fmt: skip
def test_another_network_than_bert_has_to_come_as_a_graph(tmp_path, change, said):
    folder = write_array_encoder(tmp_path / "tiny", TEXTS)
    config = json.loads((folder / "config.json").read_text()) | change
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(EncoderError, match=said):
        brought_encoder(str(folder))
