"""Sentence encoders as users bring them, small: a table of words as a graph, and a BERT of two layers as arrays."""

import json

import numpy as np
import torch
from onnx import TensorProto, helper, numpy_helper
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

WIDTH, TOKENS_MAX = 24, 12
BERT = {
    "model_type": "bert", "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32,
    "max_position_embeddings": 20, "type_vocab_size": 2,
}  # fmt: skip


def write_tokenizer(folder, texts, vocabulary=600):
    """Learn WordPiece on texts, as BERT cuts them; return how many pieces there are."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    tokenizer.train_from_iterator(
        sorted(texts), trainers.WordPieceTrainer(vocab_size=vocabulary, special_tokens=special, show_progress=False)
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.enable_padding(length=128)  # as many come: what stands in the file does not matter
    tokenizer.save(str(folder / "tokenizer.json"))
    return tokenizer.get_vocab_size()


def write_modules(folder, pooling="mean_tokens", others=("Normalize",)):
    """Write what sentence-transformers writes beside the model."""
    kinds = ["Transformer", "Pooling", *others]
    modules = [{"path": "1_Pooling" if kind == "Pooling" else "", "type": f"sentence_transformers.models.{kind}"}
               for kind in kinds]  # fmt: skip
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir(exist_ok=True)
    modes = {
        f"pooling_mode_{each}": each == pooling for each in ("mean_tokens", "cls_token", "max_tokens", "lasttoken")
    }
    (folder / "1_Pooling/config.json").write_text(json.dumps({"word_embedding_dimension": WIDTH, **modes}))
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": TOKENS_MAX}))


def table_graph(rows, width=WIDTH, output="last_hidden_state"):
    """Return an ONNX file that looks each token up in a table of chance."""
    table = np.random.default_rng(0).normal(0, 1, (rows, width)).astype(np.float32)
    ids, mask = (helper.make_tensor_value_info(name, TensorProto.INT64, ["n", "t"]) for name in
                 ("input_ids", "attention_mask"))  # fmt: skip
    hidden = helper.make_tensor_value_info(output, TensorProto.FLOAT, ["n", "t", width])
    node = helper.make_node("Gather", ["table", "input_ids"], [output])
    graph = helper.make_graph([node], "table", [ids, mask], [hidden], [numpy_helper.from_array(table, "table")])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10).SerializeToString()


def write_graph_encoder(folder, texts):
    """Write a folder with `onnx/model.onnx`."""
    (folder / "onnx").mkdir(parents=True)
    rows = write_tokenizer(folder, texts)
    (folder / "onnx/model.onnx").write_bytes(table_graph(rows))
    (folder / "config.json").write_text(json.dumps({"hidden_size": WIDTH, "max_position_embeddings": 64}))
    write_modules(folder)
    return folder


def bert_arrays(settings, seed=0):
    """Return the arrays of a BERT of chance, by the names that such files have."""
    chance = torch.Generator().manual_seed(seed)
    d, f = settings["hidden_size"], settings["intermediate_size"]

    def array(*shape):
        return torch.randn(*shape, generator=chance) * 0.3

    def linear(name, inputs, outputs):
        return {f"{name}.weight": array(outputs, inputs), f"{name}.bias": array(outputs)}

    def norm(name):
        return {f"{name}.LayerNorm.weight": 1 + array(d), f"{name}.LayerNorm.bias": array(d)}

    found = {
        "embeddings.word_embeddings.weight": array(settings["vocab_size"], d),
        "embeddings.position_embeddings.weight": array(settings["max_position_embeddings"], d),
        "embeddings.token_type_embeddings.weight": array(settings["type_vocab_size"], d),
        "embeddings.position_ids": torch.arange(settings["max_position_embeddings"])[None],
    } | norm("embeddings")
    for layer in range(settings["num_hidden_layers"]):
        at = f"encoder.layer.{layer}"
        for name in ("query", "key", "value"):
            found |= linear(f"{at}.attention.self.{name}", d, d)
        found |= linear(f"{at}.attention.output.dense", d, d) | norm(f"{at}.attention.output")
        found |= linear(f"{at}.intermediate.dense", d, f) | linear(f"{at}.output.dense", f, d) | norm(f"{at}.output")
    return found


def write_array_encoder(folder, texts):
    """Write a folder with `model.safetensors`."""
    folder.mkdir(parents=True)
    settings = BERT | {"vocab_size": write_tokenizer(folder, texts)}
    save_file(bert_arrays(settings), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(settings))
    write_modules(folder)
    return folder
