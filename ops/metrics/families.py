"""Counters, gauges and histograms that take whole batches at once; prometheus-client writes them out.

Its own histogram observes one value at a time. Here a batch is one `bincount`, so metrics cost nothing per event.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.utils import floatToGoString

Labels = tuple[str, ...]


class Counter:
    """Sums that only grow, one for each combination of labels. Names end in `_total`."""

    def __init__(self, name: str, about: str, labels: Sequence[str]) -> None:
        self._name, self._about, self._labels = name, about, list(labels)
        self._sums: dict[Labels, float] = {}

    def add(self, labels: Labels, amount: float = 1) -> None:
        """Add an amount, zero included: a counter that is there from the start shows its first event as a rise."""
        self._sums[labels] = self._sums.get(labels, 0) + amount

    def family(self) -> CounterMetricFamily:
        """Return what prometheus-client writes out."""
        family = CounterMetricFamily(self._name, self._about, labels=self._labels)
        for labels, total in self._sums.items():
            family.add_metric(labels, total)
        return family


class Gauge:
    """The last value set, one for each combination of labels."""

    def __init__(self, name: str, about: str, labels: Sequence[str]) -> None:
        self._name, self._about, self._labels = name, about, list(labels)
        self._values: dict[Labels, float] = {}

    def set(self, labels: Labels, value: float) -> None:
        """Set a value."""
        self._values[labels] = value

    def forget(self, start: Labels) -> None:
        """Drop all values whose labels start like this: they are somebody else's now."""
        self._values = {labels: value for labels, value in self._values.items() if labels[: len(start)] != start}

    def family(self) -> GaugeMetricFamily:
        """Return what prometheus-client writes out."""
        family = GaugeMetricFamily(self._name, self._about, labels=self._labels)
        for labels, value in self._values.items():
            family.add_metric(labels, value)
        return family


class Histogram:
    """How values are spread over buckets, one histogram for each combination of labels.

    Args:
        name: ends in its unit, `_seconds`.
        bounds: upper bounds of the buckets, rising, each included in its bucket; +Inf is added.
    """

    def __init__(self, name: str, about: str, labels: Sequence[str], bounds: Sequence[float]) -> None:
        self._name, self._about, self._labels = name, about, list(labels)
        self._bounds = np.array(bounds, np.float64)
        self._limits = tuple(bounds)
        self._ends = [floatToGoString(bound) for bound in (*bounds, float("inf"))]
        self._counts: dict[Labels, NDArray[np.int64]] = {}
        self._sums: dict[Labels, float] = {}

    def add(self, labels: Labels, value: float, times: int = 1) -> None:
        """Count one value, as if it had been observed that many times."""
        self._of(labels)[bisect_left(self._limits, value)] += times
        self._sums[labels] += value * times

    def add_many(self, labels: Labels, values: NDArray[np.float64]) -> None:
        """Count (values,) float64, one time each."""
        places = np.searchsorted(self._bounds, values, side="left")
        counts = self._of(labels)
        counts += np.bincount(places, minlength=counts.size)
        self._sums[labels] += float(values.sum())

    def _of(self, labels: Labels) -> NDArray[np.int64]:
        counts = self._counts.get(labels)
        if counts is None:
            counts = self._counts[labels] = np.zeros(len(self._ends), np.int64)
            self._sums[labels] = 0.0
        return counts

    def family(self) -> HistogramMetricFamily:
        """Return what prometheus-client writes out."""
        family = HistogramMetricFamily(self._name, self._about, labels=self._labels)
        for labels, counts in self._counts.items():
            upto = accumulate(counts.tolist())
            family.add_metric(labels, list(zip(self._ends, upto, strict=True)), self._sums[labels])
        return family
