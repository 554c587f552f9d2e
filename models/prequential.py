"""Quality on a live stream: each event was scored before its label was known, and labels come late."""

import numpy as np
from numpy.typing import NDArray

from models.metrics import MetricError, average_precision, calibration_error, log_loss, roc_auc

Float64s = NDArray[np.float64]


class Prequential:
    """Metrics over the newest labelled events, in the order in which their labels came.

    Fading is by rank: the newest counts 1, one `half_life` older counts a half (AUC only).

    When it does not work: positives whose labels come much later than negatives' make the window look clean.

    Source: Gama, Sebastião, Rodrigues, "On evaluating stream learning algorithms", Machine Learning 90, 2013.
    """

    def __init__(self, window: int = 10_000, half_life: float | None = None) -> None:
        """Look at the `window` newest labelled events; without `half_life` all count the same."""
        if window < 1:
            raise MetricError(f"window is {window}; give the number of labelled events to look at, 1 or more")
        if half_life is not None and not half_life > 0:
            raise MetricError(f"half_life is {half_life}; give labelled events, above zero")
        self.window = window
        self.half_life = half_life
        self.seen = 0
        self._scores = np.empty(window)
        self._labels = np.empty(window)

    def update(self, scores: Float64s, labels: NDArray[np.generic]) -> None:
        """Add (n,) scores as they were served and (n,) labels 0 or 1, in the order the labels came; NaN is left out."""
        scores, known = np.asarray(scores, np.float64), np.asarray(labels, np.float64)
        if scores.shape != known.shape or scores.ndim != 1:
            raise MetricError(f"scores have shape {scores.shape}, labels {known.shape}; give one label per score")
        kept = np.isfinite(scores) & np.isfinite(known)
        scores, known = scores[kept], known[kept]
        start = self.seen + max(0, scores.size - self.window)
        at = np.arange(start, self.seen + scores.size) % self.window
        self._scores[at] = scores[-self.window :]
        self._labels[at] = known[-self.window :]
        self.seen += scores.size

    def auc(self) -> float:
        """Return the chance that a positive of the window scored above a negative; NaN until both were seen."""
        scores, labels = self._ordered()
        weights = None
        if self.half_life is not None:
            weights = 0.5 ** (np.arange(scores.size - 1, -1, -1.0) / self.half_life)
        return roc_auc(scores, labels, weights)

    def report(self) -> dict[str, float]:
        """Return every metric of the window by name, with the number of labels and of positives in it."""
        scores, labels = self._ordered()
        return {
            "labels": float(labels.size),
            "positives": float(labels.sum()),
            "auc": self.auc(),
            "average_precision": average_precision(scores, labels),
            "log_loss": log_loss(scores, labels),
            "calibration_error": calibration_error(scores, labels),
        }

    def _ordered(self) -> tuple[Float64s, Float64s]:
        size = min(self.seen, self.window)
        at = np.arange(self.seen - size, self.seen) % self.window
        return self._scores[at], self._labels[at]
