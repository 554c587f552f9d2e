"""Raw feature columns to tokens, inside the graph: serving hands over the float64 matrix as it is.

Letters: n events, F columns, m numeric inputs, b bins, p waves, w = b + 2p + 2 numbers in the code of one input,
c numbers in a category's embedding, s steps of the sequence, S sequence tokens, t tokens in all, d width of a token.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from models.features import FeatureSpec
from models.moe.bins import LARGEST_Z, NumberCode
from models.moe.settings import MoESettings
from models.moe.tokens import TokenPlan, plan_tokens


class NumberEncoder(nn.Module):
    """Code each number as pieces, waves, a squashed value and a flag for null.

    With z = (value - shift) * scale and q = z / sqrt(1 + (z / 3)^2), the code of one number is
    [clip((z - lower_j) * slope_j, 0, 1) for j < b] + [sin(2 pi f_i q), cos(2 pi f_i q) for i < p] + [q, is null];
    of a null, everything but the flag is 0, so that the flag's weights are a learned embedding of "missing".
    While training, a share of the values is shown as null: every feature's "missing" is then trained, also where the
    data has none, which is what a feature that breaks later and explanations by leaving out rest on.

    Sources: pieces and waves: Gorishniy et al. 2022 (arXiv:2203.05556), sections 3.2 and 3.3;
    squashing: RealMLP, Holzmueller et al. 2024 (arXiv:2407.04491), section 3.
    """

    shift: Tensor
    scale: Tensor
    lower: Tensor
    slope: Tensor

    def __init__(self, m: int, bins: int, waves: int, dropout: float) -> None:
        super().__init__()
        self.register_buffer("shift", torch.zeros(m, dtype=torch.float64))
        self.register_buffer("scale", torch.ones(m, dtype=torch.float64))
        self.register_buffer("lower", torch.zeros(m, bins))
        self.register_buffer("slope", torch.zeros(m, bins))
        self.frequencies = nn.Parameter(torch.randn(m, waves) * 0.3)
        self.width = bins + 2 * waves + 2
        self.dropout = dropout

    def load_code(self, code: NumberCode) -> None:
        """Take over what was learned from training data."""
        for name in ("shift", "scale", "lower", "slope"):
            getattr(self, name).copy_(torch.from_numpy(getattr(code, name)))

    def forward(self, values: Tensor) -> Tensor:  # (..., m) float64
        """Code (..., m) numbers as (..., m, w)."""
        null = _hide(torch.isnan(values), self.dropout if self.training else 0.0)
        z = (torch.where(null, self.shift, values) - self.shift) * self.scale  # float64 keeps the digits
        z = z.clamp(-LARGEST_Z, LARGEST_Z).float()
        pieces = ((z.unsqueeze(-1) - self.lower) * self.slope).clamp(0, 1)  # (..., m, b)
        q = z * torch.rsqrt(1 + (z / 3).square())  # (..., m), within (-3, 3)
        angles = (self.frequencies * q.unsqueeze(-1)) * (2 * math.pi)  # (..., m, p)
        code = torch.cat([pieces, torch.sin(angles), torch.cos(angles), q.unsqueeze(-1)], dim=-1)  # (..., m, w - 1)
        flag = null.unsqueeze(-1)
        return torch.cat([torch.where(flag, 0.0, code), flag.float()], dim=-1)  # (..., m, w)


class CategoryEncoder(nn.Module):
    """Look up hashed categories, one table per input. Row 0 is null; rare values share rows.

    While training, a share of the values is shown as null: a category never seen before then finds a row that was
    trained for "I do not know it".
    """

    def __init__(self, inputs: int, buckets: int, width: int, dropout: float) -> None:
        super().__init__()
        self.buckets, self.width, self.dropout = buckets, width, dropout
        self.table = nn.Parameter(torch.randn(inputs * (buckets + 1), width) * 0.1)
        self.register_buffer("first_row", torch.arange(inputs) * (buckets + 1), persistent=False)

    def forward(self, hashes: Tensor) -> Tensor:  # (..., inputs) float64, exact integers
        """Look up (..., inputs) hashes; returns (..., inputs, c)."""
        absent = torch.isnan(hashes)
        bucket = torch.where(absent, 0.0, hashes).long() % self.buckets + 1
        null = _hide(absent, self.dropout if self.training else 0.0)
        rows = torch.where(null, 0, bucket) + self.first_row
        return nn.functional.embedding(rows, self.table)  # (..., inputs, c)


class Encoder(nn.Module):
    """Sum the columns of each group into one token, and neighbouring steps of the sequence into one token.

    Raises:
        ValueError: from the plan, if the columns cannot be made into tokens.
    """

    def __init__(self, specs: Sequence[FeatureSpec], settings: MoESettings) -> None:
        super().__init__()
        self.specs = tuple(specs)
        self.plan = plan = plan_tokens(specs, settings)
        d, c = settings.width, settings.category_width
        numbers = [[column for column in group if specs[column].kind == "number"] for group in plan.groups]
        categories = [[column for column in group if specs[column].kind == "category"] for group in plan.groups]
        self.number_counts = [len(columns) for columns in numbers]
        self.category_counts = [len(columns) for columns in categories]
        self.sequence_tokens = plan.sequence_tokens
        self._index("number_columns", [column for columns in numbers for column in columns])
        self._index("category_columns", [column for columns in categories for column in columns])
        self.numbers = NumberEncoder(sum(self.number_counts), settings.bins, settings.waves, settings.input_dropout)
        self.categories = CategoryEncoder(sum(self.category_counts), settings.buckets, c, settings.input_dropout)
        w = self.numbers.width
        self.to_tokens = nn.ModuleList(
            nn.Linear(m * w + k * c, d) for m, k in zip(self.number_counts, self.category_counts, strict=True)
        )
        self.summary = nn.Parameter(torch.randn(d) * 0.5)
        if plan.sequence_tokens:
            numbers, categories = (_steps(plan, kind, len(specs)) for kind in ("number", "category"))
            self._index("number_steps", numbers)
            self._index("category_steps", categories)
            self.step_numbers = NumberEncoder(len(numbers[0]), settings.bins, settings.waves, settings.input_dropout)
            self.step_categories = CategoryEncoder(len(categories[0]), settings.buckets, c, settings.input_dropout)
            self.to_sequence = nn.Linear(plan.steps_per_token * (len(numbers[0]) * w + len(categories[0]) * c), d)
            self.place = nn.Parameter(torch.randn(plan.sequence_tokens, d) * 0.1)

    def _index(self, name: str, columns: list) -> None:
        self.register_buffer(name, torch.tensor(columns, dtype=torch.long), persistent=False)

    def load_codes(self, code: NumberCode) -> None:
        """Spread what was learned, in the order of `bins.number_columns`, over the event's and sequence's inputs."""
        m = sum(self.number_counts)
        parts = [(self.numbers, slice(0, m))]
        if self.sequence_tokens:
            parts.append((self.step_numbers, slice(m, None)))
        for encoder, part in parts:
            encoder.load_code(NumberCode(code.shift[part], code.scale[part], code.lower[part], code.slope[part]))

    def forward(self, features: Tensor) -> tuple[Tensor, None]:  # (n, F) float64, NaN is null
        """Make (n, F) columns (n, t, d) tokens: the summary, the groups, the sequence. All are always present."""
        tokens = [self.summary.expand(features.shape[0], 1, -1), *self._event(features)]
        if self.sequence_tokens:
            tokens.append(self._sequence(features))
        return torch.cat(tokens, dim=1), None  # (n, t, d)

    def _event(self, features: Tensor) -> list[Tensor]:
        sources = []
        if len(self.number_columns):
            sources.append((self.numbers(features.index_select(1, self.number_columns)), self.number_counts))
        if len(self.category_columns):
            sources.append((self.categories(features.index_select(1, self.category_columns)), self.category_counts))
        inputs: list[list[Tensor]] = [[] for _ in self.to_tokens]
        for coded, counts in sources:
            first = 0
            for token, count in enumerate(counts):
                if count:
                    inputs[token].append(coded[:, first : first + count].flatten(1))
                    first += count
        return [
            layer(torch.cat(parts, dim=1) if len(parts) > 1 else parts[0]).unsqueeze(1)  # (n, 1, d)
            for layer, parts in zip(self.to_tokens, inputs, strict=True)
        ]

    def _sequence(self, features: Tensor) -> Tensor:
        features = nn.functional.pad(features, (0, 1), value=math.nan)  # the column of `nothing`, see _steps
        parts = []
        for encoder, columns in (
            (self.step_numbers, self.number_steps),
            (self.step_categories, self.category_steps),
        ):
            steps, inputs = columns.shape
            if inputs:
                values = features.index_select(1, columns.flatten()).reshape(-1, steps, inputs)
                parts.append(encoder(values).flatten(2))  # (n, s, inputs * w)
        coded = torch.cat(parts, dim=2) if len(parts) > 1 else parts[0]
        merged = coded.reshape(-1, self.sequence_tokens, self.to_sequence.in_features)
        return self.to_sequence(merged) + self.place  # (n, S, d)


def _hide(null: Tensor, share: float) -> Tensor:
    return null | (torch.rand(null.shape, device=null.device) < share) if share > 0 else null


def _steps(plan: TokenPlan, kind: str, nothing: int) -> list[list[int]]:
    """List the columns of each step, (steps, channels); `nothing` where no column tells of a step."""
    channels = [channel.columns for channel in plan.channels if channel.kind == kind]
    steps = plan.sequence_tokens * plan.steps_per_token
    padded = [[*columns, *[None] * (steps - len(columns))] for columns in channels]
    return [[nothing if (column := columns[k]) is None else column for columns in padded] for k in range(steps)]
