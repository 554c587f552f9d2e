"""Make an ONNX graph of a BERT in torch, and refuse to if it does not compute the same."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.onnx_export import ExportError, Form, plain_onnx
from models.runtimes import open_session
from models.sentences.brought import CONFIG, Brought
from models.sentences.card import EncoderError
from models.sentences.encoder import IDS, MASK
from models.train.bert import Bert, BertSettings, bert_of

LARGEST_DIFFERENCE = 1e-4  # of a number of a token between torch and ONNX Runtime, both in fp32: numbers are about 1
HIDDEN = "last_hidden_state"
FORM = Form(
    lambda network, ids, mask: (network(ids, mask),), {IDS: ["count", "tokens"], MASK: ["count", "tokens"]}, [HIDDEN],
    by_size=True,
)  # fmt: skip
_DECODER = msgspec.json.Decoder(BertSettings)


def network_of(brought: Brought, dropout: float = 0.0) -> Bert:
    """Return the network whose arrays a user brought.

    Raises:
        EncoderError: they are of no BERT, or not whole.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    assert brought.arrays is not None
    try:
        settings = _DECODER.decode(brought.config)
        arrays: Mapping[str, Tensor] = load(brought.arrays)
        return bert_of(settings, arrays, dropout)
    except (msgspec.ValidationError, ValueError, SafetensorError) as problem:
        raise EncoderError(
            f"the arrays of {brought.card.name} with its {CONFIG} are no BERT that can be read: {problem}; export it "
            "to model.onnx and bring that"
        ) from None


def export_bert(network: Bert) -> bytes:
    """Return the ONNX file: (n, t) token numbers and mask to (n, t, d).

    Raises:
        EncoderError: the graph computes something else than torch.
    """
    network = network.eval()
    ids = torch.arange(2 * 5).reshape(2, 5) % network.settings.vocab_size
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
    try:
        model = plain_onnx(network, FORM, [ids, mask], {})
    except ExportError as problem:
        raise EncoderError(str(problem)) from None
    onnx.checker.check_model(model)
    file: bytes = model.SerializeToString()
    _check(network, file)
    return file


def _check(network: Bert, file: bytes) -> None:
    session, _ = open_session(file, threads=1, gpu="never")
    chance = np.random.default_rng(0)
    places = network.settings.max_position_embeddings
    for count, tokens in ((1, 1), (1, min(9, places)), (3, min(24, places))):
        ids = chance.integers(0, network.settings.vocab_size, (count, tokens))
        mask: NDArray[np.int64] = (np.arange(tokens) < chance.integers(1, tokens + 1, (count, 1))).astype(np.int64)
        with torch.no_grad():
            wanted = network(torch.from_numpy(ids), torch.from_numpy(mask)).numpy()
        got = session.run([HIDDEN], {IDS: ids, MASK: mask})[0]
        real = mask > 0
        difference = float(np.abs(got[real] - wanted[real]).max())
        if not difference <= LARGEST_DIFFERENCE * max(1.0, float(np.abs(wanted[real]).max())):
            raise EncoderError(
                f"ONNX Runtime and torch differ by {difference:.2g} in {count} texts of {tokens} tokens; "
                "use the torch and onnxscript versions that the project pins"
            )
