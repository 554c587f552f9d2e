"""FTRL-proximal logistic regression: sample after sample, in order. Arrays in, arrays out: no clock, no I/O.

Legend: n rows, f columns of the matrix, c columns that are used, b bins per number, s slots (weights).

One table of slots holds every weight. Column j (0 to c-1) of the used ones owns, in this order:

    0                            the constant
    1 + j                        the weight of the squashed number
    1 + c + j                    the weight of "is missing"
    1 + 2c + j*b ...             one weight per quantile bin of the number (none if b is 1)
    1 + 2c + (b > 1)*c*b ...     2**k slots shared by all categories, found by a salted hash

A number z = (x - centre) / scale enters as z / sqrt(1 + (z/20)**2): like z near 0, never beyond 20, so that one wild
value cannot take a weight with it. A value that is NaN, infinite, or no category (negative, 2**53 or more) is missing.

Source: McMahan et al., "Ad Click Prediction: a View from the Trenches", KDD 2013, algorithm 1; the smooth clip is
RealMLP's (Holzmüller, Grinsztajn, Steinwart, NeurIPS 2024).
"""

from math import exp, isfinite, sqrt

import numpy as np
from numpy.typing import NDArray

from kernels.compiled import njit

Float64s = NDArray[np.float64]
Int64s = NDArray[np.int64]

NUMBER, CATEGORY = 0, 1
INDEX, KIND, SALT = 0, 1, 2  # fields of a row of `columns`
CENTRE, SCALE, EDGES = 0, 1, 2  # fields of a row of `scaling`; edges until its end
Z, SQUARES, WEIGHT = 0, 1, 2  # fields of a row of `slots`: z and n of algorithm 1, and w that follows from them
ALPHA, BETA, L1, L2 = 0, 1, 2, 3  # fields of `rates`
CLIP = 20.0  # 3, as in the paper, hides how large a rare amount is

_GIVEN = "Array(float64, 1, 'C', True)"  # may be read-only, as arrays from Arrow's buffers are
_GIVEN_ROWS = "Array(float64, 2, 'C', True)"


def slots_needed(columns: int, bins: int, bits: int) -> int:
    """Return how many slots a table has for this many used columns, bins per number and 2**bits category slots."""
    return 1 + 2 * columns + (columns * bins if bins > 1 else 0) + (1 << bits)


@njit("int64(int64, int64)")
def _mix(value, salt):  # splitmix64's finaliser: every bit of the value reaches every bit of the slot
    x = np.uint64(value) ^ np.uint64(salt)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.int64((x ^ (x >> np.uint64(31))) >> np.uint64(1))


@njit(f"int64({_GIVEN}, float64, int64[:, ::1], float64[:, ::1], int64, int64[::1], float64[::1])")
def _encode(row, moe_logit, columns, scaling, n_slots, active, x):
    """Write the active slots of a row and what each is multiplied by; return how many there are."""
    used = columns.shape[0]
    bins = scaling.shape[1] - 1  # one more than edges
    first_bin = 1 + 2 * used
    first_category = first_bin + (used * bins if bins > 1 else 0)
    mask = n_slots - first_category - 1
    active[0], x[0], count = 0, 1.0, 1
    for j in range(used):
        index = columns[j, INDEX]
        value = moe_logit if index == row.size else row[index]
        is_category = columns[j, KIND] == CATEGORY
        if not isfinite(value) or (is_category and (value < 0.0 or value >= 9007199254740992.0)):
            active[count], x[count] = 1 + used + j, 1.0
            count += 1
        elif is_category:
            active[count], x[count] = first_category + (_mix(np.int64(value), columns[j, SALT]) & mask), 1.0
            count += 1
        else:
            z = (value - scaling[j, CENTRE]) / scaling[j, SCALE]
            z = min(max(z, -1e6), 1e6)  # its square stays finite
            active[count], x[count] = 1 + j, z / sqrt(1.0 + (z / CLIP) * (z / CLIP))
            count += 1
            if bins > 1:
                bin_ = 0
                for edge in range(EDGES, scaling.shape[1]):
                    bin_ += value >= scaling[j, edge]
                active[count], x[count] = first_bin + j * bins + bin_, 1.0
                count += 1
    return count


@njit(f"void({_GIVEN_ROWS}, {_GIVEN}, int64[:, ::1], float64[:, ::1], float64[:, ::1], float64[::1])")
def _predict_many(features, moe_logits, columns, scaling, slots, logits):
    active = np.empty(2 * columns.shape[0] + 1, np.int64)
    x = np.empty(active.size)
    for i in range(features.shape[0]):
        count = _encode(features[i], moe_logits[i], columns, scaling, slots.shape[0], active, x)
        logit = 0.0
        for k in range(count):
            logit += slots[active[k], WEIGHT] * x[k]
        logits[i] = logit


@njit(
    f"void({_GIVEN_ROWS}, {_GIVEN}, {_GIVEN}, int64[:, ::1], float64[:, ::1], float64[::1], float64[:, ::1], "
    "float64[::1])"
)
def _learn_many(features, moe_logits, labels, columns, scaling, rates, slots, logits):
    active = np.empty(2 * columns.shape[0] + 1, np.int64)
    x = np.empty(active.size)
    per_alpha = 1.0 / rates[ALPHA]
    for i in range(features.shape[0]):
        count = _encode(features[i], moe_logits[i], columns, scaling, slots.shape[0], active, x)
        logit = 0.0
        for k in range(count):
            logit += slots[active[k], WEIGHT] * x[k]
        logits[i] = logit
        if not isfinite(labels[i]):  # not known: nothing to learn
            continue
        error = 1.0 / (1.0 + exp(-min(max(logit, -35.0), 35.0))) - labels[i]
        for k in range(count):
            slot = active[k]
            gradient = error * x[k]
            before = sqrt(slots[slot, SQUARES])
            squares = slots[slot, SQUARES] + gradient * gradient
            after = sqrt(squares)
            z = slots[slot, Z] + gradient - (after - before) * per_alpha * slots[slot, WEIGHT]
            l1 = 0.0 if slot == 0 else rates[L1]  # the constant is never pulled to zero
            slots[slot, Z] = z
            slots[slot, SQUARES] = squares
            if abs(z) <= l1:
                slots[slot, WEIGHT] = 0.0
            else:
                slots[slot, WEIGHT] = ((l1 if z > 0.0 else -l1) - z) / ((rates[BETA] + after) * per_alpha + rates[L2])


def predict_many(
    features: Float64s, moe_logits: Float64s, columns: Int64s, scaling: Float64s, slots: Float64s
) -> Float64s:
    """Score rows without learning.

    Args:
        features: (n, f) float64, C-contiguous; NaN and infinite values are missing.
        moe_logits: (n,) float64, the value of a column whose index is f; not read otherwise.
        columns: (c, 3) int64: index in `features` (f is the MoE's logit), NUMBER or CATEGORY, salt of the hash.
        scaling: (c, 2 + b - 1) float64: centre, scale (above zero), then b - 1 rising bin edges, padded with inf.
        slots: (s, 3) float64 as `slots_needed` says, read only.

    Returns:
        (n,) float64 logits, always finite.

    Raises:
        ValueError: a shape does not fit the others.
    """
    _check(features, moe_logits, columns, scaling, slots)
    logits = np.empty(len(features))
    _predict_many(features, moe_logits, columns, scaling, slots, logits)
    return logits


def learn_many(
    features: Float64s,
    moe_logits: Float64s,
    labels: Float64s,
    columns: Int64s,
    scaling: Float64s,
    rates: Float64s,
    slots: Float64s,
) -> Float64s:
    """Score each row, then learn from it, in order (progressive validation).

    All gradients of a row come from the prediction before it; where two categories of a row share a slot it is
    updated twice, one after the other.

    Args:
        features: as for `predict_many`, and so are moe_logits, columns, scaling.
        moe_logits: see there.
        labels: (n,) float64 in [0, 1]; a row whose label is NaN is scored only.
        columns: see there.
        scaling: see there.
        rates: (4,) float64: alpha and beta of the step size, l1, l2.
        slots: (s, 3) float64, changed in place.

    Returns:
        (n,) float64 logits, each from before its row was learned.

    Raises:
        ValueError: a shape does not fit the others, or a label is outside [0, 1] (nothing has been learned then).
    """
    _check(features, moe_logits, columns, scaling, slots)
    if labels.shape != moe_logits.shape:
        raise ValueError(f"labels has shape {labels.shape} for {len(features)} rows; give one label per row")
    wrong = np.flatnonzero((labels < 0) | (labels > 1))
    if wrong.size:
        raise ValueError(f"labels[{wrong[0]}] is {labels[wrong[0]]}; labels are 0, 1, between, or NaN for not known")
    logits = np.empty(len(features))
    _learn_many(features, moe_logits, labels, columns, scaling, rates, slots, logits)
    return logits


def _check(features: Float64s, moe_logits: Float64s, columns: Int64s, scaling: Float64s, slots: Float64s) -> None:
    if moe_logits.shape != features.shape[:1]:
        raise ValueError(f"moe_logits has shape {moe_logits.shape} for {len(features)} rows; give one per row")
    if len(scaling) != len(columns):
        raise ValueError(f"scaling has {len(scaling)} rows for {len(columns)} columns; give one row per column")
    if len(columns) and not 0 <= columns[:, INDEX].min() <= columns[:, INDEX].max() <= features.shape[1]:
        raise ValueError(f"a column's index is outside 0 to {features.shape[1]}, the columns of features")
    shared = len(slots) - slots_needed(len(columns), scaling.shape[1] - 1, 0) + 1
    if shared < 1 or shared & (shared - 1):
        raise ValueError(f"{len(slots)} slots leave {shared} for categories; that number must be a power of two")
