"""The gate that a quantised network passes before it is written: routing, probabilities and ranking stay."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

ROWS_MIN = 1_000  # a share of 1 % or a 99th percentile of fewer says little


@dataclass(frozen=True)
class Limits:
    """What a variant may change, on rows that were not used to make it.

    Attributes:
        flips_below: share of rows in which an expert, or the decision, is another one.
        dp_p99_below: 99th percentile of the difference of a probability.
        auc_drop_max: area under the ROC curve below that of fp32.
        calibration_rise_max: expected calibration error above that of fp32.
        batch_difference_max: largest difference of a logit between batches of 1 and of 64.
    """

    flips_below: float = 0.01
    dp_p99_below: float = 0.01
    auc_drop_max: float = 0.001
    calibration_rise_max: float = 0.0005
    batch_difference_max: float = 1e-5


@dataclass(frozen=True)
class Quality:
    """How a network scores, and how far from the fp32 one.

    Attributes:
        auc, average_precision, calibration_error: of the network alone, calibrated.
        dp_mean, dp_p99, dp_max: absolute difference of its probabilities to fp32.
        expert_flips: share of rows in which any token, in any layer, visits another set of experts.
        decision_flips: share of rows in which the whole bundle decides otherwise.
        batch_difference: largest difference of a logit between batches of 1 and of 64.
    """

    auc: float
    average_precision: float
    calibration_error: float
    dp_mean: float
    dp_p99: float
    dp_max: float
    expert_flips: float
    decision_flips: float
    batch_difference: float


def refusals(
    found: Quality, fp32: Quality, differing: Sequence[str], in_float: bool, limits: Limits | None = None
) -> tuple[str, ...]:
    """Return why a variant must not be written; nothing if it may be.

    Args:
        found: of the variant.
        fp32: of the network as it was trained, on the same rows.
        differing: its arrays besides those of routed experts that are not as they were trained.
        in_float: whether its experts are floating-point numbers still.
        limits: what may change.
    """
    limits = limits or Limits()
    checks = (
        (differing, "more than the routed experts is quantised"),
        (in_float, "its experts are not int8"),
        (
            not found.batch_difference <= limits.batch_difference_max,
            f"a logit depends on its batch (by {found.batch_difference:.1g})",
        ),
        (not found.expert_flips < limits.flips_below, f"other experts in {found.expert_flips:.2%} of events"),
        (not found.decision_flips < limits.flips_below, f"other decisions in {found.decision_flips:.2%} of events"),
        (not found.dp_p99 < limits.dp_p99_below, f"|dp| p99 {found.dp_p99:.1g}"),
        (not fp32.auc - found.auc <= limits.auc_drop_max, f"AUC falls by {fp32.auc - found.auc:.4f}"),
        (
            not found.calibration_error - fp32.calibration_error <= limits.calibration_rise_max,
            f"calibration error rises by {found.calibration_error - fp32.calibration_error:.5f}",
        ),
    )
    return tuple(reason for failed, reason in checks if failed)  # NaN fails: no comparison with it holds


def in_words(limits: Limits | None = None) -> str:
    """Say what the gate asks for."""
    limits = limits or Limits()
    return (
        f"routed experts alone in int8, other experts or decisions in less than {limits.flips_below:.0%} of events,\n"
        f"|dp| p99 below {limits.dp_p99_below}, AUC at most {limits.auc_drop_max} lower, calibration error at most "
        f"{limits.calibration_rise_max} higher,\na score that is the same in any batch"
    )
