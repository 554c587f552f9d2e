"""Small dense networks that a mixture of experts teaches: what serves where there is no time for it.

Each reads what the large one reads and gives logits of the same form, without attention and without experts.
Letters: n examples, F columns, h hidden numbers, m numeric columns, w numbers in the code of one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models.features import FeatureSpec
from models.moe.bins import learn_code
from models.moe.encoder import CategoryEncoder, NumberEncoder

CODE_ROWS_MAX = 200_000  # events, evenly spread, from which pieces of numbers are learned: quantiles need no more


@dataclass(frozen=True)
class EventSizes:
    """Sizes of a student of event features.

    Attributes:
        hidden: h.
        bins, waves: of the code of a number, see `models.moe.encoder`.
        buckets: rows of the table of a category column.
        category_width: numbers in the embedding of a category.
        input_dropout: share of feature values shown as null while training.
    """

    hidden: int = 96
    bins: int = 16
    waves: int = 2
    buckets: int = 512
    category_width: int = 4
    input_dropout: float = 0.02


class EventStudent(nn.Module):
    """Columns of an event, those of the key's earlier events among them, to a logit: codes, two hidden layers, a sum.

    Args:
        specs: (F,) what each column is.
        sizes: how large.
    """

    def __init__(self, specs: Sequence[FeatureSpec], sizes: EventSizes | None = None) -> None:
        super().__init__()
        self.specs, self.settings = tuple(specs), sizes or EventSizes()
        h, drop, sizes = self.settings.hidden, self.settings.input_dropout, self.settings
        numbers = [column for column, spec in enumerate(specs) if spec.kind == "number"]
        categories = [column for column, spec in enumerate(specs) if spec.kind == "category"]
        self.register_buffer("number_columns", torch.tensor(numbers, dtype=torch.long), persistent=False)
        self.register_buffer("category_columns", torch.tensor(categories, dtype=torch.long), persistent=False)
        self.numbers = NumberEncoder(len(numbers), sizes.bins, sizes.waves, drop)
        self.categories = CategoryEncoder(len(categories), sizes.buckets, sizes.category_width, drop)
        self.first = nn.Linear(len(numbers) * self.numbers.width + len(categories) * sizes.category_width, h)
        self.second = nn.Linear(h, h)
        self.out = nn.Linear(h, 1)

    @torch.no_grad()
    def start(self, features: NDArray[np.float64], labels: NDArray[np.uint8]) -> None:
        """Learn the pieces of numbers from (n, F) features and (n,) labels, and begin at the base rate."""
        rows = slice(None, None, -(-len(features) // CODE_ROWS_MAX))
        columns = [features[rows, column] for column in self.number_columns.tolist()]
        self.numbers.load_code(learn_code(columns, [labels[rows]] * len(columns), bins=self.settings.bins))
        self.out.weight.zero_()
        self.out.bias.fill_(float(np.log(labels.sum() / (len(labels) - labels.sum()))))

    def forward(self, features: Tensor) -> Tensor:  # (n, F) float64, NaN is null
        """Give (n, 1) logits: a committee of one."""
        parts = []
        if len(self.number_columns):
            parts.append(self.numbers(features.index_select(1, self.number_columns)).flatten(1))  # (n, m * w)
        if len(self.category_columns):
            parts.append(self.categories(features.index_select(1, self.category_columns)).flatten(1))
        coded = torch.cat(parts, dim=1) if len(parts) > 1 else parts[0]
        hidden = torch.tanh(self.first(coded))  # (n, h); bounded, so is what rounding can do
        return self.out(hidden + torch.tanh(self.second(hidden)))

    def served(self, logits: Tensor) -> Tensor:
        """Give (n,) logits of (n, 1)."""
        return logits.float().squeeze(1)

    def logits(self, features: Tensor) -> Tensor:
        """Give what is served of (n, F) features: (n,) logits."""
        return self.served(self(features))
