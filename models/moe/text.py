"""Texts to tokens, and the head that tells intents and priorities.

A message is read twice. As a bag: its runs of words and of letters and its pairs of words, hashed to rows of a table,
are summed up in the summary token; frequent ones count less. As a sequence: byte-pair pieces, each of which first looks
at its neighbours and at a few memory tokens, then at everything, in the trunk. The bag knows which words go with which
intent after a few examples; the sequence knows their order. Where a sentence encoder was brought, its vector of the
message joins the bag: it knows what words mean that no example had.

Letters: n messages, g grams of a message, p pieces, m memory tokens, t = 1 + m + p tokens, d width, h heads, c classes,
s numbers in a sentence's vector.
Sources: bag: Joulin et al. 2016 (arXiv:1607.01759), section 2; letters within words: Bojanowski et al. 2016
(arXiv:1607.04606), section 3.2; window and memory: Longformer, Beltagy et al. 2020 (arXiv:2004.05150), section 3.1.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from models.moe.settings import MoESettings
from models.text.grams import PAIRS_APART


@dataclass(frozen=True)
class TextSettings:
    """Sizes of what reads texts.

    Attributes:
        buckets: rows of the table of grams.
        pairs_apart: words between those that are read as pairs, at most.
        pieces: how many byte-pair pieces there are, padding included.
        pieces_max: pieces of a message that are read.
        window: how many pieces to each side a piece looks at before the trunk.
        memory: memory tokens.
        bag_dropout: share of grams left out while training.
        piece_dropout: share of pieces shown as absent while training.
        dropout: share of numbers dropped before the head while training.
        sentence: numbers in a vector of the sentence encoder; 0 without one.
        sentence_dropout: share of them dropped while training.
    """

    buckets: int = 20_480
    pairs_apart: int = PAIRS_APART
    pieces: int = 2_048
    pieces_max: int = 96
    window: int = 4
    memory: int = 2
    bag_dropout: float = 0.3
    piece_dropout: float = 0.1
    dropout: float = 0.5
    sentence: int = 0
    sentence_dropout: float = 0.1


class Bag(nn.Module):
    """sum_i v_i E[g_i] with v = sqrt(d) w / |w|, w_i the weight of gram i: a row of TF-IDF times a table.

    sqrt(d) makes what comes out as large as what the trunk adds to it. While training, a share of the grams is left
    out, and the others count more.
    """

    weight: Tensor

    def __init__(self, buckets: int, width: int, dropout: float) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(buckets + 1, width) * width**-0.5)
        self.register_buffer("weight", torch.ones(buckets + 1))  # of each row, from how rare it is; row 0 is padding
        self.dropout = dropout

    def forward(self, grams: Tensor) -> Tensor:  # (n, g) rows, 0 is padding
        """Sum the rows of each message up; returns (n, d)."""
        w = nn.functional.embedding(grams, self.weight.unsqueeze(1)).squeeze(2) * (grams > 0)  # (n, g)
        v = w * torch.rsqrt(w.square().sum(1, keepdim=True) + 1e-6) * self.table.shape[1] ** 0.5
        if self.training and self.dropout:
            v = v * (torch.rand_like(v) >= self.dropout) / (1 - self.dropout)
            return nn.functional.embedding_bag(grams, self.table, per_sample_weights=v, mode="sum")
        return (v.unsqueeze(1) @ nn.functional.embedding(grams, self.table)).squeeze(1)  # (n, 1, g) (n, g, d)


class TextEncoder(nn.Module):
    """A message to tokens: the summary with the bags of words and of letters in it, the memory, the pieces."""

    def __init__(self, text: TextSettings, settings: MoESettings) -> None:
        super().__init__()
        d = settings.width
        self.text = text
        self.bag = Bag(text.buckets, d, text.bag_dropout)
        self.summary = nn.Parameter(torch.zeros(d))
        self.memory = nn.Parameter(torch.randn(text.memory, d) * 0.1)
        self.table = nn.Parameter(torch.randn(text.pieces, d) * 0.1)
        self.place = nn.Parameter(torch.randn(text.pieces_max, d) * 0.02)
        self.neighbours = Neighbours(d, settings.heads, text.window)
        self.sentence = Sentence(text.sentence, d, text.sentence_dropout) if text.sentence else None

    def forward(self, inputs: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:  # (n, g), (n, g), (n, p), and maybe (n, s)
        """Give (n, t, d) tokens and which of them (n, t) are present."""
        words, letters, pieces, *sentences = inputs
        bag = self.bag(words) + self.bag(letters) + self.summary  # (n, d)
        if self.sentence is not None:
            bag = bag + self.sentence(*sentences)
        present = pieces > 0
        if self.training and self.text.piece_dropout:
            present = present & (torch.rand(pieces.shape, device=pieces.device) >= self.text.piece_dropout)
        n, p = pieces.shape
        memory = self.memory.expand(n, -1, -1)  # (n, m, d)
        sequence = nn.functional.embedding(pieces, self.table) + self.place[:p]  # (n, p, d)
        sequence = sequence + self.neighbours(sequence, memory, present)
        always = torch.ones(n, 1 + self.text.memory, dtype=torch.bool, device=pieces.device)
        return torch.cat([bag.unsqueeze(1), memory, sequence], dim=1), torch.cat([always, present], dim=1)


class Sentence(nn.Module):
    """What a sentence encoder says of a message: its vector, each number on the scale of the messages learned from."""

    mean: Tensor
    spread: Tensor

    def __init__(self, sentence: int, width: int, dropout: float) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(sentence))
        self.register_buffer("spread", torch.ones(sentence))
        self.dropout = nn.Dropout(dropout)
        self.out = nn.Linear(sentence, width, bias=False)

    def forward(self, sentences: Tensor) -> Tensor:  # (n, s)
        """Give (n, d)."""
        return self.out(self.dropout((sentences - self.mean) / self.spread))


class Neighbours(nn.Module):
    """Attention of each piece to the pieces at most `window` away, and to the memory."""

    def __init__(self, width: int, heads: int, window: int) -> None:
        super().__init__()
        self.heads, self.window = heads, window
        self.query = nn.Linear(width, width, bias=False)
        self.key_value = nn.Linear(width, 2 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)

    def forward(self, sequence: Tensor, memory: Tensor, present: Tensor) -> Tensor:  # (n, p, d), (n, m, d), (n, p)
        """Give what each piece learns, (n, p, d)."""
        n, p, d = sequence.shape
        m = memory.shape[1]
        key, value = self.key_value(torch.cat([memory, sequence], dim=1)).chunk(2, dim=-1)
        q, k, v = (
            x.view(n, -1, self.heads, d // self.heads).transpose(1, 2) for x in (self.query(sequence), key, value)
        )
        at = torch.arange(p, device=sequence.device)
        near = (at.unsqueeze(1) - at).abs() <= self.window  # (p, p)
        seen = torch.cat([torch.ones(n, p, m, dtype=torch.bool, device=at.device), near & present.unsqueeze(1)], dim=2)
        match = (q @ k.transpose(2, 3) * (d // self.heads) ** -0.5).masked_fill(~seen.unsqueeze(1), -torch.inf)
        return self.out((match.softmax(dim=-1) @ v).transpose(1, 2).reshape(n, p, d))


class ClassHead(nn.Module):
    """Summary to logits of several questions side by side, for example 77 intents and 3 priorities."""

    def __init__(self, classes: tuple[int, ...], dropout: float, settings: MoESettings) -> None:
        super().__init__()
        d = settings.width
        self.classes = classes
        self.dropout = nn.Dropout(dropout)
        self.hidden = nn.Linear(d, d)
        self.out = nn.Linear(d, sum(classes))

    def forward(self, x: Tensor) -> Tensor:  # (n, d)
        """Give (n, sum of classes) logits."""
        x = self.dropout(nn.functional.gelu(x))
        return self.out(x + self.dropout(nn.functional.gelu(self.hidden(x))))

    def served(self, logits: Tensor) -> Tensor:
        """Give the logits as they are, in fp32."""
        return logits.float()
