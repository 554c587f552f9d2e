"""Training on event features: sampled epochs, a loss that undoes the sampling, a validation that lies later in time."""

import copy
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models.features import FeatureSpec
from models.moe.bins import learn_code, number_columns
from models.moe.network import Branch, event_branch
from models.train.dataset import Dataset, Sampling, prepare
from models.train.task_data import WHOLE, Batch, Curve, Packed, Predict, Share, Validation

CODE_ROWS_MAX = 200_000  # events, evenly spread, from which pieces of numbers are learned: quantiles need no more


class EventData:
    """A `TaskData` of feature rows with 0 or 1 as labels, in memory or mapped from a file.

    Args:
        features: (events, columns) float64, NaN is null.
        specs: (columns,) what each column is.
        labels: (events,) 0 or 1.
        times_ms: (events,) event times; any order.
        sampling: which of them train and which validate.
        weight: of the loss beside other tasks'.

    Attributes:
        taught: (events,) logits of a teacher, for a student; None for anybody else.

    Raises:
        ValueError: unusable arrays, see `models.train.dataset.prepare`.
    """

    figure = "average_precision"
    taught: NDArray[np.float64] | None = None

    def __init__(
        self,
        features: NDArray[np.float64],
        specs: Sequence[FeatureSpec],
        labels: NDArray[np.uint8],
        times_ms: NDArray[np.int64],
        sampling: Sampling,
        weight: float = 1.0,
    ) -> None:
        self._learn(prepare(features, specs, labels, times_ms, sampling), specs, sampling, weight)

    def _learn(self, data: Dataset, specs: Sequence[FeatureSpec], sampling: Sampling, weight: float) -> None:
        self.data, self.specs, self.sampling, self.weight = data, tuple(specs), sampling, weight
        self.per_step = sampling.batch * sampling.accumulate
        self.steps_per_epoch = -(-len(self.data.epoch_rows(sampling, 0)) // self.per_step)
        # logit of the sampled and weighted problem = logit + shift, see Sampling
        self.shift = math.log(sampling.positive_weight / self.data.kept_share(sampling))

    @classmethod
    def unpacked(cls, packed: Packed) -> Self:
        """Return what learns as the data that was packed; nobody validates with it."""
        arrays, told, none = packed.arrays, packed.told, np.zeros(0, np.int64)
        data = Dataset(
            arrays["features"], arrays["labels"], arrays["positives"], arrays["negatives"], none, none.astype(float),
            0, "",
        )  # fmt: skip
        made = cls.__new__(cls)
        specs = [FeatureSpec(**spec) for spec in told["specs"]]
        made._learn(data, specs, Sampling(**told["sampling"]), told["weight"])
        return made

    def packed(self) -> Packed:
        """Pack events, labels, and which of them are learned."""
        data, specs = self.data, [asdict(spec) for spec in self.specs]
        arrays: dict[str, NDArray[Any]] = {
            "features": data.features, "labels": data.labels, "positives": data.positives, "negatives": data.negatives,
        }  # fmt: skip
        return Packed("events", arrays, {"specs": specs, "sampling": asdict(self.sampling), "weight": self.weight})

    def identity(self) -> dict[str, Any]:
        """Tell data, columns and sampling."""
        data = self.data
        return {
            "data_sha256": data.digest,
            "columns": [asdict(spec) for spec in self.specs],
            "sampling": asdict(self.sampling) | {"weight": self.weight},
            "events": {
                "training_positives": len(data.positives),
                "training_negatives": len(data.negatives),
                "validation": len(data.validation),
                "validation_from_ms": data.split_ms,
            },
        }

    def branch(self, experts: Sequence[int] | None) -> Branch:
        """Return the encoder of features and the committee."""
        return event_branch(self.specs, experts)

    def attach(self, encoder: nn.Module) -> None:
        """Need nothing of it."""

    def start(self, encoder: nn.Module, head: nn.Module) -> None:
        """Learn the pieces of numbers, and begin at the base rate: the first steps then learn what differs."""
        data, rows = self.data, self.data.training_rows()
        rows = rows[:: -(-len(rows) // CODE_ROWS_MAX)]
        kinds = [spec.kind for spec in self.specs]
        inputs = number_columns(data.features[rows], data.labels[rows], encoder.plan, kinds)
        encoder.load_codes(learn_code(*inputs, bins=encoder.numbers.lower.shape[1]))
        with torch.no_grad():
            head.base.fill_(math.log(len(data.positives) / len(data.negatives)))

    def steps(self, epoch: int, first: int, share: Share = WHOLE) -> Iterator[Sequence[Batch]]:
        """Give all positives and a fresh sample of negatives, shuffled."""
        rows = self.data.epoch_rows(self.sampling, epoch)
        for begin in range(first * self.per_step, len(rows), self.per_step):
            end = min(begin + self.per_step, len(rows))
            whole = [rows[at : min(at + self.sampling.batch, end)] for at in range(begin, end, self.sampling.batch)]
            parts = [share.of(part) for part in whole]
            yield [self._batch(part) for part in parts]

    def _batch(self, rows: NDArray[np.int64]) -> Batch:
        taught = None if self.taught is None else self.taught[rows].astype(np.float32)
        return Batch(self.data.features[rows], self.data.labels[rows], len(rows), taught)

    def with_teacher(self, logits: NDArray[np.float64]) -> "EventData":
        """Return the same data, with a teacher's (events,) logits beside each event."""
        other = copy.copy(self)
        other.taught = logits
        return other

    def loss(self, output: Tensor, batch: Batch) -> Tensor:
        """Return the log loss of (n, m) members, each by itself."""
        target = batch.targets.float().unsqueeze(1).expand_as(output)  # (n, m)
        weight = torch.tensor(self.sampling.positive_weight, device=output.device)
        return nn.functional.binary_cross_entropy_with_logits(output.float() + self.shift, target, pos_weight=weight)

    def validate(self, predict: Predict) -> Validation:
        """Rank the newest events."""
        from sklearn.metrics import precision_recall_curve, roc_curve

        data = self.data
        logits = predict(data.features[data.validation]).astype(np.float64)
        labels, weights = data.labels[data.validation], data.validation_weights
        precision, recall, _ = precision_recall_curve(labels, logits, sample_weight=weights)
        false, true, _ = roc_curve(labels, logits, sample_weight=weights)
        curves = (
            Curve("precision and recall", "recall", "precision", recall, precision),
            Curve("ROC", "false positive rate", "true positive rate", false, true),
        )
        return Validation(ranking_figures(labels, logits, weights), curves)


def ranking_figures(
    labels: NDArray[np.uint8], logits: NDArray[np.float64], weights: NDArray[np.float64]
) -> dict[str, float]:
    """Compute average precision, AUC, log-loss and the mean probability beside the share of positives."""
    from sklearn.metrics import average_precision_score, roc_auc_score

    # log(1 + exp(x)) without overflow
    losses = np.logaddexp(0, logits) - labels * logits
    return {
        "average_precision": float(average_precision_score(labels, logits, sample_weight=weights)),
        "auc": float(roc_auc_score(labels, logits, sample_weight=weights)),
        "log_loss": float(np.average(losses, weights=weights)),
        "mean_probability": float(np.average(0.5 * (1 + np.tanh(logits / 2)), weights=weights)),
        "share_positive": float(np.average(labels, weights=weights)),
    }
