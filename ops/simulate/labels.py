"""When it becomes known which payments were fraud."""

import numpy as np
from numpy.typing import NDArray

from ops.simulate.fraud import FRIENDLY, TERMINAL
from ops.simulate.population import Payments
from ops.simulate.settings import HOUR_MS, SimulationSettings

LABEL = np.dtype([("reported_ms", "i8"), ("id", "i8"), ("is_fraud", "?")])
Labels = NDArray[np.void]  # (labels,) of LABEL

_SPREAD = 1.0  # of the logarithm of the delay of a fraud's report
_LONGEST = 24.0  # medians
_SHORTEST_MS = HOUR_MS // 4
_SLOWNESS = {TERMINAL: 1.5, FRIENDLY: 2.5}  # nobody misses the card; the owner disputes only the bill


class Reports:
    """Puts labels into the order in which they become known; keeps those that are not known yet."""

    def __init__(self, settings: SimulationSettings, rng: np.random.Generator) -> None:
        self._settings, self._rng = settings, rng
        self._waiting = np.zeros(0, LABEL)

    def take(self, happened: Payments, until_ms: int) -> Labels:
        """Take the payments that happened; return the labels that become known before `until_ms`, in order."""
        self._waiting = np.concatenate([self._waiting, self._report(happened)])
        is_known = self._waiting["reported_ms"] < until_ms
        known, self._waiting = self._waiting[is_known], self._waiting[~is_known]
        return known[np.lexsort((known["id"], known["reported_ms"]))]

    def rest(self) -> Labels:
        """Return the labels that become known after the last payment, in order."""
        return self.take(np.zeros(0, [("pattern", "i1"), ("ts_ms", "i8"), ("id", "i8")]), np.iinfo(np.int64).max)

    def _report(self, happened: Payments) -> Labels:
        rng, settings = self._rng, self._settings
        told = happened[rng.random(happened.size) >= settings.lost_label_share]
        labels = np.zeros(told.size, LABEL)
        labels["id"] = told["id"]
        labels["is_fraud"] = told["pattern"] > 0
        labels["reported_ms"] = told["ts_ms"] + round(settings.genuine_confirm_h * HOUR_MS)
        frauds = np.flatnonzero(labels["is_fraud"])
        medians = np.exp(_SPREAD * rng.standard_normal(frauds.size))
        for pattern, slowness in _SLOWNESS.items():
            medians[told["pattern"][frauds] == pattern] *= slowness
        delay_ms = np.minimum(medians, _LONGEST) * settings.fraud_report_median_h * HOUR_MS
        labels["reported_ms"][frauds] = told["ts_ms"][frauds] + np.maximum(delay_ms, _SHORTEST_MS).astype(np.int64)
        return labels
