"""In which order records reach the log: late ones, very late ones, and some twice."""

import numpy as np

from ops.simulate.population import PAYMENT, Int64s, Payments
from ops.simulate.settings import HOUR_MS, SimulationSettings

_STALE_MS = (60_000, HOUR_MS)  # how late a record is that is too late


class Arrivals:
    """Puts payments into arrival order and numbers them; keeps those that have not arrived yet."""

    def __init__(self, settings: SimulationSettings, rng: np.random.Generator) -> None:
        self._settings, self._rng = settings, rng
        self._ahead = np.zeros(0, PAYMENT)  # event time not reached: campaigns and sessions that run on
        self._under_way = np.zeros(0, PAYMENT)  # happened, not arrived
        self._numbered = 0

    def take(self, made: Payments, until_ms: int) -> tuple[Payments, Payments]:
        """Take a slot's payments; return what happened and what arrived before `until_ms`.

        Returns:
            The payments that happened before `until_ms` and were not returned yet, numbered in the order in which
            they arrive, and the records that arrived before it, in arrival order, duplicates among them.
        """
        known = np.concatenate([self._ahead, made])
        has_happened = known["ts_ms"] < until_ms
        self._ahead, happened = known[~has_happened], known[has_happened]
        happened["arrive_ms"] = happened["ts_ms"] + self._delays(happened.size)
        happened = happened[np.argsort(happened["arrive_ms"], kind="stable")]
        happened["id"] = self._numbered + np.arange(happened.size)
        self._numbered += happened.size

        records = np.concatenate([self._under_way, happened, self._copies(happened)])
        has_arrived = records["arrive_ms"] < until_ms
        self._under_way, arrived = records[~has_arrived], records[has_arrived]
        return happened, arrived[np.argsort(arrived["arrive_ms"], kind="stable")]

    def rest(self) -> Payments:
        """Return the records under way at the end of the stream, in arrival order."""
        return self._under_way[np.argsort(self._under_way["arrive_ms"], kind="stable")]

    def _delays(self, events: int) -> Int64s:
        rng, settings = self._rng, self._settings
        kind = rng.random(events)
        late = rng.integers(1, settings.late_max_ms + 1, events)
        delays = np.where(kind < settings.late_share, late, 0)
        return np.where(kind >= 1 - settings.stale_share, rng.integers(*_STALE_MS, events), delays)

    def _copies(self, happened: Payments) -> Payments:
        """Send some punctual payments again, soon enough to be recognised as duplicates."""
        rng, settings = self._rng, self._settings
        again = rng.random(happened.size) < settings.duplicate_share
        copies = happened[again & (happened["arrive_ms"] - happened["ts_ms"] < settings.late_max_ms)]
        earliest = copies["arrive_ms"] - copies["ts_ms"] + 1
        copies["arrive_ms"] = copies["ts_ms"] + rng.integers(earliest, settings.late_max_ms + 1)
        return copies
