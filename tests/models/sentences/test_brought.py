"""An encoder is found where users have it, and what cannot be used is refused with what to do."""

import json
import shutil
import sys

import pytest

from models.bundle import sha256
from models.sentences.brought import find_encoder
from models.sentences.card import EncoderError
from tests.models.sentences.tiny_encoder import (
    TOKENS_MAX,
    WIDTH,
    write_array_encoder,
    write_graph_encoder,
    write_modules,
)  # fmt: skip

TEXTS = ["where is my card", "what is the exchange rate today"]


@pytest.fixture
def folder(tmp_path):
    return write_graph_encoder(tmp_path / "tiny", TEXTS)


def test_a_folder_with_a_graph_is_read_as_its_files_say(folder):
    found = find_encoder(str(folder))
    card = found.card
    assert (card.name, card.width, card.pooling, card.normalised) == ("tiny", WIDTH, "mean", True)
    assert card.tokens_max == TOKENS_MAX
    assert found.graph == (folder / "onnx/model.onnx").read_bytes()
    assert card.files == {name: sha256((folder / name).read_bytes()) for name in card.files}
    assert {"onnx/model.onnx", "tokenizer.json", "config.json", "modules.json", "1_Pooling/config.json"} <= set(
        card.files
    )


def test_a_graph_comes_before_arrays(tmp_path):
    folder = write_array_encoder(tmp_path / "tiny", TEXTS)
    assert find_encoder(str(folder)).arrays == (folder / "model.safetensors").read_bytes()
    (folder / "model.onnx").write_bytes(b"a graph")
    found = find_encoder(str(folder))
    assert (found.graph, found.arrays) == (b"a graph", None)


def test_a_package_is_found_by_its_name_and_none_of_its_code_is_run(folder, tmp_path, monkeypatch):
    site = tmp_path / "site"
    shutil.copytree(folder, site / "tiny_encoder/model")
    (site / "tiny_encoder/__init__.py").write_text("raise SystemExit('this was run')")
    files = [str(path.relative_to(site)) for path in (site / "tiny_encoder").rglob("*") if path.is_file()]
    info = site / "tiny_encoder-1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: tiny-encoder\nVersion: 1.2\n")
    (info / "RECORD").write_text("".join(f"{name},,\n" for name in files))
    monkeypatch.setattr(sys, "path", [str(site), *sys.path])
    found = find_encoder("tiny-encoder")
    assert (found.card.name, found.card.width) == ("tiny-encoder 1.2", WIDTH)
    assert "tiny_encoder" not in sys.modules


@pytest.mark.parametrize("name", ["no-such-encoder", "sentence-transformers/all-MiniLM-L6-v2"])
def test_what_is_not_there_is_not_downloaded(name):
    with pytest.raises(
        EncoderError, match=r"there is no folder .*nothing is ever downloaded while Pelton runs: give a f"
    ):
        find_encoder(name)


def test_a_package_without_an_encoder_says_so():
    with pytest.raises(EncoderError, match=r"the package msgspec has no tokenizer.json; give the encoder's folder"):
        find_encoder("msgspec")


def test_pickled_arrays_are_not_opened(folder):
    (folder / "onnx/model.onnx").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"pickled")
    with pytest.raises(
        EncoderError, match=r"neither model.onnx nor onnx/model.onnx nor model.safetensors \(what is in pyt"
    ):
        find_encoder(str(folder))


@pytest.mark.parametrize(
    ("missing", "said"),
    [("tokenizer.json", r"tiny has no tokenizer.json; save the encoder with its fast"),
     ("config.json", r"config.json does not say the hidden_size of the encoder; save it there")],
)  # fmt: skip
def test_a_file_that_is_missing_is_named(folder, missing, said):
    (folder / missing).unlink()
    with pytest.raises(EncoderError, match=said):
        find_encoder(str(folder))


def test_a_broken_file_is_named(folder):
    (folder / "modules.json").write_text('[{"type": ')
    with pytest.raises(EncoderError, match=r"modules.json is no JSON: .*; copy it again from its source"):
        find_encoder(str(folder))


def test_layers_and_poolings_that_are_not_computed_are_refused(folder):
    write_modules(folder, others=("Dense", "Normalize"))
    with pytest.raises(EncoderError, match=r"modules.json names a layer Dense, which is not computed here; export the"):
        find_encoder(str(folder))
    write_modules(folder, pooling="lasttoken")
    with pytest.raises(
        EncoderError, match=r"1_Pooling/config.json asks for pooling_mode_lasttoken; one of pooling_mode_m"
    ):
        find_encoder(str(folder))


def test_pooling_and_length_are_those_of_the_files(folder):
    write_modules(folder, pooling="cls_token", others=())
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 4096}))
    card = find_encoder(str(folder)).card
    assert (card.pooling, card.normalised, card.tokens_max) == ("cls", False, 64)  # of as many places as the graph has
    for name in ("modules.json", "sentence_bert_config.json"):
        (folder / name).unlink()
    card = find_encoder(str(folder)).card
    assert (card.pooling, card.normalised, card.tokens_max) == ("mean", True, 64)
