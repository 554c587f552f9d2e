"""From logits to a probability: a logistic blend of several models' logits, or an isotonic curve.

Both rise with each logit, live in JSON, and need numpy alone.
"""

from itertools import combinations
from typing import TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

Float64s = NDArray[np.float64]
_T = TypeVar("_T")

LOGIT_MAX = 30.0  # beyond it a probability is 0 or 1 to 13 digits
ROUNDS_MAX = 50
RIDGE = 1e-3  # in squared slopes: only data that one model separates perfectly feels it


class CalibrationError(ValueError):
    """A calibration was given something it cannot use; the message says what to do."""


class Line(msgspec.Struct, frozen=True):
    """A probability's logit as intercept + slopes · logits; no slope is below zero."""

    intercept: float
    slopes: tuple[float, ...]


class Blend(msgspec.Struct, frozen=True):
    """Logistic stacking of models' logits; with one model it is Platt scaling.

    There is one line for each set of models that may have answered ("moe+ftrl", "moe", "ftrl"), fitted on its
    own, so that an event whose MoE did not run is calibrated as well.

    Source: Wolpert, "Stacked generalization", 1992; Platt 1999; the fit is Newton's method (IRLS).
    """

    names: tuple[str, ...]
    lines: dict[str, Line]

    @classmethod
    def fit(cls, names: tuple[str, ...], logits: Float64s, labels: NDArray[np.generic]) -> "Blend":
        """Fit every set of models to held-back labels.

        Args:
            names: m model names, for example ("moe", "ftrl").
            logits: (n, m), NaN where a model did not answer; a set uses the rows in which all of it answered.
            labels: (n,) 0 or 1.

        Raises:
            CalibrationError: shapes differ, or a set has rows of only one class.
        """
        logits, known = np.asarray(logits, np.float64), np.asarray(labels, np.float64)
        if logits.ndim != 2 or logits.shape != (known.size, len(names)):
            raise CalibrationError(f"logits has shape {logits.shape}; expected ({known.size}, {len(names)})")
        lines = {}
        for count in range(len(names), 0, -1):
            for models in combinations(range(len(names)), count):
                chosen = logits[:, models]
                rows = np.isfinite(chosen).all(axis=1) & np.isfinite(known)
                lines["+".join(names[m] for m in models)] = _fit_line(chosen[rows], known[rows])
        return cls(tuple(names), lines)

    def matched(self, name: str, before: Float64s, after: Float64s) -> "Blend":
        """Return a blend that says of new logits of a model what this one said of the old ones.

        Where a model is replaced by nearly the same one, this carries its calibration over: it needs no labels, and is
        not led astray by rows that some model has learned.

        Args:
            name: of the model that is replaced; sets of models without it keep their line.
            before: (n, m) logits as this blend knows them, finite.
            after: (n, m) logits as they will be, finite, of the same rows.
        """
        lines = dict(self.lines)
        for key, line in self.lines.items():
            members = key.split("+")
            if name in members:
                columns = [self.names.index(each) for each in members]
                lines[key] = _fit_line(after[:, columns], sigmoid(_apply(line, before[:, columns])))
        return Blend(self.names, lines)

    def logit(self, logits: Float64s) -> Float64s:
        """Return the calibrated (n,) logits of (n, m) logits; NaN where no model answered."""
        logits = np.asarray(logits, np.float64)
        if logits.ndim != 2 or logits.shape[1] != len(self.names):
            raise CalibrationError(f"logits has shape {logits.shape}; the blend knows {len(self.names)} models")
        answered = np.isfinite(logits)
        everybody = self.lines.get("+".join(self.names))
        if everybody is not None and answered.all():  # as nearly always
            return _apply(everybody, logits)
        result = np.full(len(logits), np.nan)
        for name, line in self.lines.items():
            members = [self.names.index(part) for part in name.split("+")]
            pattern = np.isin(np.arange(len(self.names)), members)
            rows = (answered == pattern).all(axis=1)
            if rows.any():
                result[rows] = _apply(line, logits[np.ix_(rows, members)])
        return result

    def probability(self, logits: Float64s) -> Float64s:
        """Return the calibrated (n,) probabilities of (n, m) logits; NaN where no model answered."""
        return sigmoid(self.logit(logits))

    def to_json(self) -> bytes:
        """Return the blend as JSON, exact."""
        return msgspec.json.encode(self)

    @classmethod
    def from_json(cls, data: bytes) -> "Blend":
        """Return the blend that `to_json` wrote."""
        return _decoded(data, cls)


class Isotonic(msgspec.Struct, frozen=True):
    """A rising curve through knots: flat beyond its ends, straight between.

    Needs some 1,000 labels of the rarer class or more; makes ties, so it costs a little AUC.

    Source: pool adjacent violators (Zadrozny, Elkan, KDD 2002).
    """

    scores: tuple[float, ...]
    probabilities: tuple[float, ...]

    @classmethod
    def fit(cls, scores: Float64s, labels: NDArray[np.generic]) -> "Isotonic":
        """Fit (n,) finite scores to (n,) labels 0 or 1, n above zero."""
        scores, known = np.asarray(scores, np.float64), np.asarray(labels, np.float64)
        if scores.ndim != 1 or scores.shape != known.shape or not scores.size or not np.isfinite(scores).all():
            raise CalibrationError(
                f"scores have shape {scores.shape}, labels {known.shape}; give one label per finite score, at least one"
            )
        distinct, group = np.unique(scores, return_inverse=True)
        events = np.bincount(group).astype(float)
        means = np.bincount(group, known) / events
        blocks: list[tuple[float, float, int]] = []  # mean, events, first distinct score
        for i in range(distinct.size):
            mean, weight, first = float(means[i]), float(events[i]), i
            while blocks and blocks[-1][0] >= mean:
                before, its_events, first = blocks.pop()
                mean = (before * its_events + mean * weight) / (its_events + weight)
                weight += its_events
            blocks.append((mean, weight, first))
        firsts = [block[2] for block in blocks]
        lasts = [*(first - 1 for first in firsts[1:]), distinct.size - 1]
        knots = [
            (float(distinct[end]), mean)
            for (mean, _, first), last in zip(blocks, lasts, strict=True)
            for end in ((first, last) if last > first else (first,))
        ]
        return cls(tuple(knot[0] for knot in knots), tuple(knot[1] for knot in knots))

    def probability(self, scores: Float64s) -> Float64s:
        """Return the (n,) probabilities of (n,) scores; NaN stays NaN."""
        return np.interp(scores, self.scores, self.probabilities)

    def to_json(self) -> bytes:
        """Return the curve as JSON, exact."""
        return msgspec.json.encode(self)

    @classmethod
    def from_json(cls, data: bytes) -> "Isotonic":
        """Return the curve that `to_json` wrote."""
        return _decoded(data, cls)


def sigmoid(logits: Float64s) -> Float64s:
    """Return 1 / (1 + exp(-logit)) for each, without overflow; NaN stays NaN."""
    result: Float64s = 1.0 / (1.0 + np.exp(-np.clip(logits, -700.0, 700.0)))
    return result


def _apply(line: Line, logits: Float64s) -> Float64s:
    total = np.full(len(logits), line.intercept)
    for m, slope in enumerate(line.slopes):  # column by column: the same bits in any batch
        total += slope * np.clip(logits[:, m], -LOGIT_MAX, LOGIT_MAX)
    return total


def _fit_line(logits: Float64s, labels: Float64s) -> Line:
    """Fit intercept and slopes; a model whose slope would be negative is left out (slope 0)."""
    if not 0 < labels.sum() < labels.size:
        raise CalibrationError(
            f"{int(labels.sum())} of {labels.size} labels are positive; both classes are needed to calibrate"
        )
    slopes = np.zeros(logits.shape[1])
    used = list(range(logits.shape[1]))
    while True:
        design = np.column_stack([np.ones(len(logits)), np.clip(logits[:, used], -LOGIT_MAX, LOGIT_MAX)])
        weights = _newton(design, labels)
        if not used or weights[1:].min() >= 0:
            break
        used.pop(int(weights[1:].argmin()))
    slopes[used] = weights[1:]
    return Line(float(weights[0]), tuple(slopes.tolist()))


def _newton(design: Float64s, labels: Float64s) -> Float64s:
    penalty = np.full(design.shape[1], RIDGE)
    penalty[0] = 0.0
    share = labels.mean()
    weights = np.zeros(design.shape[1])
    weights[0] = np.log(share / (1 - share))

    def loss(w: Float64s) -> float:
        logit = design @ w
        return float((np.logaddexp(0, logit) - labels * logit).sum() + (penalty * w * w).sum() / 2)

    now = loss(weights)
    for _ in range(ROUNDS_MAX):
        p = sigmoid(design @ weights)
        gradient = design.T @ (p - labels) + penalty * weights
        curvature = (design * (p * (1 - p))[:, None]).T @ design + np.diag(penalty + 1e-12)
        step = np.linalg.solve(curvature, gradient)
        size = 1.0
        while (after := loss(weights - size * step)) > now and size > 1e-6:  # Newton may overshoot far from the end
            size /= 2
        if after > now:
            break
        weights = weights - size * step
        if now - after <= 1e-12 * max(1.0, now):
            break
        now = after
    return weights


# Made once, here: msgspec crashes if two threads meet a type for the first time at once.
_DECODERS: dict[type, msgspec.json.Decoder] = {kind: msgspec.json.Decoder(kind) for kind in (Blend, Isotonic)}


def _decoded(data: bytes, kind: type[_T]) -> _T:
    try:
        return _DECODERS[kind].decode(data)
    except msgspec.DecodeError as cause:
        raise CalibrationError(f"this is no {kind.__name__.lower()} calibration: {cause}") from cause
