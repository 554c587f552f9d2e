"""Why a score is what it is: the features that moved it most, in words.

The method is *both-ends occlusion*. What a feature did to a score is the mean of two differences: what the event's
score loses when the feature is set to its typical value, and what a typical event's score gains when the feature is
set to this event's value. That takes two model rows per event and feature that is not typical already, in one batch.

It equals the exact Shapley value for every model whose features act alone or in pairs; what three or more do together
is shared out differently (one half of it each, instead of a third or less). `exact_shifts` is the slow exact twin. On
random networks whose ten features act all together, 84 % of the three largest shifts are the same
and the rank correlation is 0.96 (tests/models/test_reasons.py).

Source: Shapley 1953; Lundberg, Lee, "A unified approach to interpreting model predictions", NeurIPS 2017 (equation 4);
the two ends are the first and last marginal contributions of its sum.
"""

from collections.abc import Callable, Sequence
from math import comb

import msgspec
import numpy as np
from numpy.typing import NDArray

from models.features import FeatureSpec

Float64s = NDArray[np.float64]
ScoreMany = Callable[[Float64s], Float64s]

ROWS_MAX = 4096  # model rows asked for at once
EXACT_MAX = 16  # features beyond which 2**f model rows are too many


class ReasonError(ValueError):
    """What to explain does not fit; the message says how."""


class Reason(msgspec.Struct, frozen=True):
    """What one feature did to one score.

    Attributes:
        feature: its name.
        value: in this event; NaN is unknown.
        typical: the value it is compared with.
        shift: how much it moved the score, in the unit of the model's answer (logits); above zero raises it.
        kind: "number" or "category", whose values are hashes and not shown.
    """

    feature: str
    value: float
    typical: float
    shift: float
    kind: str = "number"


def typical_row(features: Float64s, specs: Sequence[FeatureSpec]) -> Float64s:
    """Return the (f,) typical values of (n, f) training data: median, commonest category, NaN if mostly unknown."""
    typical = np.full(len(specs), np.nan)
    for j, spec in enumerate(specs):
        known = features[np.isfinite(features[:, j]), j]
        if 2 * known.size <= len(features):
            continue
        if spec.kind == "category":
            values, counts = np.unique(known, return_counts=True)
            typical[j] = values[counts.argmax()]
        else:
            typical[j] = np.median(known)
    return typical


def explain(
    score_many: ScoreMany,
    rows: Float64s,
    baseline: Float64s,
    specs: Sequence[FeatureSpec],
    top: int = 3,
    groups: Sequence[Sequence[int]] | None = None,
) -> list[list[Reason]]:
    """Find the features that moved each event's score most.

    Args:
        score_many: (m, f) rows to (m,) scores, best as logits; called with at most ROWS_MAX rows, or one event's.
        rows: (n, f) float64, the events to explain.
        baseline: (f,) typical values, see `typical_row`.
        specs: f features.
        top: how many reasons per event at most.
        groups: columns that are set together (a feature and its previous values); its first column names a group.
            Without it every column is one.

    Returns:
        Per event its reasons, the largest |shift| first; features that moved nothing are left out.
    """
    groups = _groups(rows, baseline, specs, groups)
    shifts = occlusion_shifts(score_many, rows, baseline, groups)
    firsts = [group[0] for group in groups]
    explained = []
    for row, its_shifts in zip(rows, shifts, strict=True):
        order = np.argsort(-np.abs(its_shifts), kind="stable")[:top]
        explained.append(
            [
                Reason(
                    feature=specs[firsts[g]].name,
                    value=float(row[firsts[g]]),
                    typical=float(baseline[firsts[g]]),
                    shift=float(its_shifts[g]),
                    kind=specs[firsts[g]].kind,
                )
                for g in order
                if its_shifts[g] != 0
            ]
        )
    return explained


def occlusion_shifts(
    score_many: ScoreMany, rows: Float64s, baseline: Float64s, groups: Sequence[Sequence[int]]
) -> Float64s:
    """Return the (n, g) shifts of n events and g groups of columns by both-ends occlusion."""
    shifts = np.zeros((len(rows), len(groups)))
    at_once = max(1, (ROWS_MAX - 1) // (2 * len(groups) + 1))
    for start in range(0, len(rows), at_once):
        here = rows[start : start + at_once]
        events, moved = np.nonzero(_differ(here, baseline, groups))
        count, asked = len(events), np.empty((1 + len(here) + 2 * len(events), rows.shape[1]))
        asked[0], asked[1 : 1 + len(here)] = baseline, here
        removed, added = asked[1 + len(here) :][:count], asked[1 + len(here) + count :]
        removed[:], added[:] = here[events], baseline
        for g in np.unique(moved):
            pairs, columns = np.flatnonzero(moved == g)[:, None], np.array(groups[g])
            removed[pairs, columns] = baseline[columns]
            added[pairs, columns] = here[events[pairs], columns]
        scores = np.asarray(score_many(asked), np.float64)
        of_events, ends = scores[1 : 1 + len(here)], scores[1 + len(here) :].reshape(2, count)
        shifts[start + events, moved] = (of_events[events] - ends[0] + ends[1] - scores[0]) / 2
    return shifts


def _differ(rows: Float64s, baseline: Float64s, groups: Sequence[Sequence[int]]) -> NDArray[np.bool_]:
    """Return (n, g): whether an event's group is other than typical; if not, it moved nothing, and no row is asked."""
    same = (rows == baseline) | (np.isnan(rows) & np.isnan(baseline))
    return np.column_stack([~same[:, list(group)].all(axis=1) for group in groups])


def exact_shifts(score_many: ScoreMany, row: Float64s, baseline: Float64s, groups: Sequence[Sequence[int]]) -> Float64s:
    """Return the (g,) exact Shapley values of one event, from all 2**g mixtures of it and the baseline.

    Raises:
        ReasonError: more than EXACT_MAX groups.
    """
    count = len(groups)
    if count > EXACT_MAX:
        raise ReasonError(f"{count} features would take 2**{count} model rows; give at most {EXACT_MAX} groups")
    sets = np.arange(1 << count)
    scores = np.empty(sets.size)
    for start in range(0, sets.size, ROWS_MAX):
        asked = np.repeat(baseline[None, :], len(sets[start : start + ROWS_MAX]), axis=0)
        for g, group in enumerate(groups):
            members = np.flatnonzero(sets[start : start + ROWS_MAX] >> g & 1)
            columns = np.array(group, np.int64)
            asked[np.ix_(members, columns)] = row[columns]
        scores[start : start + ROWS_MAX] = score_many(asked)
    sizes = np.array([int(s).bit_count() for s in sets])
    weights = np.array([1.0 / (count * comb(count - 1, size)) if size < count else 0.0 for size in range(count + 1)])
    shifts = np.empty(count)
    for g in range(count):
        without = sets[(sets >> g & 1) == 0]
        shifts[g] = (weights[sizes[without]] * (scores[without | 1 << g] - scores[without])).sum()
    return shifts


def in_words(reason: Reason) -> str:
    """Say a reason, for example: amount_std_1h is 912, usually 14: raises the score."""
    does = "raises" if reason.shift > 0 else "lowers"
    if reason.kind == "category":
        what = f"{reason.feature} is unknown" if np.isnan(reason.value) else f"this {reason.feature}"
        return f"{what}: {does} the score"
    return f"{reason.feature} is {_number(reason.value)}, usually {_number(reason.typical)}: {does} the score"


def _number(value: float) -> str:
    if not np.isfinite(value):
        return "unknown"
    if value == 0 or 1e-3 <= abs(value) < 1e6:
        return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return f"{value:.2e}"


def _groups(
    rows: Float64s, baseline: Float64s, specs: Sequence[FeatureSpec], groups: Sequence[Sequence[int]] | None
) -> Sequence[Sequence[int]]:
    if rows.ndim != 2 or rows.shape[1] != len(specs) or baseline.shape != (len(specs),):
        raise ReasonError(
            f"rows have shape {rows.shape} and the baseline {baseline.shape} for {len(specs)} features; "
            "give one column per feature"
        )
    if groups is None:
        return [[j] for j in range(len(specs))]
    columns = [column for group in groups for column in group]
    if len(set(columns)) != len(columns) or not all(0 <= column < len(specs) for column in columns):
        raise ReasonError(f"groups name columns {columns}; name each column from 0 to {len(specs) - 1} at most once")
    return [group for group in groups if len(group)]
