"""What can be chosen about a simulated stream, and what came of it."""

import math
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

DAY_MS = 86_400_000
HOUR_MS = 3_600_000
MONDAY_2026_MS = 1_767_571_200_000  # 2026-01-05T00:00Z
LARGEST_TS_MS = 9_999_999_999_999  # 13 digits, which the writer counts on


class SimulationError(ValueError):
    """A setting or a path of the simulation cannot be used; the message says which and what to do."""


@dataclass(frozen=True)
class SimulationSettings:
    """The stream to make. The same settings give the same bytes (with the same version of numpy).

    Attributes:
        days: length of the stream in days of event time.
        events_per_day: payments a day, frauds included, duplicates not; it varies with the weekday around this mean.
        cards, terminals: how many there are.
        start_ms: event time of the first midnight, milliseconds since the epoch, UTC.
        seed: of all randomness.
        fraud_rate: share of payments that are fraud, averaged over the stream.
        drift: whether amounts, channels and the mix of fraud patterns shift, and a new pattern appears.
        new_pattern_at: where in the stream it appears, as a share of its length.
        late_share, late_max_ms: share of payments that arrive late, and by how much at most.
        stale_share: share that arrives a minute to an hour late: beyond any sensible lateness.
        duplicate_share: share of payments that arrive twice, both within `late_max_ms`.
        malformed_share: share whose record is broken in one of several ways.
        fraud_report_median_h: hours until half of the frauds are reported (lognormal; 24 times as long at most).
        genuine_confirm_h: hours until a genuine payment is confirmed.
        lost_label_share: share of payments about which nothing is ever said.
    """

    days: int = 14
    events_per_day: float = 14_300.0
    cards: int = 2_000
    terminals: int = 500
    start_ms: int = MONDAY_2026_MS
    seed: int = 7
    fraud_rate: float = 0.009
    drift: bool = True
    new_pattern_at: float = 0.6
    late_share: float = 0.03
    late_max_ms: int = 5_000
    stale_share: float = 0.0001
    duplicate_share: float = 0.002
    malformed_share: float = 0.0001
    fraud_report_median_h: float = 12.0
    genuine_confirm_h: float = 48.0
    lost_label_share: float = 0.005

    def __post_init__(self) -> None:
        """Check every setting; SimulationError names the first that cannot be used."""
        most_days = (LARGEST_TS_MS - self.start_ms) // DAY_MS
        bounds: dict[str, tuple[float, float]] = {
            "days": (1, most_days),
            "events_per_day": (1, 1e9),
            "cards": (1, 10_000_000),
            "terminals": (10, 1_000_000),
            "start_ms": (10**12, LARGEST_TS_MS - DAY_MS),
            "seed": (0, 2**63 - 1),
            "fraud_rate": (0, 0.2),
            "late_max_ms": (1, HOUR_MS),
            "fraud_report_median_h": (0.01, 24 * 365),
            "genuine_confirm_h": (0.01, 24 * 365),
        }
        for setting in fields(self):
            value = getattr(self, setting.name)
            least, most = bounds.get(setting.name, (0, 1))
            if not (math.isfinite(value) and least <= value <= most):
                raise SimulationError(f"{setting.name} is {value}; choose between {least:.15g} and {most:.15g}")
            if setting.type is int and value != int(value):
                raise SimulationError(f"{setting.name} is {value}; choose a whole number")

    @classmethod
    def per_second(cls, events_per_s: float, **others: Any) -> "SimulationSettings":
        """Return settings with that many payments a second of event time, the `others` by name."""
        return cls(events_per_day=events_per_s * 86_400, **others)

    @property
    def end_ms(self) -> int:
        """Return the event time before which every payment lies."""
        return self.start_ms + self.days * DAY_MS

    @property
    def events(self) -> int:
        """Return about how many payments there will be."""
        return round(self.days * self.events_per_day)


@dataclass(frozen=True)
class SimulationSummary:
    """What was written.

    Attributes:
        payments_path, labels_path: the two files.
        records: lines of the payments' file: payments + duplicates + what breaking some of them added.
        payments: distinct payments, broken records among them.
        frauds: how many of them are fraud, `by_pattern` of which pattern.
        late, stale, duplicates, malformed: records of that kind.
        labels: lines of the labels' file.
        first_ms, last_ms: smallest and largest event time; the largest `reported_at` is `last_label_ms`.
        payments_sha256, labels_sha256: of the lines (before compression), in hex.
    """

    payments_path: Path
    labels_path: Path
    records: int
    payments: int
    frauds: int
    by_pattern: dict[str, int]
    late: int
    stale: int
    duplicates: int
    malformed: int
    labels: int
    first_ms: int
    last_ms: int
    last_label_ms: int
    payments_sha256: str
    labels_sha256: str

    @property
    def fraud_rate(self) -> float:
        """Return the share of payments that are fraud, 0 without payments."""
        return self.frauds / self.payments if self.payments else 0.0
