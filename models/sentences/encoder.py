"""Run a sentence encoder: texts to vectors, with ONNX Runtime and the tokeniser that it came with.

Nothing is loaded from a network, and nothing is unpickled: a graph, a `tokenizer.json` and a card are all there is.

Sources: mean of the tokens: Reimers, Gurevych 2019 (arXiv:1908.10084), section 3.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.runtimes import Gpu, check_one_wheel, open_session
from models.sentences.card import EncoderError, EncoderParts

Float32s = NDArray[np.float32]
AT_ONCE = 16  # texts in one run: 512 tokens each take about 300 MB
IDS, MASK, KINDS = "input_ids", "attention_mask", "token_type_ids"
POOLED = "sentence_embedding"  # what graphs that pool by themselves call it
NEEDS = "a sentence encoder needs the package tokenizers; run: pip install 'pelton[encoder]'"


class SentenceEncoder:
    """Reads texts by themselves: which others are in a batch does not matter beyond rounding.

    One instance may be used by several threads at once.

    Attributes:
        card: how it is used.
        provider: what really computes: "cpu" or "cuda".

    Raises:
        EncoderError: graph, tokeniser and card do not belong together, or tokenizers is not installed.
        RuntimeRefusedError: the graph cannot be run here, or a GPU is required and none can be used.
    """

    def __init__(self, parts: EncoderParts, threads: int = 1, gpu: Gpu = "never") -> None:
        check_one_wheel()
        self.card = parts.card
        self._tokenizer = _tokenizer(parts)
        self._session, self.provider = open_session(parts.model, threads, gpu)
        given = {each.name: each.type for each in self._session.get_inputs()}
        if IDS not in given or given.keys() - {IDS, MASK, KINDS}:
            raise EncoderError(
                f"the graph of {self.card.name} takes {', '.join(sorted(given))}; it has to take {IDS}, and may take "
                f"{MASK} and {KINDS}: export its encoder alone"
            )
        self._types = {name: np.int32 if "int32" in type else np.int64 for name, type in given.items()}
        self._output, self._is_pooled = self._told(self._session.get_outputs())
        self.embed(["warm up"])

    def embed(self, texts: Sequence[str]) -> Float32s:
        """Return (texts, width) vectors; of what is behind the first `tokens_max` tokens nothing is read.

        Raises:
            EncoderError: a vector is not finite.
        """
        cut = [self._tokenizer.encode(text).ids for text in texts]
        vectors = np.zeros((len(texts), self.card.width), np.float32)
        order = np.argsort([len(ids) for ids in cut], kind="stable")  # so that little is padding
        for first in range(0, len(order), AT_ONCE):
            rows = order[first : first + AT_ONCE]
            vectors[rows] = self._run([cut[row] for row in rows])
        return vectors

    def _run(self, cut: list[list[int]]) -> Float32s:
        ids = np.zeros((len(cut), max(max(map(len, cut)), 1)), np.int64)
        mask = np.zeros_like(ids)
        for row, each in enumerate(cut):
            ids[row, : len(each)], mask[row, : len(each)] = each, 1
        values = {IDS: ids, MASK: mask, KINDS: np.zeros_like(ids)}
        given = {name: values[name].astype(type) for name, type in self._types.items()}
        found = np.asarray(self._session.run([self._output], given)[0], np.float32)
        vectors = found if self._is_pooled else pooled(found, mask, self.card.pooling)
        if self.card.normalised:
            vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        if vectors.shape[1] != self.card.width:
            raise EncoderError(
                f"the graph of {self.card.name} gives {vectors.shape[1]} numbers, and {self.card.width} were expected; "
                "its files do not belong together"
            )
        if not np.isfinite(vectors).all():
            raise EncoderError(f"{self.card.name} made a vector that is not finite; its weights are broken")
        return vectors

    def _told(self, outputs: Sequence[Any]) -> tuple[str, bool]:
        names = {each.name: len(each.shape) for each in outputs}
        if names.get(POOLED) == 2:
            return POOLED, True
        for name, axes in names.items():
            if axes == 3:
                return name, False
        raise EncoderError(
            f"the graph of {self.card.name} gives {', '.join(names)}, none of them a vector for each token; "
            "export it with its last hidden state"
        )


def pooled(tokens: Float32s, mask: NDArray[np.int64], pooling: str) -> Float32s:
    """Return (n, d) vectors of texts from (n, t, d) vectors of their tokens; (n, t) `mask` tells the real ones.

    >>> tokens = np.array([[[1.0, 4], [3, 0], [99, 99]]], np.float32)
    >>> [pooled(tokens, np.array([[1, 1, 0]]), how).tolist() for how in ("mean", "max", "cls")]
    [[[2.0, 2.0]], [[3.0, 4.0]], [[1.0, 4.0]]]
    """
    real = (mask > 0)[:, :, None]
    if pooling == "cls":
        return np.asarray(tokens[:, 0], np.float32)
    if pooling == "max":
        return np.asarray(np.where(real, tokens, -np.inf).max(axis=1), np.float32)
    return np.asarray((tokens * real).sum(axis=1) / np.maximum(real.sum(axis=1), 1), np.float32)


def _tokenizer(parts: EncoderParts) -> Any:
    try:
        from tokenizers import Tokenizer
    except ImportError:
        raise EncoderError(NEEDS) from None
    try:
        tokenizer = Tokenizer.from_str(parts.tokenizer.decode())
    except Exception as problem:  # what tokenizers raises is no class of its own
        raise EncoderError(f"the tokenizer.json of {parts.card.name} cannot be read: {problem}") from None
    tokenizer.enable_truncation(parts.card.tokens_max)
    tokenizer.no_padding()
    return tokenizer
