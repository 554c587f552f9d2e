"""What must not be written is refused, each for its own reason."""

from dataclasses import replace

import pytest

from models.quantize.gate import Quality, refusals

FP32 = Quality(0.95, 0.7, 0.001, 0, 0, 0, 0, 0, 0)
NEAR = Quality(0.9495, 0.699, 0.0012, 1e-4, 1e-3, 0.1, 0.005, 0.001, 1e-6)


def test_what_is_near_enough_passes():
    assert refusals(NEAR, FP32, [], in_float=False) == ()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"expert_flips": 0.01}, "other experts in 1.00% of events"),
        ({"decision_flips": 0.012}, "other decisions in 1.20% of events"),
        ({"dp_p99": 0.01}, "|dp| p99 0.01"),
        ({"auc": 0.9485}, "AUC falls by 0.0015"),
        ({"calibration_error": 0.0016}, "calibration error rises by 0.00060"),
        ({"batch_difference": 2e-5}, "a logit depends on its batch (by 2e-05)"),
        ({"auc": float("nan")}, "AUC falls by nan"),
        ({"dp_p99": float("nan")}, "|dp| p99 nan"),
    ],
)
def test_each_limit_refuses_alone(change, reason):
    assert refusals(replace(NEAR, **change), FP32, [], in_float=False) == (reason,)


def test_more_than_experts_and_experts_in_float_are_refused_whatever_the_figures():
    assert refusals(FP32, FP32, ["router"], in_float=False) == ("more than the routed experts is quantised",)
    assert refusals(FP32, FP32, [], in_float=True) == ("its experts are not int8",)


def test_a_better_auc_is_no_reason_to_refuse():
    assert refusals(replace(NEAR, auc=0.99, calibration_error=0.0), FP32, [], in_float=False) == ()
