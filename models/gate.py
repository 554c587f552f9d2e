"""The gate that a learner's snapshot passes before it may serve."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from models.calibration import sigmoid
from models.metrics import calibration_error, log_losses

Float64s = NDArray[np.float64]


class Predicts(Protocol):
    """Anything that scores a feature matrix."""

    def predict(self, features: Float64s, moe_logits: Float64s | None = None) -> Float64s:
        """Score (n, f) features, with (n,) MoE logits or NaN where it did not run; return (n,) logits."""

    def is_finite(self) -> bool:
        """Tell whether every weight is finite."""


@dataclass(frozen=True)
class GateLimits:
    """What a candidate may do on held-back labels.

    Attributes:
        labels_min: fewer held-back labels than this prove nothing.
        positives_min: nor do fewer positives.
        calibration_error_max: expected calibration error, a probability.
        bias_max: predicted minus seen positives, as a share of those seen, beyond what chance explains.
        worse_max: mean log loss above the serving model's, as a share of it, beyond what chance explains.
        mean_step_max: mean change of an event's logit against the serving model.
        large_step_max: change of an event's logit that only one in a hundred may exceed.
    """

    labels_min: int = 200
    positives_min: int = 5
    calibration_error_max: float = 0.05
    bias_max: float = 0.2
    worse_max: float = 0.01
    mean_step_max: float = 1.0
    large_step_max: float = 4.0


@dataclass(frozen=True)
class Verdict:
    """Whether a candidate may serve, why not (or that all is well) in words, and what was measured."""

    accepted: bool
    reasons: tuple[str, ...]
    measured: dict[str, float | None]


def gate(
    candidate: Predicts,
    serving: Predicts | None,
    features: Float64s,
    labels: NDArray[np.generic],
    moe_logits: Float64s | None = None,
    limits: GateLimits | None = None,
) -> Verdict:
    """Judge a candidate by held-back labels: finite, calibrated, not worse than what serves, and no leap from it.

    Chance is allowed for: four standard errors for the bias, two for the difference of log losses, event by event.

    Args:
        candidate: the learner that wants to serve.
        serving: the one that serves, None if there is none yet.
        features: (n, f) of events that the candidate never learned.
        labels: (n,) 0 or 1.
        moe_logits: (n,), NaN where the MoE did not run.
        limits: what is allowed.
    """
    limits = limits or GateLimits()
    known = np.asarray(labels, np.float64)
    positives = int(known.sum())
    measured: dict[str, float | None] = {"labels": float(known.size), "positives": float(positives)}
    logits = candidate.predict(features, moe_logits)
    if not candidate.is_finite() or not np.isfinite(logits).all():
        return Verdict(False, ("it holds or gives numbers that are not finite",), measured)
    if known.size < limits.labels_min or positives < limits.positives_min:
        few = (
            f"{known.size} held-back labels with {positives} positives prove nothing; "
            f"{limits.labels_min} with {limits.positives_min} are needed"
        )
        return Verdict(False, (few,), measured)
    reasons = _calibrated(logits, known, limits, measured)
    if serving is not None:
        reasons += _compared(logits, serving.predict(features, moe_logits), known, limits, measured)
    if reasons:
        return Verdict(False, tuple(reasons), measured)
    against = "calibrated" if serving is None else "calibrated, not worse than what serves, and close to it"
    return Verdict(True, (f"finite and {against} on {known.size} held-back labels",), measured)


def _calibrated(logits: Float64s, labels: Float64s, limits: GateLimits, measured: dict[str, float | None]) -> list[str]:
    probabilities = sigmoid(logits)
    error = calibration_error(probabilities, labels, bins=max(1, min(15, labels.size // 100)))
    predicted, seen = float(probabilities.sum()), float(labels.sum())
    chance = 4 * float(np.sqrt((probabilities * (1 - probabilities)).sum()))
    measured["calibration_error"] = error
    measured["positives_predicted"] = predicted
    reasons = []
    if error > limits.calibration_error_max:
        reasons.append(f"its calibration error is {error:.3f}; the limit is {limits.calibration_error_max:g}")
    if abs(predicted - seen) > limits.bias_max * seen + chance:
        reasons.append(
            f"it predicts {predicted:.0f} positives where {seen:.0f} were seen; "
            f"the limit is {limits.bias_max:.0%} and what chance explains ({chance:.0f})"
        )
    return reasons


def _compared(
    logits: Float64s, before: Float64s, labels: Float64s, limits: GateLimits, measured: dict[str, float | None]
) -> list[str]:
    if not np.isfinite(before).all():
        return []  # what serves is broken: anything finite and calibrated is better
    losses, losses_before = log_losses(sigmoid(logits), labels), log_losses(sigmoid(before), labels)
    difference = losses - losses_before
    chance = 2 * float(difference.std() / np.sqrt(difference.size))
    steps = np.abs(logits - before)
    large = float(np.quantile(steps, 0.99))
    measured["log_loss"], measured["log_loss_serving"] = float(losses.mean()), float(losses_before.mean())
    measured["mean_step"], measured["large_step"] = float(steps.mean()), large
    reasons = []
    if difference.mean() > limits.worse_max * losses_before.mean() + chance:
        reasons.append(
            f"its log loss is {losses.mean():.4f}, what serves has {losses_before.mean():.4f}; "
            f"the limit is {limits.worse_max:.0%} more and what chance explains ({chance:.4f})"
        )
    if steps.mean() > limits.mean_step_max:
        reasons.append(f"it moves logits by {steps.mean():.2f} on average; the limit is {limits.mean_step_max:g}")
    if large > limits.large_step_max:
        reasons.append(
            f"it moves one logit in a hundred by {large:.2f} or more; the limit is {limits.large_step_max:g}"
        )
    return reasons
