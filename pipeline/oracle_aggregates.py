"""Every aggregate by its definition, on plain lists: exact fractions where the definition is exact.

The slow twins of `kernels.window_features`. `units` are whole numbers of 10**-decimals, None for null, in (time, order
of arrival); `scale` is 10**decimals. None stands for null in results too.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Sequence
from fractions import Fraction
from operator import mul

Units = Sequence[int | None]
MILLION = 1_000_000


def there(units: Units) -> list[int]:
    """Return the values that are not null."""
    return [each for each in units if each is not None]


def total(units: Units, scale: int) -> float | None:
    """Sum."""
    known = there(units)
    return float(Fraction(sum(known), scale)) if known else None


def mean(units: Units, scale: int) -> float | None:
    """Mean; of truth values it is the rate."""
    known = there(units)
    return float(Fraction(sum(known), len(known) * scale)) if known else None


def variance(known: Sequence[int]) -> Fraction:
    """Population variance of at least one value, in squared units."""
    squares = sum(map(mul, known, known))
    return Fraction(len(known) * squares - sum(known) ** 2, len(known) ** 2)


def std(units: Units, scale: int) -> float | None:
    """Population standard deviation."""
    known = there(units)
    return math.sqrt(variance(known)) / scale if known else None


def zscore(before: Units, own: int | None) -> float | None:
    """How many standard deviations the own value is from the mean of those before it."""
    known = there(before)
    if own is None or len(known) < 2 or (spread := variance(known)) == 0:
        return None
    return float(own - Fraction(sum(known), len(known))) / math.sqrt(spread)


def extreme(units: Units, scale: int, largest: bool) -> float | None:
    """Largest or smallest value."""
    known = there(units)
    return float(Fraction(max(known) if largest else min(known), scale)) if known else None


def newest(units: Units, scale: int) -> float | None:
    """Newest value that is not null."""
    known = there(units)
    return float(Fraction(known[-1], scale)) if known else None


def quantile(units: Units, scale: int, millionths: int) -> float | None:
    """Quantile, linear between neighbours (Hyndman and Fan 1996, type 7)."""
    known = sorted(there(units))
    if not known:
        return None
    place = Fraction((len(known) - 1) * millionths, MILLION)
    under = math.floor(place)
    over = min(under + 1, len(known) - 1)
    return float((known[under] + (known[over] - known[under]) * (place - under)) / scale)


def weighted_mean(units: Units, times_ms: Sequence[int], scale: int, half_life_ms: int) -> float | None:
    """Mean with weights that halve with every half life of age; whose age counts from does not matter to a mean."""
    known = [(time_ms, each) for time_ms, each in zip(times_ms, units, strict=True) if each is not None]
    if not known:
        return None
    weights = [0.5 ** ((known[-1][0] - time_ms) / half_life_ms) for time_ms, _ in known]
    weighted = math.fsum(weight * each for weight, (_, each) in zip(weights, known, strict=True))
    return weighted / math.fsum(weights) / scale


def entropy(values: Sequence[Hashable]) -> float | None:
    """Entropy of the values in bits; a null is a value like others."""
    if not values:
        return None
    shares = [count / len(values) for count in Counter(values).values()]
    return max(-math.fsum(share * math.log2(share) for share in shares), 0.0)


def top_share(values: Sequence[Hashable], k: int) -> float | None:
    """Share of the `k` most frequent values; a null is a value like others."""
    if not values:
        return None
    return sum(count for _, count in Counter(values).most_common(k)) / len(values)
