"""What a form of a network says of rows, through the runtime that serves it, and how far that is from fp32.

Judged is the network alone, calibrated as a bundle serves it when nothing else answers: beside a learner, a change of
the network would show less. Decisions are those of the whole bundle.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray

from models.calibration import Blend
from models.features import FeatureSpec
from models.ftrl import Ftrl
from models.metrics import average_precision, calibration_error, roc_auc
from models.moe_runtime import OnnxMoE
from models.onnx_outputs import CHOSEN
from models.quantize.gate import Quality
from models.quantize.graph import ROWS_AT_ONCE, run
from models.threshold import Threshold

Float64s = NDArray[np.float64]


@dataclass(frozen=True)
class Judged:
    """Rows to judge on, in log order, and others to calibrate on.

    Attributes:
        features: (n, columns) float64, NaN is null.
        labels: (n,) 0 or 1, both of them.
        calibration: (m, columns) float64; their labels are not needed.
        specs: of the columns.
        learner: what the blend has beside the network; None if nothing.
        threshold: makes decisions of the served probabilities.
    """

    features: Float64s
    labels: Float64s
    calibration: Float64s
    specs: Sequence[FeatureSpec]
    learner: Ftrl | None
    threshold: Threshold


@dataclass(frozen=True)
class Answers:
    """What a network says.

    Attributes:
        logits: (n, models of the blend) of the rows to judge on.
        calibration: (m, models of the blend) of those to calibrate on.
        chosen: (n, visits) int64, the experts that each row's tokens visit; within a token in ascending order.
        batch_difference: largest difference of a logit between batches of 1 and of 64.
    """

    logits: Float64s
    calibration: Float64s
    chosen: NDArray[np.int64]
    batch_difference: float


def ask(network: OnnxMoE, telling: onnx.ModelProto, layers: int, blend: Blend, judged: Judged) -> Answers:
    """Score rows with a network, and look into a copy of it that also tells which experts were chosen."""
    few = judged.features[:ROWS_AT_ONCE]
    alone = np.concatenate([network.logits(row[None]) for row in few])
    moe = network.logits(judged.features)
    return Answers(
        _beside(moe, judged.features, blend, judged.learner),
        _beside(network.logits(judged.calibration), judged.calibration, blend, judged.learner),
        _chosen(telling, layers, judged.features),
        float(np.abs(alone - network.logits(few)).max()),
    )


def quality(found: Answers, blend: Blend, fp32: Answers, fp32_blend: Blend, judged: Judged) -> Quality:
    """Judge a network by its answers and their calibration, beside the fp32 one."""
    probability, before = _alone(found.logits, blend), _alone(fp32.logits, fp32_blend)
    change = np.abs(probability - before)
    decided, decided_before = (
        judged.threshold.decide(its.probability(answers.logits), judged.threshold.start())[0].codes
        for its, answers in ((blend, found), (fp32_blend, fp32))
    )
    return Quality(
        auc=roc_auc(probability, judged.labels),
        average_precision=average_precision(probability, judged.labels),
        calibration_error=calibration_error(probability, judged.labels),
        dp_mean=float(change.mean()),
        dp_p99=float(np.quantile(change, 0.99)),
        dp_max=float(change.max()),
        expert_flips=float((found.chosen != fp32.chosen).any(axis=1).mean()),
        decision_flips=float((decided != decided_before).mean()),
        batch_difference=found.batch_difference,
    )


def _beside(moe: Float64s, features: Float64s, blend: Blend, learner: Ftrl | None) -> Float64s:
    by_name = {"moe": moe}
    if learner is not None:
        by_name["ftrl"] = learner.predict(features, moe)
    return np.column_stack([by_name[name] for name in blend.names])


def _alone(logits: Float64s, blend: Blend) -> Float64s:
    """Return the probabilities of the network without what answers beside it."""
    others = np.array([name != "moe" for name in blend.names])
    return blend.probability(np.where(others, np.nan, logits))


def _chosen(telling: onnx.ModelProto, layers: int, features: Float64s) -> NDArray[np.int64]:
    told = run(telling, [CHOSEN.format(layer + 1) for layer in range(layers)], features)  # each (n * tokens, k)
    return np.concatenate([np.sort(each, axis=1).reshape(len(features), -1) for each in told], axis=1)
