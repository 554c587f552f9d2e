"""What each column of a feature matrix is. Models see arrays and these, never records."""

from dataclasses import dataclass


@dataclass(frozen=True)
class FeatureSpec:
    """One column of the float64 feature matrix; NaN is null.

    Attributes:
        name: as the user wrote it.
        kind: "number", or "category" (an integer hash below 2**32, exact in float64).
        group: features of one group belong together (same key, or same channel of a sequence).
        step: k for a value of the key's k-th previous event, 0 for a feature of the event itself.
    """

    name: str
    kind: str = "number"
    group: str = ""
    step: int = 0
