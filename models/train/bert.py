"""BERT in torch, of the arrays that a user brings: many sentence encoders come as these instead of as a graph.

    ids (n, t) --words, places, norm--> (n, t, d) --blocks: attention, two layers, each added and normed--> (n, t, d)

Letters: n texts, t tokens, d width, h heads. Source: Devlin et al. 2019 (arXiv:1810.04805); blocks: Vaswani et al. 2017
(arXiv:1706.03762), section 3, norms behind the sums.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import msgspec
import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, scaled_dot_product_attention


class BertSettings(msgspec.Struct, frozen=True):
    """What the `config.json` beside the arrays says, by its names."""

    model_type: str
    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    max_position_embeddings: int
    type_vocab_size: int = 2
    layer_norm_eps: float = 1e-12
    hidden_act: str = "gelu"
    position_embedding_type: str = "absolute"

    def __post_init__(self) -> None:
        """Refuse what `Bert` does not compute."""
        for name, wanted in (("model_type", "bert"), ("hidden_act", "gelu"), ("position_embedding_type", "absolute")):
            if getattr(self, name) != wanted:
                raise ValueError(f"{name} is {getattr(self, name)!r}, and arrays are read of {wanted!r} only")
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(f"hidden_size {self.hidden_size} is no multiple of {self.num_attention_heads} heads")


class Block(nn.Module):
    """Attention of each token to all, then two layers; dropout while training."""

    def __init__(self, settings: BertSettings, dropout: float) -> None:
        super().__init__()
        d, f = settings.hidden_size, settings.intermediate_size
        self.heads = settings.num_attention_heads
        self.query, self.key, self.value, self.mixed = (nn.Linear(d, d) for _ in range(4))
        self.attention_norm = nn.LayerNorm(d, settings.layer_norm_eps)
        self.up, self.down = nn.Linear(d, f), nn.Linear(f, d)
        self.norm = nn.LayerNorm(d, settings.layer_norm_eps)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, seen: Tensor) -> Tensor:  # (n, t, d), (n, 1, 1, t) 0 or -inf
        """Give (n, t, d)."""
        n, t, d = x.shape
        q, k, v = (
            each(x).view(n, t, self.heads, d // self.heads).transpose(1, 2)
            for each in (self.query, self.key, self.value)
        )  # (n, h, t, d / h)
        looked = scaled_dot_product_attention(q, k, v, seen, self.dropout.p if self.training else 0.0)
        x = self.attention_norm(x + self.dropout(self.mixed(looked.transpose(1, 2).reshape(n, t, d))))
        return self.norm(x + self.dropout(self.down(gelu(self.up(x)))))


class Bert(nn.Module):
    """Tokens to vectors."""

    def __init__(self, settings: BertSettings, dropout: float = 0.0) -> None:
        super().__init__()
        d = settings.hidden_size
        self.settings = settings
        self.words = nn.Embedding(settings.vocab_size, d)
        self.places = nn.Embedding(settings.max_position_embeddings, d)
        self.kinds = nn.Embedding(settings.type_vocab_size, d)  # all tokens are of the first kind: there is one text
        self.norm = nn.LayerNorm(d, settings.layer_norm_eps)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(Block(settings, dropout) for _ in range(settings.num_hidden_layers))

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:  # (n, t) whole numbers each; the mask is 0 at padding
        """Give (n, t, d); what stands at padding means nothing."""
        x = self.words(ids) + self.places.weight[: ids.shape[1]] + self.kinds.weight[0]
        x = self.dropout(self.norm(x))
        seen = (1.0 - mask.to(x.dtype))[:, None, None, :] * torch.finfo(x.dtype).min
        for block in self.blocks:
            x = block(x, seen)
        return x


_OURS = (
    (r"embeddings\.word_embeddings", "words"), (r"embeddings\.position_embeddings", "places"),
    (r"embeddings\.token_type_embeddings", "kinds"), (r"embeddings\.LayerNorm", "norm"),
    (r"encoder\.layer\.(\d+)\.attention\.self\.(query|key|value)", r"blocks.\1.\2"),
    (r"encoder\.layer\.(\d+)\.attention\.output\.dense", r"blocks.\1.mixed"),
    (r"encoder\.layer\.(\d+)\.attention\.output\.LayerNorm", r"blocks.\1.attention_norm"),
    (r"encoder\.layer\.(\d+)\.intermediate\.dense", r"blocks.\1.up"),
    (r"encoder\.layer\.(\d+)\.output\.dense", r"blocks.\1.down"),
    (r"encoder\.layer\.(\d+)\.output\.LayerNorm", r"blocks.\1.norm"),
)  # fmt: skip


def our_name(theirs: str) -> str | None:
    """Return the name here of an array of theirs; None for one that is not needed.

    >>> our_name("bert.encoder.layer.3.attention.self.query.weight"), our_name("pooler.dense.bias")
    ('blocks.3.query.weight', None)
    """
    name, _, kind = theirs.removeprefix("bert.").rpartition(".")
    for pattern, ours in _OURS:
        if kind in ("weight", "bias") and re.fullmatch(pattern, name):
            return f"{re.sub(pattern, ours, name)}.{kind}"
    return None


def bert_of(settings: BertSettings, arrays: Mapping[str, Tensor], dropout: float = 0.0) -> Bert:
    """Return the network with the arrays of a user's file, by the names there.

    Raises:
        ValueError: one is missing, or has another shape than the settings say.
    """
    network = Bert(settings, dropout)
    found = {ours: array for name, array in arrays.items() if (ours := our_name(name)) is not None}
    for name, wanted in network.state_dict().items():
        if name not in found:
            raise ValueError(f"there is no array for {name}; it is no whole BERT")
        if found[name].shape != wanted.shape:
            raise ValueError(
                f"{name} is {tuple(found[name].shape)} instead of {tuple(wanted.shape)}, as the config says"
            )
    network.load_state_dict({name: array.float() for name, array in found.items()})
    return network
