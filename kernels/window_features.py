"""From stretches of rows to features: one function per aggregate, each a function of the stretch alone.

Letters: `low` and `high` are rows of the pool, the stretch is [low, high); `at` is where a column stands in a row.
"""

import math

from kernels.int128 import add_product, subtract, sum_of_squared_deviations
from kernels.parts import hot, part
from kernels.window_counts import GRID, count_of, surprise
from kernels.window_state import (
    BEGIN,
    BEST,
    C_META,
    DISTINCT,
    FROM,
    HAS_KNOWN,
    KNOWN_MAX,
    SEEN_TO,
    SURPRISE,
)

COUNT, COUNT_OF, SUM, MEAN, STD, ZSCORE, MAX, MIN, DISTINCT_OF, ENTROPY, SEEN, TOP_SHARE = range(12)
LAST, QUANTILE, EWM, SINCE_FIRST, SINCE_LAST, CHANGED, LAG, LAG_SECONDS = range(12, 20)
CODE_BITS = 0xFFFFFFFF  # a category as a feature: the low 32 bits of its hash, exact in float64
TOP_MAX = 16
MILLION = 1_000_000


@hot
def emit(
    meta, pool, count_key, count_n, columns, caches, program, params, shape,
    slot, time_ms, before, stretch, values, out, scratch, now,
):  # fmt: skip
    """Write all features of one query.

    Args:
        slot: of the key, -1 if it has no events.
        before: position after the last event before this one, in (time, order of arrival).
        stretch: (windows, 2) first and end of each window, as positions in the key's segment.
        values: (operations, inputs) of which row `now` holds this event's own values.
        out: (operations, features) float64.
    """
    for feature in range(program.shape[0]):
        operation = program[feature, 0]
        if slot < 0:
            out[now, feature] = 0.0 if operation in (COUNT, COUNT_OF, DISTINCT_OF, SEEN) else math.nan
            continue
        begin = meta[slot, BEGIN]
        window, column, scale = program[feature, 1], program[feature, 2], params[feature]
        low, high = begin + stretch[window, 0], begin + stretch[window, 1]
        source, at, weighted = 0, 0, False
        if columns.shape[0] > 0:  # a group that only counts events keeps no values
            source, at, weighted = columns[column, 0], columns[column, 1], columns[column, 2] != 0
        if shape[HAS_KNOWN] != 0 and meta[slot, KNOWN_MAX] > time_ms:
            result = total_known(pool, operation, at, scale, low, high, time_ms)
        elif operation == COUNT:
            result = float(high - low)
        elif operation <= STD:
            result = from_totals(pool, operation, at, weighted, scale, low, high)
        elif operation == ZSCORE:
            own_weight = values[now, source + 1] if weighted else 1
            result = zscore(pool, at, weighted, scale, low, begin + before, values[now, source], own_weight)
        elif operation <= MIN:
            first, sign = caches[program[feature, 3], C_META], 1 if operation == MAX else -1
            result = (
                extreme(meta, pool, slot, first, begin, at, weighted, sign, stretch[window, 0], stretch[window, 1])
                / scale
            )
        elif operation <= TOP_SHARE:
            cache = program[feature, 3]
            own = 1 if operation == SEEN and stretch[window, 0] <= before < stretch[window, 1] else 0
            result = from_counts(
                meta, pool, count_key, count_n, caches, operation, slot, cache, at, program[feature, 4],
                low, high, values[now, source], own, scratch,
            )  # fmt: skip
        elif operation == LAST:
            result = last_value(pool, at, weighted, low, high) / scale
        elif operation == QUANTILE:
            result = quantile(pool, at, weighted, low, high, program[feature, 4], scratch) / scale
        elif operation == EWM:
            result = weighted_mean(pool, at, weighted, low, high, float(program[feature, 4])) / scale
        elif operation == SINCE_FIRST:
            result = (time_ms - pool[low, 0]) / 1000.0 if high > low else math.nan
        else:
            back = program[feature, 4] if operation in (LAG, LAG_SECONDS) else 1
            row = begin + before - back
            if row < low or row >= high:
                result = math.nan
            elif operation in (SINCE_LAST, LAG_SECONDS):
                result = (time_ms - pool[row, 0]) / 1000.0
            elif operation == CHANGED:
                result = 1.0 if pool[row, at] != values[now, source] else 0.0
            elif columns[column, 4] != 0:
                result = float(pool[row, at] & CODE_BITS) if pool[row, at] != 0 else math.nan
            elif weighted and pool[row, at + 2] == 0:
                result = math.nan
            else:
                result = pool[row, at] / scale
        out[now, feature] = result


@hot
def number_of(pool, at, weighted, low, high):
    """Return how many rows of a stretch hold a value."""
    if not weighted or high <= low:
        return max(high - low, 0)
    return pool[high - 1, at + 3] + pool[high - 1, at + 2] - pool[low, at + 3]


@hot
def from_totals(pool, operation, at, weighted, scale, low, high):
    """Return count, sum, mean or standard deviation: differences of running totals."""
    number = number_of(pool, at, weighted, low, high)
    if operation == COUNT_OF:
        return float(number)
    if number <= 0:
        return math.nan
    total = pool[high - 1, at + 1] + pool[high - 1, at] - pool[low, at + 1]
    if operation == SUM:
        return total / scale
    if operation == MEAN:
        return total / (number * scale)
    return deviation(pool, at, weighted, low, high, number, total) / scale


@hot
def deviation(pool, at, weighted, low, high, number, total):
    """Return the population standard deviation, on the column's grid, of a stretch that holds `number` values."""
    squares = at + 4 if weighted else at + 2
    last, value = high - 1, pool[high - 1, at]
    below, above = subtract(pool[last, squares], pool[last, squares + 1], pool[low, squares], pool[low, squares + 1])
    below, above = add_product(below, above, value, value)
    return math.sqrt(sum_of_squared_deviations(number, total, below, above) / number)


@part
def zscore(pool, at, weighted, scale, low, high, value, weight):
    """Return how many standard deviations a value is away from the mean of the events before it."""
    number = number_of(pool, at, weighted, low, high)
    if number < 2 or weight == 0:
        return math.nan
    total = pool[high - 1, at + 1] + pool[high - 1, at] - pool[low, at + 1]
    std = deviation(pool, at, weighted, low, high, number, total)
    return (value * number - total) / number / std if std > 0.0 else math.nan  # whole numbers: nothing cancels


@part
def total_known(pool, operation, at, scale, low, high, time_ms):
    """Return count, sum or mean of the facts in a stretch that were known by a time."""
    rows, number, total = 0, 0, 0
    for row in range(low, high):
        if pool[row, 1] <= time_ms:
            rows += 1
            if operation != COUNT:
                number += pool[row, at + 2]
                total += pool[row, at]
    if operation == COUNT:
        return float(rows)
    if operation == COUNT_OF:
        return float(number)
    if number == 0:
        return math.nan
    return total / scale if operation == SUM else total / (number * scale)


@hot
def extreme(meta, pool, slot, first, begin, at, weighted, sign, low, high):
    """Return the largest (sign 1) or smallest (-1) value of a stretch of positions; NaN if it has none.

    What is new is compared with the one found last time; if that one has left, the stretch is looked through afresh.
    """
    best, start = meta[slot, first + BEST], meta[slot, first + SEEN_TO]
    if best < low or best >= start or low < meta[slot, first + FROM] or high < start:
        best, start = -1, low
    for position in range(start, high):
        row = begin + position
        if (not weighted or pool[row, at + 2] != 0) and (
            best < 0 or sign * pool[row, at] >= sign * pool[begin + best, at]
        ):
            best = position
    meta[slot, first + BEST], meta[slot, first + FROM], meta[slot, first + SEEN_TO] = best, low, high
    return float(pool[begin + best, at]) if best >= 0 else math.nan


@hot
def from_counts(
    meta, pool, count_key, count_n, caches, operation, slot, cache, at, wanted, low, high, value, own, scratch
):  # fmt: skip
    """Return what depends on how often each value stands in a stretch, whose counts are cached."""
    first, number = caches[cache, C_META], high - low
    if operation == DISTINCT_OF:
        return float(meta[slot, first + DISTINCT])
    if operation == SEEN:
        return 1.0 if count_of(count_key, count_n, slot, cache, value) > own else 0.0
    if number == 0:
        return math.nan
    if operation == ENTROPY:
        return max((surprise(number) - meta[slot, first + SURPRISE]) / (number * GRID), 0.0)
    return top_share(pool, count_key, count_n, slot, cache, at, wanted, low, high, scratch)


@part
def top_share(pool, count_key, count_n, slot, cache, at, wanted, low, high, scratch):
    """Return which part of a stretch its `wanted` most frequent values make up."""
    for rank in range(2 * wanted):  # value and count of each rank, in turns
        scratch[rank] = 0
    for row in range(low, high):
        value = pool[row, at]
        count = count_of(count_key, count_n, slot, cache, value)
        rank, known = wanted, False
        for other in range(wanted - 1, -1, -1):
            if scratch[2 * other + 1] > 0 and scratch[2 * other] == value:
                known = True
            if scratch[2 * other + 1] < count:
                rank = other
        if not known and rank < wanted:
            for word in range(2 * wanted - 1, 2 * rank + 1, -1):
                scratch[word] = scratch[word - 2]
            scratch[2 * rank], scratch[2 * rank + 1] = value, count
    total = 0
    for rank in range(wanted):
        total += scratch[2 * rank + 1]
    return total / (high - low)


@part
def last_value(pool, at, weighted, low, high):
    """Return the newest value of a stretch, NaN if it has none."""
    for row in range(high - 1, low - 1, -1):
        if not weighted or pool[row, at + 2] != 0:
            return float(pool[row, at])
    return math.nan


@part
def weighted_mean(pool, at, weighted, low, high, half_life_ms):
    """Return the mean with weights that halve with every `half_life_ms` of age, summed in (time, arrival) order.

    Age counts from the newest value, which changes no mean: from the event's own time, all weights could vanish.
    """
    total, weights, newest = 0.0, 0.0, high - 1
    while newest > low and weighted and pool[newest, at + 2] == 0:
        newest -= 1
    for row in range(low, high):
        if not weighted or pool[row, at + 2] != 0:
            weight = math.pow(2.0, (pool[row, 0] - pool[newest, 0]) / half_life_ms)
            total += weight * pool[row, at]
            weights += weight
    return total / weights if weights > 0.0 else math.nan


@part
def quantile(pool, at, weighted, low, high, millionths, scratch):
    """Return a quantile, linear between neighbours (Hyndman and Fan 1996, type 7)."""
    number = 0
    for row in range(low, high):
        if not weighted or pool[row, at + 2] != 0:
            scratch[number] = pool[row, at]
            number += 1
    if number == 0:
        return math.nan
    heap_sort(scratch, number)
    place = (number - 1) * millionths
    under, rest = place // MILLION, place % MILLION
    step = scratch[min(under + 1, number - 1)] - scratch[under]
    # step * rest does not fit 64 bits; in two parts it does, and neighbours of opposite signs cancel exactly
    fine = step % MILLION * rest
    return scratch[under] + step // MILLION * rest + fine // MILLION + fine % MILLION / 1e6


@part
def heap_sort(values, number):
    """Sort the first `number` values in place (Williams 1964): no worst case, no memory."""
    start, end = number // 2, number
    while end > 1:
        if start > 0:
            start -= 1
        else:
            end -= 1
            values[0], values[end] = values[end], values[0]
        root = start
        while 2 * root + 1 < end:
            child = 2 * root + 1
            if child + 1 < end and values[child + 1] > values[child]:
                child += 1
            if values[root] >= values[child]:
                break
            values[root], values[child] = values[child], values[root]
            root = child
