"""Who learns from which days and is judged on which: an evaluation that could have happened."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import UTC, datetime

import numpy as np
from numpy.typing import NDArray

from ops.training.history import NEVER_MS
from pipeline.dataset import Dataset

DAY_MS = 86_400_000


class ProtocolError(ValueError):
    """The days of an evaluation do not fit each other or the history; the message says how."""


@dataclass(frozen=True)
class Protocol:
    """The time ranges of an evaluation; training happens when the test begins, with the labels known by then.

    Attributes:
        test_start_ms, test_end_ms: events from start on and before end are scored.
        train_start_ms: events before it only fill the windows; None takes all.
        train_end_ms: events from then on are not learned from; None goes on until the test.
        exclude_compromised: leave out what an entity (card, customer) does after it is known to be compromised.
        compromised_since_ms: frauds before then do not count for that; None counts from `train_start_ms` on.

    Raises:
        ProtocolError: a range is empty, or training overlaps the test.
    """

    test_start_ms: int
    test_end_ms: int
    train_start_ms: int | None = None
    train_end_ms: int | None = None
    exclude_compromised: bool = False
    compromised_since_ms: int | None = None

    def __post_init__(self) -> None:
        """Refuse ranges that cannot be."""
        if self.test_start_ms >= self.test_end_ms:
            raise ProtocolError(f"the test is from {iso(self.test_start_ms)} to {iso(self.test_end_ms)}; swap them")
        start = self.train_start_ms if self.train_start_ms is not None else -NEVER_MS
        if self.train_end > self.test_start_ms or start >= self.train_end:
            since = iso(self.train_start_ms) if self.train_start_ms is not None else "the beginning"
            raise ProtocolError(
                f"training is from {since} to {iso(self.train_end)}, the test from {iso(self.test_start_ms)}; "
                "training ends after it starts, and not after the test starts"
            )

    @classmethod
    def after_delay(cls, train_start_ms: int, train_end_ms: int, delay_ms: int, test_days: int = 7) -> Protocol:
        """Return the handbook's protocol: train, wait until the labels are known, test without the known victims."""
        test_start_ms = train_end_ms + delay_ms
        return cls(test_start_ms, test_start_ms + test_days * DAY_MS, train_start_ms, train_end_ms, True)

    @property
    def train_end(self) -> int:
        """The event time before which training events lie."""
        return self.train_end_ms if self.train_end_ms is not None else self.test_start_ms

    def training_part(self, data: Dataset) -> Dataset:
        """Return the events that may be learned from; their labels count only if known before the test."""
        start = self.train_start_ms if self.train_start_ms is not None else -NEVER_MS
        return data.between(start, self.train_end)

    def tested(self, data: Dataset) -> NDArray[np.bool_]:
        """Tell which (events,) are judged: in the test's range, with a label, not of a known victim.

        Raises:
            ProtocolError: none is left, or only one kind of label.
        """
        chosen = (data.times_ms >= self.test_start_ms) & (data.times_ms < self.test_end_ms) & np.isfinite(data.labels)
        if self.exclude_compromised:
            since = self.compromised_since_ms if self.compromised_since_ms is not None else self.train_start_ms
            chosen &= ~known_compromised(data, since if since is not None else -NEVER_MS)
        positives = int(data.labels[chosen].sum())
        if not 0 < positives < chosen.sum():
            raise ProtocolError(
                f"{positives} of the {int(chosen.sum())} labelled events from {iso(self.test_start_ms)} to "
                f"{iso(self.test_end_ms)} are positive; give a test range with both kinds"
            )
        return chosen

    def in_words(self) -> dict[str, str | bool]:
        """Return the ranges as ISO times, for a report."""
        return {
            name.removesuffix("_ms"): value if isinstance(value, bool) else iso(value)
            for name, value in asdict(self).items()
            if value is not None
        }


def known_compromised(data: Dataset, since_ms: int) -> NDArray[np.bool_]:
    """Tell which (events,) are of an entity with a fraud from `since_ms` on that was known before that day began.

    Days are UTC's. Source: Le Borgne et al., Fraud Detection Handbook, chapter 3.4 (`get_train_test_set`).
    """
    _, entity = np.unique(data.entities, return_inverse=True)
    frauds = (data.labels == 1) & (data.times_ms >= since_ms) & (data.entities != 0)
    known_ms = np.full(entity.max(initial=-1) + 1, NEVER_MS)
    np.minimum.at(known_ms, entity[frauds], data.known_ms[frauds])
    found: NDArray[np.bool_] = known_ms[entity] <= data.times_ms // DAY_MS * DAY_MS
    return found


def iso(time_ms: int) -> str:
    """Write a time in UTC, for example 2018-08-08T00:00:00Z; one that no calendar has as its milliseconds."""
    try:
        return datetime.fromtimestamp(time_ms / 1000, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    except (ValueError, OverflowError, OSError):
        return f"{time_ms} ms"
